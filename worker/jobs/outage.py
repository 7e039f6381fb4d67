"""How long a retrain waits for something that is away."""

from __future__ import annotations

import contextlib
import time
from dataclasses import dataclass
from pathlib import Path

from worker.jobs.run_state import read_state, write_state

#: For how long a retrain waits; and one whose training runs elsewhere, and is paid for; in seconds. Two outages with so
#: much time between them are two.
LIMIT_S = 24 * 3600.0
BEGUN_LIMIT_S = 7 * 24 * 3600.0
GAP_S = 3600.0


@dataclass(frozen=True)
class Outage:
    """outage.json: since when, and when last, a retrain could not go on for something that is away; seconds of the epoch."""

    since: float
    last: float


def outlasted_h(folder: Path) -> float | None:
    """Note that the retrain of a run's folder cannot go on now. None while it may wait, else the hours that it has waited."""
    path, now = folder / "outage.json", time.time()
    outage = read_state(path, Outage)
    if outage is None or now - outage.last > GAP_S:
        outage = Outage(now, now)
    waited_s = now - outage.since
    if waited_s > (BEGUN_LIMIT_S if (folder / "training.json").is_file() else LIMIT_S):
        return waited_s / 3600
    with contextlib.suppress(OSError):
        write_state(path, Outage(outage.since, now))
    return None
