"""The retrain whose training the managed route has begun: followed, then compared and promoted as any other."""

from __future__ import annotations

import logging
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from segloop.dataset import MANIFEST, read_manifest
from segloop.errors import SegloopError, SettingsError, TrainerUnavailable, TrainingError, VersionNotFound
from segloop.files import read_json
from segloop.formats import VERSION_FILE
from segloop.queue import OUTAGES, JobTimeout, Parked, remember, route_reason, take_up
from segloop.settings import Settings
from segloop.trainers.base import Run
from worker.jobs.context import JobContext, project_id_of
from worker.jobs.retrain import conclude, prune, run_folder, supervised
from worker.jobs.snapshot import take_comparison
from worker.jobs.train import train

if TYPE_CHECKING:
    from segloop.aws.training.route import AdoptedTraining

logger = logging.getLogger(__name__)

#: How often an adopted retrain looks whether the one that is under way has ended, in seconds.
WAIT_S: Final = 30.0
#: Trainings that began longer ago are not looked for any more.
LOOK_BACK: Final = timedelta(days=7)


def run_adopt(context: JobContext, project: str, training: AdoptedTraining, job_id: str) -> dict[str, Any]:
    """Follow a training to its end, compare its version with the champion, promote if better, tell Label Studio.

    As with `run_retrain`, a second call with the same id does only what the first did not get to. What became of the
    training is kept in the store, so that it is adopted once.

    Raises:
        Parked: the training goes on, or another retrain of the project is under way; this is to be called again.
        Those of `run_retrain`.
    """
    settings = context.settings_of(project)
    live = context.jobs.claim_retrain(project, job_id)
    if live is not None:
        message = f"{training.job} waits for the retrain {live}, which is under way."
        context.jobs.report(job_id, {"phase": "waiting", "message": message, "job": training.job})
        raise Parked(WAIT_S)
    folder = run_folder(settings, project, job_id)
    folder.mkdir(parents=True, exist_ok=True)

    def work() -> dict[str, Any]:
        outcome: dict[str, Any] = {"job": job_id}
        try:
            result = _adopt(replace(context, trainer=training), settings, project, training, job_id, folder)
        except OUTAGES:
            raise
        except (SegloopError, JobTimeout) as error:
            _remember(context, project, training, {**outcome, "error": str(error)})
            raise
        _remember(context, project, training, {**outcome, **{name: result[name] for name in ("version", "promoted")}})
        return result

    return supervised(context, settings, project, job_id, "full", work)


def take_up_missed(context: JobContext) -> list[str]:
    """Take up the trainings of the managed route that no event told of; the ids of the jobs that follow them."""
    settings = context.settings
    if not settings.sagemaker_route:
        return []
    from segloop.aws.training.route import RouteTrainings

    taken = []
    try:
        for training in RouteTrainings(settings).since(datetime.now(UTC) - LOOK_BACK):
            reason = route_reason(training.generation)
            enqueued = take_up(context.jobs, context.registry, training.project, training.job, reason)
            if enqueued is not None and not enqueued.joined:
                taken.append(enqueued.job_id)
    except (SettingsError, TrainingError, TrainerUnavailable) as error:
        logger.warning("the route %s: its trainings cannot be listed: %s", settings.sagemaker_route, error)
    return taken


def _adopt(
    context: JobContext, settings: Settings, project: str, training: AdoptedTraining, job_id: str, folder: Path
) -> dict[str, Any]:
    run = Run(job_id, folder, folder / "snapshot", None, {})
    bundle = train(context, settings, project, run, "full")
    learnt = read_manifest(bundle / MANIFEST)
    if learnt.project not in (project, str(project_id_of(project))):
        raise TrainingError(
            f"{training.job} was trained for the project {learnt.project}, an earlier one with the id of {project}: "
            "run `segloop aws connect` again."
        )
    context.jobs.report(job_id, {"phase": "snapshot", "message": "Collecting what to compare on."})
    manifest = take_comparison(context, settings, project, job_id, folder, learnt)
    prune(folder)
    run = replace(run, hyperparameters={"recipe": "full", **training.hyperparameters()})
    parent = _parent(context, project, bundle)
    result = conclude(context, settings, project, run, bundle, manifest, parent, "full")
    return {**result, "training": training.job, "learnt": learnt.tasks("train")}


def _parent(context: JobContext, project: str, bundle: Path) -> str | None:
    """The version that the training began with, if it is one of the project's."""
    parent = (read_json(bundle / VERSION_FILE) or {}).get("parent")
    try:
        return context.registry.get(project, parent).version if isinstance(parent, str) else None
    except VersionNotFound:
        return None


def _remember(context: JobContext, project: str, training: AdoptedTraining, outcome: dict[str, Any]) -> None:
    ended_at = datetime.now(UTC).isoformat(timespec="seconds")
    remember(context.registry, project, training.job, {**outcome, "ended_at": ended_at})
