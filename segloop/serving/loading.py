"""Loading of networks aside from the requests that wait for them."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Hashable
from concurrent.futures import Future, wait
from typing import Any, Final, TypeVar

from segloop.errors import Busy

Value = TypeVar("Value")

#: When to ask again for a network that takes long to be made ready, in seconds.
RETRY_AFTER_S: Final = 10


class Loads:
    """Runs each load once, in a thread of its own that goes on whoever waits for it, one after the other.

    Converting a network to another engine's form takes half a minute, and longer than a request has. Thread-safe.
    """

    def __init__(self) -> None:
        self._under_way: dict[Hashable, Future[Any]] = {}
        self._lock = threading.Lock()
        self._turn = threading.Lock()

    def get(self, key: Hashable, load: Callable[[], Value], what: str, deadline: float | None = None) -> Value:
        """What `load` returns or raises, or what another caller's load of the same key does; `what` names it.

        Raises:
            Busy: it did not end before `deadline`, of `time.monotonic`.
        """
        with self._lock:
            loading = self._under_way.get(key)
            if loading is None:
                loading = self._under_way[key] = Future()
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
            del self._under_way[key]
