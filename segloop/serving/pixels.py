"""How many pixels a process works on at once: each takes some ten bytes from its decoding to its masks."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager

from segloop.errors import DeadlinePassed


class PixelBudget:
    """Lets images through as long as they have no more than `most` pixels together; a larger one goes alone.

    First come, first served, so that a large image is not kept waiting by small ones. Thread-safe.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._taken = 0
        self._waiting: deque[object] = deque()
        self._changed = threading.Condition()

    @contextmanager
    def taken(self, pixels: int, deadline: float | None = None) -> Iterator[None]:
        """Within, an image of `pixels` pixels is under way.

        Raises:
            DeadlinePassed: `deadline`, of `time.monotonic`, came before its turn.
        """
        place = object()
        with self._changed:
            self._waiting.append(place)
            try:
                patience_s = None if deadline is None else max(0.0, deadline - time.monotonic())
                if not self._changed.wait_for(lambda: self._fits(place, pixels), patience_s):
                    raise DeadlinePassed("other large images took the time that the request had")
                self._taken += pixels
            finally:
                self._waiting.remove(place)
                self._changed.notify_all()
        try:
            yield
        finally:
            with self._changed:
                self._taken -= pixels
                self._changed.notify_all()

    def _fits(self, place: object, pixels: int) -> bool:
        return self._waiting[0] is place and (self._taken == 0 or self._taken + pixels <= self._most)
