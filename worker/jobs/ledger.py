"""The ledger of a project, kept beside its mirror."""

from __future__ import annotations

import logging
from typing import Final

from segloop.dataset import Mirror
from segloop.errors import LabelConfigError, LabelStudioError
from segloop.ledger import BlindShares, Ledger, LedgerInputs, update_ledger, write_ledger
from worker.jobs.context import JobContext, project_id_of
from worker.jobs.mirrors import open_mirror, sync_mirror

logger = logging.getLogger(__name__)

#: For how long one pass of a worker looks at annotations, in seconds: the next one goes on.
LOOK_S: Final = 20.0


def keep_ledger(context: JobContext, project: str, mirror: Mirror, limit_s: float = LOOK_S) -> Ledger | None:
    """Bring the stored ledger of a project up to date with its mirror; None where the label config cannot be used.

    Raises:
        LabelStudioError, RegistryError: one of them cannot be reached.
    """
    settings = context.settings_of(project)
    shares = BlindShares(context.registry, project)
    shares.note(settings.hidden_share)
    _fetch_missing(context, mirror)
    label_config = context.label_studio.projects.get(project_id_of(project))["label_config"]
    inputs = LedgerInputs(project, label_config, settings.image_max_pixels, shares.at, limit_s)
    try:
        ledger = update_ledger(mirror, inputs)
    except LabelConfigError as error:
        logger.warning("project %s: no ledger: %s", project, error)
        return None
    write_ledger(context.registry, project, ledger)
    return ledger


def make_ledger(context: JobContext, project: str, limit_s: float) -> Ledger | None:
    """The ledger of a project as it is now; see `keep_ledger`."""
    with open_mirror(context, project) as mirror:
        sync_mirror(context, mirror, project)
        return keep_ledger(context, project, mirror, limit_s)


def _fetch_missing(context: JobContext, mirror: Mirror) -> None:
    """Fetch the predictions that annotations began as and that did not come with them, as from a target storage."""
    for task, number in mirror.records.missing():
        try:
            prediction = context.label_studio.predictions.get(number)
        except LabelStudioError as error:
            logger.warning("task %s: prediction %s cannot be had now: %s", task, number, error)
            return
        if prediction is not None:
            with mirror.writing():
                mirror.records.keep_prediction(task, prediction)
