"""Waiting for what another thread or process does, on a machine that may stall."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

Value = TypeVar("Value")

#: Seconds after which what has not come will not come. Tests wait as long only when they fail.
PATIENCE_S = 120.0


def until(condition: Callable[[], Value], what: str = "it", patience_s: float = PATIENCE_S) -> Value:
    """The first true value of `condition`, or an AssertionError that says what was waited for."""
    deadline = time.monotonic() + patience_s
    while not (found := condition()):
        assert time.monotonic() < deadline, f"{what}: not within {patience_s:.0f} s"
        time.sleep(0.02)
    return found
