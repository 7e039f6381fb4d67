"""Finishes what others left behind: counts that make a training due, and launches that were claimed and not started."""

from __future__ import annotations

from functools import cache

from botocore.config import Config

from launching import Launches, launches
from logs import fields, get_logger

logger = get_logger("sweeping")

#: Whoever claimed a launch less than so many seconds ago may still be starting it.
LEFT_S = 120.0


class LaunchesFailed(Exception):
    """Trainings are due that cannot be started now: the function fails, so that its alarm goes off."""


def sweep(found: Launches, *, left_s: float = LEFT_S) -> int:
    """Start what is due and what was left behind; how many launches were left behind.

    Raises:
        LaunchesFailed: some cannot be started now.
    """
    left = list(found.left_behind(left_s))
    failed = sum(not found.start(launch) for launch in left)
    failed += sum(found.launch_due(project) for project in found.due())
    logger.info("swept", extra=fields(left_behind=len(left), failed=failed))
    if failed:
        raise LaunchesFailed(f"{failed} trainings were not started; the log says why")
    return len(left)


def lambda_handler(event: object, context: object) -> dict[str, int]:
    """What the schedule calls."""
    return {"left_behind": sweep(_launches())}


@cache
def _launches() -> Launches:
    return launches(Config(connect_timeout=2, read_timeout=5, retries={"mode": "standard", "total_max_attempts": 3}))
