"""What every benchmark shares: interleaved timing, medians, and one JSON line for each figure."""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable
from typing import Any


def paired_ms(ours: Callable[[], object], theirs: Callable[[], object], seconds: float = 2.0) -> tuple[float, float]:
    """Median times of two functions in milliseconds, run in turns so that a busy machine slows both.

    Each runs once unmeasured, then both in turns for about `seconds`, at least 3 and at most 200 times.
    """
    ours()
    theirs()
    taken: tuple[list[float], list[float]] = ([], [])
    deadline = time.perf_counter() + seconds
    while len(taken[0]) < 3 or (time.perf_counter() < deadline and len(taken[0]) < 200):
        for function, times in zip((ours, theirs), taken, strict=True):
            start = time.perf_counter()
            function()
            times.append((time.perf_counter() - start) * 1000)
    return statistics.median(taken[0]), statistics.median(taken[1])


def report(benchmark: str, figure: str, value: float, *, unit: str, target: float, **facts: Any) -> bool:
    """Print one figure as a JSON line; whether it meets its target.

    Args:
        unit: "times" for a ratio that shall be at least the target; any other unit, such as "ms", "MB", "of the first
            prediction" or "share", for a value that shall be at most the target. "agreement" shall be at least.
        facts: what else belongs to the figure, such as `against` and both medians.
    """
    met = value >= target if unit in ("times", "agreement") else value <= target
    line = {
        "benchmark": benchmark,
        "figure": figure,
        "value": float(f"{value:.4g}") if unit != "agreement" else round(value, 5),
        "unit": unit,
        "target": target,
        "met": met,
        **{name: float(f"{fact:.4g}") if isinstance(fact, float) else fact for name, fact in facts.items()},
    }
    print(json.dumps(line, ensure_ascii=False), flush=True)
    return met


def compare(
    benchmark: str,
    figure: str,
    ours: Callable[[], object],
    theirs: Callable[[], object],
    *,
    against: str,
    target: float,
    seconds: float = 2.0,
    **facts: Any,
) -> bool:
    """Time both in turns and report how many times faster ours is."""
    ours_ms, theirs_ms = paired_ms(ours, theirs, seconds)
    return report(
        benchmark,
        figure,
        theirs_ms / ours_ms,
        unit="times",
        target=target,
        against=against,
        ours_ms=ours_ms,
        theirs_ms=theirs_ms,
        **facts,
    )
