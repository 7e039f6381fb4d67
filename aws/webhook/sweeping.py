"""Finishes what others left behind: counts that make a training due, launches that were claimed and not started, and
launches that failed.
"""

from __future__ import annotations

import os
from functools import cache
from typing import Any

import boto3
from botocore.config import Config

from following import follow
from launching import Launches, launches
from logs import fields, get_logger

logger = get_logger("sweeping")

#: Whoever claimed a launch less than so many seconds ago may still be starting it.
LEFT_S = 120.0


class LaunchesFailed(Exception):
    """Trainings are due and do not take place: the function fails for as long, so that its alarm goes off."""


def sweep(found: Launches, *, left_s: float = LEFT_S, sagemaker: Any = None) -> int:
    """Start what is due, what was left behind and what failed; how many launches were left behind.

    Args:
        sagemaker: client of SageMaker, where it trains: what became of launches that were started is looked at first.

    Raises:
        LaunchesFailed: some failed at their last try.
    """
    if sagemaker is not None:
        follow(found, sagemaker)
    left = list(found.left_behind(left_s))
    for launch in left:
        found.start(launch)
    for project in list(found.due()):
        found.launch_due(project)
    troubled = found.troubled()
    logger.info("swept", extra=fields(left_behind=len(left), troubled=troubled))
    if troubled:
        raise LaunchesFailed(f"{troubled} trainings are due and do not take place; segloop aws status says why")
    return len(left)


def lambda_handler(event: object, context: object) -> dict[str, int]:
    """What the schedule calls."""
    return {"left_behind": sweep(_launches(), sagemaker=_sagemaker())}


_CONFIG = Config(connect_timeout=2, read_timeout=5, retries={"mode": "standard", "total_max_attempts": 3})


@cache
def _launches() -> Launches:
    return launches(_CONFIG)


@cache
def _sagemaker() -> Any:
    return boto3.client("sagemaker", config=_CONFIG) if os.environ.get("PIPELINE_NAME") else None
