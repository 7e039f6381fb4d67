"""The retrain whose training the managed route has begun: followed, then compared and promoted as any other."""

from __future__ import annotations

import logging
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final, Unpack

from segloop.dataset import MANIFEST, read_manifest
from segloop.errors import SegloopError, SettingsError, TrainerUnavailable, TrainingError, VersionNotFound
from segloop.queue import OUTAGES, Adopted, JobTimeout, Parked, remember, route_reason, take_up
from worker.jobs.context import JobContext, project_id_of
from worker.jobs.retrain import Retrain, ended_result
from worker.jobs.run_state import Candidate, RetrainResult

if TYPE_CHECKING:
    from segloop.aws.training.route import AdoptedTraining

logger = logging.getLogger(__name__)

#: How often an adopted retrain looks whether the one that is under way has ended, in seconds.
WAIT_S: Final = 30.0
#: Trainings that began longer ago are not looked for any more.
LOOK_BACK: Final = timedelta(days=7)


def run_adopt(context: JobContext, project: str, training: AdoptedTraining, job_id: str) -> RetrainResult:
    """Follow a training to its end, compare its version with the champion, promote if better, set the title in Label Studio.

    As with `run_retrain`, a second call with the same id does only what the first did not get to. What became of the
    training is kept in the store, so that it is adopted once.

    Raises:
        Parked: the training goes on, or another retrain of the project is under way; this is to be called again.
        Those of `run_retrain`.
    """
    if context.jobs.has_ended(project, job_id):
        return ended_result(context, project, job_id)
    retrain = Retrain(replace(context, trainer=training), project, job_id, context.settings_of(project))
    live = context.jobs.claim_retrain(project, job_id)
    if live is not None:
        message = f"{training.job} waits for the retrain {live}, which is under way."
        retrain.report(phase="waiting", message=message, job=training.job)
        raise Parked(WAIT_S)
    retrain.folder.mkdir(parents=True, exist_ok=True)

    def keep(**outcome: Unpack[Adopted]) -> None:
        ended_at = datetime.now(UTC).isoformat(timespec="seconds")
        kept: Adopted = {"job": job_id, **outcome, "ended_at": ended_at}
        remember(context.registry, project, training.job, kept)

    def work() -> RetrainResult:
        try:
            result = _adopt(retrain, training)
        except OUTAGES:
            raise
        except (SegloopError, JobTimeout) as error:
            keep(error=str(error))
            raise
        keep(version=result["version"], promoted=result["promoted"])
        return result

    return retrain.finish(work)


def take_up_missed(context: JobContext) -> list[str]:
    """Take up the trainings of the managed route that no event told of; the ids of the jobs that follow them."""
    settings = context.settings
    if not settings.sagemaker_route:
        return []
    from segloop.aws.training.route import route_trainings

    taken = []
    try:
        for training in route_trainings(settings, datetime.now(UTC) - LOOK_BACK):
            reason = route_reason(training.generation)
            enqueued = take_up(context.jobs, context.registry, training.project, training.job, reason)
            if enqueued is not None and not enqueued.joined:
                taken.append(enqueued.job_id)
    except (SettingsError, TrainingError, TrainerUnavailable) as error:
        logger.warning("the route %s: its trainings cannot be listed: %s", settings.sagemaker_route, error)
    return taken


def _adopt(retrain: Retrain, training: AdoptedTraining) -> RetrainResult:
    bundle = retrain.train({})
    learnt = read_manifest(bundle / MANIFEST)
    if learnt.project not in (retrain.project, str(project_id_of(retrain.project))):
        raise TrainingError(
            f"{training.job} was trained for the project {learnt.project}, an earlier one with the id of {retrain.project}: "
            "run `segloop aws connect` again."
        )
    manifest = retrain.snapshot(learnt)
    candidate = Candidate(bundle, manifest, {"recipe": "full", **training.hyperparameters()})
    result = replace(retrain, parent=_parent(retrain, candidate)).conclude(candidate)
    return {**result, "training": training.job, "learnt": learnt.tasks("train")}


def _parent(retrain: Retrain, candidate: Candidate) -> str | None:
    """The version that the training began with, if it is one of the project's."""
    parent = candidate.info().parent
    try:
        return None if parent is None else retrain.context.registry.get(retrain.project, parent).version
    except VersionNotFound:
        return None
