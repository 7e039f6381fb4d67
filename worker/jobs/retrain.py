"""The retrain: snapshot, training, comparison, promotion."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

from segloop.dataset import MANIFEST, Manifest
from segloop.errors import LabelStudioError, SegloopError, TrainingError, TrainingStopped
from segloop.files import read_json, write_json
from segloop.formats import VERSION_FILE, WEIGHTS_FILE
from segloop.policy import Recipe, should_rerun
from segloop.queue import OUTAGES, JobTimeout, Outcome
from segloop.settings import Settings
from segloop.telemetry.notes import Stage
from segloop.trainers.base import Run
from worker.jobs.context import JobContext, set_backend_title, thresholds
from worker.jobs.promote import export, judge, promote
from worker.jobs.snapshot import take_snapshot
from worker.jobs.train import train

logger = logging.getLogger(__name__)

#: The settings that a training run gets as its hyperparameters.
HYPERPARAMETERS = (
    "adapt_minutes",
    "arch",
    "weights",
    "output_stride",
    "device",
    "input_size",
    "long_side",
    "train_epochs",
    "train_min_steps",
    "train_minutes",
    "train_batch_size",
    "train_lr",
    "train_seed",
    "train_patience",
    "train_precision",
    "train_compile",
)


def run_retrain(context: JobContext, project: str, job_id: str) -> dict[str, Any]:
    """Snapshot, train, compare with the champion, promote if better, tell Label Studio.

    Everything done is on disk under the job's id or in the registry, so that a second call with the same id
    does only what the first did not get to. Afterwards one more retrain is queued, if policy wants it. A quick
    adaptation for which there is no backbone (its weights cannot be downloaded) ends without a version.

    Raises:
        Parked: the training goes on elsewhere; this is to be called again.
        TrainingError, NothingToTrain, LabelStudioError: it cannot be done, and trying again would not help.
        LabelStudioUnreachable, QueueUnavailable, RegistryError: try again later.
    """
    settings = context.settings_of(project)
    folder = run_folder(settings, project, job_id)
    recipe = _recipe(context, project, folder)
    return supervised(
        context,
        settings,
        project,
        job_id,
        recipe,
        lambda: _retrain(context, settings, project, job_id, folder, recipe),
    )


def run_folder(settings: Settings, project: str, job_id: str) -> Path:
    """The folder of a retrain, for as long as it is the project's latest."""
    return settings.data_dir.absolute() / "runs" / project / job_id


def supervised(
    context: JobContext,
    settings: Settings,
    project: str,
    job_id: str,
    recipe: Recipe,
    work: Callable[[], dict[str, Any]],
) -> dict[str, Any]:
    """Do the work of a project's live retrain; at its end, good or bad, the next is queued, if policy wants it.

    Raises:
        Those of `run_retrain`.
    """
    try:
        result = work()
    except JobTimeout as error:
        failure = TrainingError(f"The retrain took longer than job_timeout_s={settings.job_timeout_s}.")
        _fail(context, settings, project, job_id, recipe, failure)
        raise failure from error
    except OUTAGES:
        raise
    except SegloopError as error:
        _fail(context, settings, project, job_id, recipe, error)
        raise
    ended = {"phase": "done", "message": result["reason"], "version": result["version"], "promoted": result["promoted"]}
    context.jobs.report(job_id, ended)
    outcome: Outcome = "skipped" if result["version"] is None else "promoted" if result["promoted"] else "kept"
    context.jobs.counters.count_retrain(job_id, recipe, outcome, result.get("seconds"))
    _finish(context, settings, project, job_id, recipe)
    return result


def _retrain(
    context: JobContext, settings: Settings, project: str, job_id: str, folder: Path, recipe: Recipe
) -> dict[str, Any]:
    # before it began, or while it waited for something; a training that may have begun is stopped where it runs
    if context.jobs.stop_asked(project, job_id) and not (folder / "snapshot" / MANIFEST).is_file():
        context.jobs.take_changes(project, recipe)
        raise TrainingStopped("Somebody stopped the training.")
    parent = _parent(context, project, folder)
    if recipe == "quick" and parent is None and not context.has_weights(settings):
        context.jobs.take_changes(project, recipe)
        reason = (
            f"The weights {settings.weights} cannot be had and no version is served: only a full retrain can begin."
        )
        return {"version": None, "promoted": False, "recipe": recipe, "reason": reason}
    context.jobs.report(job_id, {"phase": "snapshot", "message": "Collecting annotations and images."})
    with Stage("snapshot"):
        manifest = take_snapshot(context, settings, project, job_id, folder, recipe)
    prune(folder)

    run = Run(
        id=job_id,
        folder=folder,
        snapshot=folder / "snapshot",
        champion=context.registry.bundle(project, parent, [WEIGHTS_FILE]) if parent is not None else None,
        hyperparameters={"recipe": recipe, **{name: str(getattr(settings, name)) for name in HYPERPARAMETERS}},
    )
    with Stage("training"):
        bundle = train(context, settings, project, run, recipe)
    shutil.copyfile(folder / "snapshot" / MANIFEST, bundle / MANIFEST)
    return conclude(context, settings, project, run, bundle, manifest, parent, recipe)


def conclude(
    context: JobContext,
    settings: Settings,
    project: str,
    run: Run,
    bundle: Path,
    manifest: Manifest,
    parent: str | None,
    recipe: Recipe,
) -> dict[str, Any]:
    """Compare a run's bundle with the champion on the held-out tasks of `manifest`, promote it if better, tell Label Studio.

    Args:
        parent: the version that the training began with.
    """
    job_id, folder = run.id, run.folder
    context.jobs.report(job_id, {"phase": "evaluating", "message": "Comparing with the served version."})
    with Stage("evaluating"):
        outcome = judge(context, settings, project, folder, bundle, manifest)
    context.jobs.report(job_id, {"phase": "exporting", "message": "Preparing the version for serving."})
    with Stage("exporting"):
        engines = export(context, settings, folder, bundle, recipe)
    context.jobs.report(job_id, {"phase": "promoting", "message": outcome["decision"]["reason"]})
    with Stage("promoting"):
        version, promoted = promote(context, settings, project, run, bundle, manifest, outcome, parent, engines)
    logger.info("project %s: job %s made %s: %s", project, job_id, version, outcome["decision"]["reason"])
    if promoted:
        try:
            set_backend_title(context, project, version)
        except LabelStudioError as error:
            logger.warning("project %s: the title cannot be set now, the prelabel job does it: %s", project, error)
        context.jobs.enqueue_prelabel(project, version)
    return {
        "version": version,
        "promoted": promoted,
        "recipe": recipe,
        "seconds": (read_json(bundle / VERSION_FILE).get("recipe") or {}).get("seconds"),
        "reason": outcome["decision"]["reason"],
        "metrics": outcome["metrics"],
        "champion_metrics": outcome["champion_metrics"],
        "tasks": len(manifest.items),
        "skipped": len(manifest.skipped),
    }


def _finish(context: JobContext, settings: Settings, project: str, job_id: str, recipe: Recipe) -> None:
    has_backbone = settings.weights != "none" or context.registry.champion(project) is not None
    context.jobs.finish_retrain(
        project,
        job_id,
        lambda changes, requested: should_rerun(
            changes=changes,
            thresholds=thresholds(settings),
            requested=requested,
            ended=recipe,
            has_backbone=has_backbone,
        ),
    )


def _fail(
    context: JobContext, settings: Settings, project: str, job_id: str, recipe: Recipe, error: SegloopError
) -> None:
    logger.error("project %s: job %s failed: %s", project, job_id, error)
    phase: Literal["stopped", "failed"] = "stopped" if isinstance(error, TrainingStopped) else "failed"
    context.jobs.report(job_id, {"phase": phase, "message": str(error)})
    context.jobs.counters.count_retrain(job_id, recipe, phase)
    _finish(context, settings, project, job_id, recipe)


def _recipe(context: JobContext, project: str, folder: Path) -> Recipe:
    """The recipe of the run: what was asked for when it first got here."""
    known = read_json(folder / "recipe.json")
    if known is None:
        known = {"recipe": context.jobs.recipe(project)}
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / "recipe.json", known)
    recipe: Recipe = known["recipe"]
    return recipe


def _parent(context: JobContext, project: str, folder: Path) -> str | None:
    """The version the run starts from: the champion when it first got here."""
    known = read_json(folder / "parent.json")
    if known is None:
        champion = context.registry.champion(project)
        known = {"version": champion.version if champion is not None else None}
        write_json(folder / "parent.json", known)
    version: str | None = known["version"]
    return version


def prune(folder: Path) -> None:
    """Remove the folders of the project's earlier runs: their versions are in the registry."""
    for other in folder.parent.iterdir():
        if other != folder:
            shutil.rmtree(other, ignore_errors=True)
