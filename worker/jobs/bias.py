"""By how much held-out labels favour the champion whose pre-labels they were drawn over."""

from __future__ import annotations

import logging
from typing import Final

import numpy as np

from segloop.errors import SegloopError
from segloop.ledger import Origins, origins
from segloop.metrics import unpaired_bootstrap
from segloop.policy import Compared
from segloop.versions import HeldOutBias
from worker.jobs.context import JobContext
from worker.jobs.mirrors import open_mirror

logger = logging.getLogger(__name__)

#: Held-out tasks of each kind below which nothing is stated.
LEAST_TASKS: Final = 10


def held_out_bias(context: JobContext, project: str, champion: str, compared: Compared) -> HeldOutBias | None:
    """The bias of the tasks that a champion was measured on, as far as the ledger knows how they were labelled; None where
    it was not measured. Never fails: a retrain does not need it."""
    if compared.champion_counts is None:
        return None
    try:
        with open_mirror(context, project) as mirror:
            return bias_of(compared, champion, origins(mirror))
    except SegloopError as error:
        logger.warning("project %s: the bias of held-out labels cannot be told: %s", project, error)
        return None


def bias_of(compared: Compared, champion: str, labelled: Origins) -> HeldOutBias:
    """The bias, from the champion's counts and how each task was labelled."""
    counts = compared.champion_counts
    blind = np.array([task in labelled.blind for task in compared.tasks], np.bool_)
    shown = np.array([labelled.shown.get(task) == champion for task in compared.tasks], np.bool_)
    tasks = [
        len({task for task, chosen in zip(compared.tasks, kind, strict=True) if chosen}) for kind in (blind, shown)
    ]
    if counts is None or min(tasks) < LEAST_TASKS:
        return HeldOutBias(blind=tasks[0], shown=tasks[1])
    found = unpaired_bootstrap(counts[shown], counts[blind])
    if found is None:
        return HeldOutBias(blind=tasks[0], shown=tasks[1])
    return HeldOutBias(blind=tasks[0], shown=tasks[1], difference=found.difference, low=found.low, high=found.high)
