"""What a process notes of its own work: how long stages take, what is counted, and for which request.

A note is put into memory and costs a fraction of a microsecond; without somebody to take the notes nothing is kept.
`segloop.web.metrics` gives them to Prometheus, `segloop.telemetry.tracing` makes spans of stages, `segloop.telemetry.logs` prints the request.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from contextlib import AbstractContextManager
from contextvars import ContextVar
from time import perf_counter
from types import TracebackType
from typing import Any, Final

#: The id of the request that is answered, or of the job that runs; empty outside of both.
REQUEST_ID: Final[ContextVar[str]] = ContextVar("segloop_request_id", default="")

#: One note: the key of a metric (`segloop.web.metric_table`), the values of its labels, and by how much or how long.
Note = tuple[str, tuple[str, ...], float]

#: Notes that wait to be taken, at most; beyond it the oldest are lost.
_MOST: Final = 200_000

_notes: deque[Note] | None = None
_spans: Callable[[str], AbstractContextManager[Any]] | None = None


def keep_notes() -> deque[Note]:
    """Keep what is noted from now on; what keeps it, to be emptied from the left."""
    global _notes
    if _notes is None:
        _notes = deque(maxlen=_MOST)
    return _notes


def make_spans(spans: Callable[[str], AbstractContextManager[Any]] | None) -> None:
    """Have every stage from now on enter a span that `spans(name)` makes; None: no more."""
    global _spans
    _spans = spans


def note(key: str, labels: tuple[str, ...] = (), value: float = 1.0) -> None:
    """Add to a counter, or note a duration in seconds."""
    if _notes is not None:
        _notes.append((key, labels, value))


class Stage:
    """Within it, a stage of a request or job goes on: its duration is noted, and it is a span of the trace.

    Stages: `download`, `decode`, `network` (waiting for its turn included), `inference` (one pass of the engine, perhaps of
    several images), `encode`; of a retrain `snapshot`, `training`, `evaluating`, `exporting`, `promoting`.
    """

    __slots__ = ("_began", "_name", "_span")

    def __init__(self, name: str) -> None:
        self._name = name

    def __enter__(self) -> None:
        self._span = None if _spans is None else _spans(self._name)
        if self._span is not None:
            self._span.__enter__()
        self._began = perf_counter()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if _notes is not None:
            _notes.append(("stage", (self._name,), perf_counter() - self._began))
        if self._span is not None:
            self._span.__exit__(kind, error, trace)
