"""Micro-batching: images of concurrent requests go through an engine together, one pass at a time."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from segloop.errors import DeadlinePassed
from segloop.serving.engines import Engine
from segloop.telemetry.notes import Stage

Float32 = NDArray[np.float32]

# One pass at a time in a process, whichever network it is of: passes side by side would only share the same cores
# (or GPU), and each would take longer.
_turn = threading.Condition()
_busy = False


@dataclass(eq=False)
class _Entry:
    """One image that waits for its logits."""

    image: Float32
    logits: Future[Float32] = field(default_factory=Future)


class Batcher:
    """Lets concurrent callers share an engine: the oldest images of one size go together, up to its `max_batch`.

    No thread of its own: of the callers that wait, one runs the next batch for all. An engine that takes batches
    waits up to `wait_s` for one to fill. Thread-safe; the callers bound how many may wait.
    """

    def __init__(self, engine: Engine, wait_s: float = 0.002) -> None:
        self.engine = engine
        self._wait_s = wait_s
        self._pending: list[_Entry] = []

    def logits(self, images: Sequence[Float32], deadline: float | None = None) -> list[Float32]:
        """Logits float32 (C, h', w') of each image float32 (3, h, w).

        Raises:
            DeadlinePassed: `deadline`, of `time.monotonic`, came before the images' turn.
        """
        global _busy
        entries = [_Entry(image) for image in images]
        with _turn:
            self._pending += entries
            _turn.notify_all()
        try:
            while True:
                with _turn:
                    while _busy and not _all_done(entries):
                        if not _turn.wait(_left_s(deadline)):
                            raise DeadlinePassed("the network had no time for this image before the request's deadline")
                    if _all_done(entries):
                        break
                    _left_s(deadline)
                    _busy = True
                try:
                    self._run()
                finally:
                    with _turn:
                        _busy = False
                        _turn.notify_all()
        except BaseException:
            with _turn:
                self._pending = [entry for entry in self._pending if entry not in entries]
            raise
        return [entry.logits.result() for entry in entries]

    def _run(self) -> None:
        """Run the batch whose turn it is."""
        batch = self._next()
        if not batch:
            return
        try:
            with Stage("inference"):
                logits = self.engine.logits(np.stack([entry.image for entry in batch]))
        except Exception as error:  # noqa: BLE001 - it is the callers' to handle
            for entry in batch:
                entry.logits.set_exception(error)
        else:
            for entry, one in zip(batch, logits, strict=True):
                entry.logits.set_result(one)

    def _next(self) -> list[_Entry]:
        most = self.engine.max_batch
        with _turn:
            if most > 1:
                _turn.wait_for(lambda: len(self._fitting()) >= most, self._wait_s)
            batch = self._fitting()[:most]
            self._pending = [entry for entry in self._pending if entry not in batch]
        return batch

    def _fitting(self) -> list[_Entry]:
        """The waiting images that have the size of the oldest."""
        return [entry for entry in self._pending if entry.image.shape == self._pending[0].image.shape]


class Unbatched(Batcher):
    """For an engine on another machine: concurrent callers use it side by side, an image at a time."""

    def logits(self, images: Sequence[Float32], deadline: float | None = None) -> list[Float32]:
        """As of `Batcher`; a call that has begun is not broken off at the deadline."""
        found = []
        for image in images:
            _left_s(deadline)
            with Stage("inference"):
                found.append(self.engine.logits(image[None])[0])
        return found


def _left_s(deadline: float | None) -> float | None:
    if deadline is None:
        return None
    left = deadline - time.monotonic()
    if left <= 0:
        raise DeadlinePassed("the network had no time for this image before the request's deadline")
    return left


def _all_done(entries: Sequence[_Entry]) -> bool:
    return all(entry.logits.done() for entry in entries)
