"""The training of a retrain: with this process to its end, or elsewhere while no worker waits."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from segloop.errors import TrainingError, TrainingStopped
from segloop.files import read_json, write_json
from segloop.metrics.curves import Curves
from segloop.policy import Recipe
from segloop.queue import Parked
from segloop.settings import Settings
from segloop.trainers.base import Run, RunStatus
from worker.jobs.context import JobContext

logger = logging.getLogger(__name__)

#: What progress says of a run that trains.
TRAINING: Mapping[Recipe, str] = {"full": "Training.", "quick": "Quick adaptation: training the head alone."}

#: How often a training that was killed from outside is started again within one job.
MAX_LOST = 3

#: Longest time between two looks at a training that goes on by itself, in seconds.
LONGEST_LOOK_S = 300.0


def train(context: JobContext, settings: Settings, project: str, run: Run, recipe: Recipe) -> Path:
    """Train a run; its bundle.

    Raises:
        Parked: the training goes on elsewhere; this is to be called again.
        TrainingError: it failed, was lost too often, took too long, or somebody asked for its stop.
    """
    context.jobs.report(run.id, {"phase": "training", "message": TRAINING[recipe]})
    if context.trainer.poll_later_s is None:
        return _train_here(context, project, run, recipe)
    return _train_elsewhere(context, settings, project, run, recipe, context.trainer.poll_later_s)


def _train_here(context: JobContext, project: str, run: Run, recipe: Recipe) -> Path:
    """Train with this process, to the end."""
    lost = 0
    shown: Mapping[str, Any] | None = None
    trained: Mapping[str, Any] = {}
    context.trainer.submit(run)
    try:
        while (status := context.trainer.poll(run)).state != "finished":
            lost = _go_on(context, project, run, status, lost)
            if status.progress is not None and status.progress != shown:
                shown = status.progress
                trained = shown if shown.get("phase", "training") == "training" else trained
                told = {"phase": "training", "message": TRAINING[recipe], **trained}
                if shown is not trained:
                    told["message"] = _measuring(shown)
                context.jobs.report(run.id, told, status.curves)
            time.sleep(context.poll_s)
    except BaseException:
        context.trainer.stop(run)
        raise
    return context.trainer.collect(run)


def _measuring(shown: Mapping[str, Any]) -> str:
    """What a line of progress says that is of an evaluation, whose steps are not the training's."""
    if message := shown.get("message"):
        return str(message)
    return f"Measuring on the held-out tasks: image {shown.get('step')} of {shown.get('steps')}."


def _train_elsewhere(
    context: JobContext, settings: Settings, project: str, run: Run, recipe: Recipe, poll_s: float
) -> Path:
    """Submit a run that goes on by itself, or look how it is: its bundle once it has finished.

    Nothing is stopped by an interruption: the next worker looks again.

    Raises:
        Parked: it still runs; the next look is after a tenth of the time that it has taken, at least `poll_s`.
    """
    known = read_json(run.folder / "training.json")
    if known is None:
        context.trainer.submit(run)
        known = {"submitted_at": time.time(), "lost": 0}
        write_json(run.folder / "training.json", known)
    age_s = time.time() - known["submitted_at"]
    status = context.trainer.poll(run)
    if status.state == "finished":
        return context.trainer.collect(run)
    if age_s > settings.job_timeout_s:
        context.trainer.stop(run)
        raise TrainingError(f"The training took longer than job_timeout_s={settings.job_timeout_s}.")
    lost = _go_on(context, project, run, status, known["lost"])
    seen = [*known.get("seen", []), *_seen(status)]
    write_json(run.folder / "training.json", {**known, "lost": lost, "seen": seen})
    curves = Curves()
    for point in seen:
        curves.take(point)
    progress = {"phase": "training", "message": TRAINING[recipe], **(status.progress or {})}
    context.jobs.report(run.id, progress, curves.as_dict())
    raise Parked(min(max(poll_s, age_s / 10), max(poll_s, LONGEST_LOOK_S)))


def _seen(status: RunStatus) -> Iterator[dict[str, Any]]:
    """What a look at a training elsewhere adds to its curves."""
    progress = status.progress or {}
    if "step" in progress:
        yield {"step": progress["step"], "loss": progress.get("loss"), "evaluated": progress.get("miou")}


def _go_on(context: JobContext, project: str, run: Run, status: RunStatus, lost: int) -> int:
    """Submit a lost run again; how often it was lost by now.

    Raises:
        TrainingError: it failed, was lost too often, or somebody asked for its stop.
    """
    if context.jobs.stop_asked(project, run.id):
        context.trainer.stop(run)
        raise TrainingStopped("Somebody stopped the training.")
    if status.state == "failed":
        raise TrainingError(status.reason)
    if status.state != "lost":
        return lost
    if lost >= MAX_LOST:
        raise TrainingError(f"The training was killed {lost + 1} times: {status.reason}")
    logger.warning("run %s: %s Going on from its checkpoint.", run.id, status.reason)
    context.trainer.submit(run)
    return lost + 1
