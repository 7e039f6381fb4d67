"""Time that pre-labels save: tasks with a pre-label against tasks whose pre-label was hidden at random. Pure."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from segloop.ledger.figures import Entry, winsorised

#: Blind tasks below which no time is stated.
LEAST_BLIND: Final = 20
RESAMPLES: Final = 2000


class TimeSaved(BaseModel):
    """The mean time that a pre-label saves on a task, in seconds, with the ends of its 95 % bootstrap interval; None
    where too few blind tasks are known.

    Attributes:
        share: of the time that the same annotators took for blind tasks.
        blind: annotations of blind tasks whose annotator also annotated pre-labels of the same version.
        needed: how many of them are missing.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    seconds: float | None = None
    low: float | None = None
    high: float | None = None
    share: float | None = None
    blind: int = 0
    needed: int = LEAST_BLIND


@dataclass(frozen=True)
class _Pair:
    """The times in seconds of one annotator with pre-labels of one version, and of the blind tasks of the same version."""

    shown: NDArray[np.float64]
    blind: NDArray[np.float64]


def time_saved(entries: Sequence[Entry], seed: int = 0) -> TimeSaved:
    """By how much blind tasks take longer, on average.

    Paired: within an annotator and a version, so that neither a fast annotator nor a later version is mistaken for a
    pre-label's merit; the pairs weigh as much as they have blind tasks. The bootstrap draws tasks within each side of a
    pair (percentile interval). Times are winsorised by annotator.
    """
    times = winsorised(entries)
    sides: dict[tuple[int | None, str], tuple[list[float], list[float]]] = defaultdict(lambda: ([], []))
    for entry in entries:
        if entry.kind != "scratch" and entry.annotation in times:
            sides[entry.annotator, entry.version][entry.kind == "blind"].append(times[entry.annotation])
    pairs = [_Pair(np.array(shown), np.array(blind)) for shown, blind in sides.values() if shown and blind]
    known = sum(len(pair.blind) for pair in pairs)
    if known < LEAST_BLIND:
        return TimeSaved(blind=known, needed=LEAST_BLIND - known)
    weights = np.array([len(pair.blind) for pair in pairs]) / known
    saved = float(weights @ [pair.blind.mean() - pair.shown.mean() for pair in pairs])
    blind_s = float(weights @ [pair.blind.mean() for pair in pairs])
    rng = np.random.default_rng(seed)
    drawn = weights @ np.stack([_means(pair.blind, rng) - _means(pair.shown, rng) for pair in pairs])
    low, high = np.percentile(drawn, [2.5, 97.5])
    return TimeSaved(
        seconds=saved,
        low=float(low),
        high=float(high),
        share=saved / blind_s if blind_s > 0 else None,
        blind=known,
        needed=0,
    )


def _means(times: NDArray[np.float64], rng: np.random.Generator) -> NDArray[np.float64]:
    """The means (RESAMPLES,) of resamples of times (N,)."""
    counts = rng.multinomial(len(times), np.full(len(times), 1 / len(times)), size=RESAMPLES)
    means: NDArray[np.float64] = counts @ times / len(times)
    return means
