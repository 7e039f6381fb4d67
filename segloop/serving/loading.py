"""Networks are loaded in threads of their own, so that no request has to wait to the end."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Hashable
from concurrent.futures import Future, wait
from typing import Any, Final, TypeVar

from segloop.errors import Busy

Value = TypeVar("Value")

#: When a client should ask again for a network that is being loaded, in seconds.
RETRY_AFTER_S: Final = 10


class SingleFlight:
    """Runs each load once for all callers, and one load at a time.

    A load has a thread of its own and goes on when its callers stop waiting: converting a network to another engine's
    form takes half a minute, which is longer than a request has. Thread-safe.
    """

    def __init__(self) -> None:
        self._loading: dict[Hashable, Future[Any]] = {}
        self._lock = threading.Lock()
        self._turn = threading.Lock()

    def get(self, key: Hashable, load: Callable[[], Value], what: str, deadline: float | None = None) -> Value:
        """What `load` returns or raises, or what another caller's load of the same key does; `what` names it.

        Raises:
            Busy: it did not end before `deadline`, of `time.monotonic`.
        """
        with self._lock:
            loading = self._loading.get(key)
            if loading is None:
                loading = self._loading[key] = Future()
                # A daemon, as a conversion must not hold up the end of the process.
                threading.Thread(target=self._run, args=(key, load, loading), name="loading", daemon=True).start()
        wait([loading], None if deadline is None else max(0.0, deadline - time.monotonic()))
        if not loading.done():
            raise Busy(f"{what} is being made ready; ask again in a moment.", retry_after_s=RETRY_AFTER_S)
        value: Value = loading.result()
        return value

    def _run(self, key: Hashable, load: Callable[[], Any], loading: Future[Any]) -> None:
        try:
            with self._turn:
                value = load()
        except BaseException as error:  # noqa: BLE001 - it is the callers' to handle
            self._forget(key)
            loading.set_exception(error)
        else:
            self._forget(key)
            loading.set_result(value)

    def _forget(self, key: Hashable) -> None:
        with self._lock:
            del self._loading[key]
