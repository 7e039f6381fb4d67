"""The retrain: snapshot, training, comparison, promotion."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from segloop.dataset import MANIFEST
from segloop.errors import LabelStudioError, SegloopError, TrainingError
from segloop.policy import Recipe, should_rerun
from segloop.settings import Settings
from worker.jobs.files import read_json, write_json
from worker.jobs.promotion import export, judge, promote
from worker.jobs.snapshotting import take_snapshot
from worker.jobs.training import train
from worker.jobs.workshop import WEIGHTS_FILE, Workshop, tell, thresholds
from worker.queue import OUTAGES, JobTimeout
from worker.trainers.base import Run

if TYPE_CHECKING:
    pass

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


def run_retrain(shop: Workshop, project: str, job_id: str) -> dict[str, Any]:
    """Snapshot, train, compare with the champion, promote if better, tell Label Studio.

    Everything done is on disk under the job's id or in the registry, so that a second call with the same id
    does only what the first did not get to. Afterwards one more retrain is queued, if policy wants it. A quick
    adaptation for which there is no backbone (its weights cannot be downloaded) ends without a version.

    Raises:
        Parked: the training goes on elsewhere; this is to be called again.
        TrainingError, NothingToTrain, LabelStudioError: it cannot be done, and trying again would not help.
        LabelStudioUnreachable, QueueUnavailable, RegistryError: try again later.
    """
    settings = shop.settings_of(project)
    folder = settings.data_dir.absolute() / "runs" / project / job_id
    recipe = _recipe(shop, project, folder)
    try:
        result = _retrain(shop, settings, project, job_id, folder, recipe)
    except JobTimeout as error:
        failure = TrainingError(f"The retrain took longer than job_timeout_s={settings.job_timeout_s}.")
        _fail(shop, settings, project, job_id, recipe, failure)
        raise failure from error
    except OUTAGES:
        raise
    except SegloopError as error:
        _fail(shop, settings, project, job_id, recipe, error)
        raise
    shop.jobs.report(job_id, {"phase": "done", "message": result["reason"]})
    _finish(shop, settings, project, job_id, recipe)
    return result


def _retrain(
    shop: Workshop, settings: Settings, project: str, job_id: str, folder: Path, recipe: Recipe
) -> dict[str, Any]:
    parent = _parent(shop, project, folder)
    if recipe == "quick" and parent is None and not shop.has_weights(settings):
        shop.jobs.take_changes(project, recipe)
        reason = (
            f"The weights {settings.weights} cannot be had and no version is served: only a full retrain can begin."
        )
        return {"version": None, "promoted": False, "recipe": recipe, "reason": reason}
    shop.jobs.report(job_id, {"phase": "snapshot", "message": "Collecting annotations and images."})
    manifest = take_snapshot(shop, settings, project, job_id, folder, recipe)
    _prune(folder)

    run = Run(
        id=job_id,
        folder=folder,
        snapshot=folder / "snapshot",
        champion=shop.registry.bundle(project, parent, [WEIGHTS_FILE]) if parent is not None else None,
        hyperparameters={"recipe": recipe, **{name: str(getattr(settings, name)) for name in HYPERPARAMETERS}},
    )
    bundle = train(shop, settings, project, run, recipe)
    shutil.copyfile(folder / "snapshot" / MANIFEST, bundle / MANIFEST)

    shop.jobs.report(job_id, {"phase": "evaluating", "message": "Comparing with the served version."})
    outcome = judge(shop, settings, project, folder, bundle, manifest)
    shop.jobs.report(job_id, {"phase": "exporting", "message": "Preparing the version for serving."})
    engines = export(shop, settings, folder, bundle, recipe)
    shop.jobs.report(job_id, {"phase": "promoting", "message": outcome["decision"]["reason"]})
    version, promoted = promote(shop, settings, project, run, bundle, manifest, outcome, parent, engines)
    logger.info("project %s: job %s made %s: %s", project, job_id, version, outcome["decision"]["reason"])
    if promoted:
        try:
            tell(shop, project, version)
        except LabelStudioError as error:
            logger.warning("project %s: the title cannot be set now, the prelabel job does it: %s", project, error)
        shop.jobs.enqueue_prelabel(project, version)
    return {
        "version": version,
        "promoted": promoted,
        "recipe": recipe,
        "reason": outcome["decision"]["reason"],
        "metrics": outcome["metrics"],
        "champion_metrics": outcome["champion_metrics"],
        "tasks": len(manifest.items),
        "skipped": len(manifest.skipped),
    }


def _finish(shop: Workshop, settings: Settings, project: str, job_id: str, recipe: Recipe) -> None:
    has_backbone = settings.weights != "none" or shop.registry.champion(project) is not None
    shop.jobs.finish_retrain(
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


def _fail(shop: Workshop, settings: Settings, project: str, job_id: str, recipe: Recipe, error: SegloopError) -> None:
    logger.error("project %s: job %s failed: %s", project, job_id, error)
    shop.jobs.report(job_id, {"phase": "failed", "message": str(error)})
    _finish(shop, settings, project, job_id, recipe)


def _recipe(shop: Workshop, project: str, folder: Path) -> Recipe:
    """The recipe of the run: what was asked for when it first got here."""
    known = read_json(folder / "recipe.json")
    if known is None:
        known = {"recipe": shop.jobs.recipe(project)}
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / "recipe.json", known)
    recipe: Recipe = known["recipe"]
    return recipe


def _parent(shop: Workshop, project: str, folder: Path) -> str | None:
    """The version the run starts from: the champion when it first got here."""
    known = read_json(folder / "parent.json")
    if known is None:
        champion = shop.registry.champion(project)
        known = {"version": champion.version if champion is not None else None}
        write_json(folder / "parent.json", known)
    version: str | None = known["version"]
    return version


def _prune(folder: Path) -> None:
    """Remove the folders of the project's earlier runs: their versions are in the registry."""
    for other in folder.parent.iterdir():
        if other != folder:
            shutil.rmtree(other, ignore_errors=True)
