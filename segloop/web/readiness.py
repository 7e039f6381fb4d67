"""Readiness: whether what a request needs is there, asked of each part in bounded time."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Collection, Mapping
from concurrent.futures import Future, wait
from typing import TYPE_CHECKING, Final

from segloop.errors import QueueRefusesWrites, SegloopError

if TYPE_CHECKING:
    from segloop.backend import Backend

logger = logging.getLogger(__name__)

READY: Final = "ready"
#: How long all parts together may take to answer, in seconds.
PATIENCE_S: Final = 2.0
#: How long an answer holds, in seconds: whoever may ask cannot have Redis and the store asked at will.
_HOLDS_S: Final = 1.0


class Readiness:
    """The parts of a server: `model` (what is promoted is loaded), `store` and `queue` (they answer, the
    queue takes writes). Thread-safe."""

    def __init__(self, backend: Backend) -> None:
        self._parts = {
            "model": _Part("model", backend.models.readiness),
            "store": _Part("store", lambda: _answers(backend.registry.projects)),
            "queue": _Part("queue", lambda: _answers(backend.jobs().check_writable)),
        }

    @property
    def parts(self) -> Collection[str]:
        """The names of the parts."""
        return self._parts.keys()

    def state(self, parts: Collection[str] = ()) -> Mapping[str, str]:
        """READY, or why not, of these parts, or of all; within PATIENCE_S. The text names no address and no secret."""
        asked = {name: part.ask() for name, part in self._parts.items() if not parts or name in parts}
        wait(asked.values(), PATIENCE_S)
        return {
            name: answer.result() if answer.done() else f"no answer within {PATIENCE_S:.0f} s"
            for name, answer in asked.items()
        }


class _Part:
    """One part, asked by one thread at a time."""

    def __init__(self, name: str, question: Callable[[], str]) -> None:
        self._name = name
        self._question = question
        self._lock = threading.Lock()
        self._answer: Future[str] | None = None
        self._answered_at = 0.0

    def ask(self) -> Future[str]:
        """The answer that is under way, or was given a moment ago, or a new one."""
        with self._lock:
            old = self._answer
            if old is not None and (not old.done() or time.monotonic() - self._answered_at < _HOLDS_S):
                return old
            answer: Future[str] = Future()
            self._answer = answer
        # a daemon: a store that hangs must not hold up the end of the process
        threading.Thread(target=self._find_out, args=(answer,), name=f"ready-{self._name}", daemon=True).start()
        return answer

    def _find_out(self, answer: Future[str]) -> None:
        try:
            text = self._question()
        except QueueRefusesWrites as error:
            logger.warning("not ready: %s: %s", self._name, error)
            text = "it takes no writes; the log says why"
        except SegloopError as error:
            logger.warning("not ready: %s: %s", self._name, error)
            text = "it does not answer; the log says why"
        except Exception:
            logger.exception("not ready: %s", self._name)
            text = "it cannot be asked; the log says why"
        self._answered_at = time.monotonic()
        answer.set_result(text)


def _answers(ask: Callable[[], object]) -> str:
    ask()
    return READY
