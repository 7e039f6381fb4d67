"""What another host has to know of a retrain whose training goes on elsewhere, to go on with it: it has no run's folder."""

from __future__ import annotations

import logging
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from pydantic import TypeAdapter, ValidationError

from segloop.errors import TrainerRefused, TrainerUnavailable
from worker.jobs.context import JobContext
from worker.jobs.run_state import Beginning

logger = logging.getLogger(__name__)

_FILE: Final = "retrain.json"


@dataclass(frozen=True)
class UnderWay:
    """retrain.json of a project: the job of its latest retrain that trains elsewhere, how that began, and the hash of the
    snapshot that it learns from."""

    job: str
    beginning: Beginning
    snapshot: str


def note_under_way(context: JobContext, project: str, known: UnderWay) -> None:
    """Put it into the store, where trainings go on elsewhere."""
    if context.trainer.poll_later_s is not None:
        context.registry.write_json(project, _FILE, asdict(known))


def read_under_way(context: JobContext, project: str, job: str) -> UnderWay | None:
    """What any host noted of a retrain; None before its snapshot, and where trainings go on here."""
    if context.trainer.poll_later_s is None:
        return None
    try:
        known = TypeAdapter(UnderWay | None).validate_python(context.registry.read_json(project, _FILE))
    except ValidationError:
        return None
    return known if known is not None and known.job == job else None


def fetch_snapshot(context: JobContext, known: UnderWay, folder: Path) -> bool:
    """Bring the snapshot that another host took and sent to the training; whether there is one.

    Its changes are taken and noted by then.

    Raises:
        TrainerUnavailable: it cannot be had now.
        TrainingError: it is another, or incomplete.
    """
    partial = folder.with_name("snapshot.partial")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        if not context.trainer.fetch_snapshot(known.snapshot, partial):
            return False
    except TrainerRefused as error:
        raise TrainerUnavailable(str(error)) from error
    partial.replace(folder)
    logger.info("run %s: goes on here, with the snapshot %s", known.job, known.snapshot[:12])
    return True
