"""The prediction cache: segmentations of images, and their pixels, for the next click on the same image."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Hashable
from concurrent.futures import Future
from typing import Any, Final, Protocol, TypeVar

from cachetools import LRUCache

from segloop.errors import DeadlinePassed
from segloop.telemetry.notes import note

_HIT: Final = ("prediction", "hit")
_MISS: Final = ("prediction", "miss")


class Sized(Protocol):
    """A value whose size in bytes is known: a segmentation, an array."""

    @property
    def nbytes(self) -> int: ...


Value = TypeVar("Value", bound=Sized)


class PredictionCache:
    """Segmentations by image content, version and network size, and pixels by image content; least recently used go
    first, beyond `max_bytes`.

    A caller waits for a value that another thread is computing, and does not compute it too. Thread-safe.
    """

    def __init__(self, max_bytes: int) -> None:
        self._found: LRUCache[Hashable, Any] = LRUCache(max_bytes, getsizeof=lambda found: found.nbytes)
        self._computing: dict[Hashable, Future[Any]] = {}
        self._lock = threading.Lock()

    @property
    def nbytes(self) -> int:
        """Bytes that are held now."""
        return int(self._found.currsize)

    def get(self, key: Hashable, compute: Callable[[], Value], deadline: float | None = None) -> Value:
        """The value of a key, computed unless it is there.

        Raises:
            DeadlinePassed: another thread computes it and did not end before `deadline`, of `time.monotonic`.
        """
        while True:
            with self._lock:
                kept: Value | None = self._found.get(key)
                if kept is not None:
                    note("cache", _HIT)
                    return kept
                theirs = self._computing.get(key)
                if theirs is None:
                    ours = self._computing[key] = Future()
                    break
            try:
                result: Value = theirs.result(None if deadline is None else max(0.0, deadline - time.monotonic()))
            except TimeoutError as error:
                raise DeadlinePassed("another request's computation of this image did not end in time") from error
            except DeadlinePassed:
                continue  # its own deadline, which may be earlier than ours
            note("cache", _HIT)
            return result
        note("cache", _MISS)
        try:
            found = self._compute(key, compute)
        except BaseException as error:
            ours.set_exception(error)
            raise
        ours.set_result(found)
        return found

    def _compute(self, key: Hashable, compute: Callable[[], Value]) -> Value:
        """Compute a value and keep it. After a failure the next caller computes it anew."""
        found = None
        try:
            found = compute()
        finally:
            with self._lock:
                del self._computing[key]
                if found is not None and found.nbytes <= self._found.maxsize:
                    self._found[key] = found
        return found
