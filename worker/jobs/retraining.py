"""The retrain: snapshot, training, comparison, promotion."""

from __future__ import annotations

import json
import logging
import os
import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from segloop.dataset import MANIFEST, Manifest
from segloop.errors import EngineError, LabelStudioError, SegloopError, TrainingError
from segloop.policy import Recipe, should_promote, should_rerun
from segloop.settings import Settings
from worker.jobs.snapshotting import take_snapshot
from worker.jobs.workshop import Workshop, tell, thresholds
from worker.queue import OUTAGES, JobTimeout, Parked
from worker.trainers.base import Run, RunStatus

if TYPE_CHECKING:
    from segloop.registry import Champion

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

WEIGHTS_FILE = "model.safetensors"

#: What progress says of a run that trains.
TRAINING: Mapping[Recipe, str] = {"full": "Training.", "quick": "Quick adaptation: training the head alone."}

#: How often a training that was killed from outside is started again within one job.
MAX_LOST = 3

#: Longest time between two looks at a training that goes on by itself, in seconds.
LONGEST_LOOK_S = 300.0


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
    shop.jobs.report(job_id, {"phase": "training", "message": TRAINING[recipe]})
    if shop.trainer.poll_later_s is None:
        bundle = _train(shop, project, run, recipe)
    else:
        bundle = _train_elsewhere(shop, settings, project, run, recipe, shop.trainer.poll_later_s)
    shutil.copyfile(folder / "snapshot" / MANIFEST, bundle / MANIFEST)

    shop.jobs.report(job_id, {"phase": "evaluating", "message": "Comparing with the served version."})
    outcome = _judge(shop, settings, project, folder, bundle, manifest)
    shop.jobs.report(job_id, {"phase": "exporting", "message": "Preparing the version for serving."})
    engines = _export(shop, settings, folder, bundle, recipe)
    shop.jobs.report(job_id, {"phase": "promoting", "message": outcome["decision"]["reason"]})
    version, promoted = _promote(shop, settings, project, run, bundle, manifest, outcome, parent, engines)
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


def _train(shop: Workshop, project: str, run: Run, recipe: Recipe) -> Path:
    """Train with this process, to the end."""
    lost = 0
    shown: Mapping[str, Any] | None = None
    shop.trainer.submit(run)
    try:
        while (status := shop.trainer.poll(run)).state != "finished":
            lost = _go_on(shop, project, run, status, lost)
            if status.progress is not None and status.progress != shown:
                shown = status.progress
                shop.jobs.report(run.id, {"phase": "training", "message": TRAINING[recipe], **shown})
            time.sleep(shop.poll_s)
    except BaseException:
        shop.trainer.stop(run)
        raise
    return shop.trainer.collect(run)


def _train_elsewhere(shop: Workshop, settings: Settings, project: str, run: Run, recipe: Recipe, poll_s: float) -> Path:
    """Submit a run that goes on by itself, or look how it is: its bundle once it has finished.

    Nothing is stopped by an interruption: the next worker looks again.

    Raises:
        Parked: it still runs; the next look is after a tenth of the time that it has taken, at least `poll_s`.
    """
    known = _read_json(run.folder / "training.json")
    if known is None:
        shop.trainer.submit(run)
        known = {"submitted_at": time.time(), "lost": 0}
        _write_json(run.folder / "training.json", known)
    age_s = time.time() - known["submitted_at"]
    status = shop.trainer.poll(run)
    if status.state == "finished":
        return shop.trainer.collect(run)
    if age_s > settings.job_timeout_s:
        shop.trainer.stop(run)
        raise TrainingError(f"The training took longer than job_timeout_s={settings.job_timeout_s}.")
    lost = _go_on(shop, project, run, status, known["lost"])
    _write_json(run.folder / "training.json", {**known, "lost": lost})
    shop.jobs.report(run.id, {"phase": "training", "message": TRAINING[recipe], **(status.progress or {})})
    raise Parked(min(max(poll_s, age_s / 10), max(poll_s, LONGEST_LOOK_S)))


def _go_on(shop: Workshop, project: str, run: Run, status: RunStatus, lost: int) -> int:
    """Submit a lost run again; how often it was lost by now.

    Raises:
        TrainingError: it failed, was lost too often, or somebody asked for its stop.
    """
    if shop.jobs.stop_asked(project, run.id):
        shop.trainer.stop(run)
        raise TrainingError("Somebody stopped the training.")
    if status.state == "failed":
        raise TrainingError(status.reason)
    if status.state != "lost":
        return lost
    if lost >= MAX_LOST:
        raise TrainingError(f"The training was killed {lost + 1} times: {status.reason}")
    logger.warning("run %s: %s Going on from its checkpoint.", run.id, status.reason)
    shop.trainer.submit(run)
    return lost + 1


def _judge(
    shop: Workshop, settings: Settings, project: str, folder: Path, bundle: Path, manifest: Manifest
) -> dict[str, Any]:
    """Metrics of candidate and champion on the same tasks, and the decision; kept in outcome.json."""
    champion = shop.registry.champion(project)
    outcome: dict[str, Any] = _read_json(folder / "outcome.json") or {}
    if outcome and (
        outcome["generation"] == _generation(champion)
        or (champion is not None and champion.version == outcome.get("version"))
    ):
        return outcome
    classes = tuple(manifest.classes)
    theirs, new_classes = None, frozenset[str]()
    if champion is not None:
        theirs = shop.registry.bundle(project, champion.version, [WEIGHTS_FILE])
        new_classes = frozenset(classes) - frozenset(shop.registry.get(project, champion.version).classes)
    compared = shop.compare(bundle, theirs, folder / "snapshot", classes, settings)
    decision = should_promote(
        compared["metrics"],
        compared["champion_metrics"],
        tolerance=settings.promote_tolerance,
        class_limit=settings.promote_class_limit,
        new_classes=new_classes,
        interval=compared["interval"],
    )
    outcome = {
        "generation": _generation(champion),
        "metrics": compared["metrics"],
        "champion_metrics": compared["champion_metrics"],
        "decision": {"act": decision.act, "reason": decision.reason, "interval": compared["interval"]},
    }
    _write_json(folder / "outcome.json", outcome)
    return outcome


def _export(shop: Workshop, settings: Settings, folder: Path, bundle: Path, recipe: Recipe) -> dict[str, Any]:
    """The bundle's models for other engines, added to it, and what version.json says of them.

    Also for a candidate that loses: it can be promoted by hand. One that cannot be exported is served by torch's
    weights as they are. A quick adaptation's int8 model is left out: to make and to judge it takes longer than the
    training did.
    """
    known: dict[str, Any] | None = _read_json(folder / "engines.json")
    if known is not None:
        return known
    made = folder / "engines"
    shutil.rmtree(made, ignore_errors=True)
    try:
        engines = shop.export(bundle, folder / "snapshot" if recipe == "full" else None, made, settings)
    except EngineError as error:
        logger.error("run %s: no models for other engines: %s", folder.name, error)
        engines = {"error": str(error)}
    else:
        for file in sorted(made.iterdir()):
            file.replace(bundle / file.name)
    _write_json(folder / "engines.json", engines)
    return engines


def _promote(
    shop: Workshop,
    settings: Settings,
    project: str,
    run: Run,
    bundle: Path,
    manifest: Manifest,
    outcome: dict[str, Any],
    parent: str | None,
    engines: dict[str, Any],
) -> tuple[str, bool]:
    """Put the candidate into the registry, and make it the champion if the outcome says so."""
    judged = {name: outcome[name] for name in ("metrics", "champion_metrics", "decision")}
    info = {**_read_json(bundle / "version.json"), "parent": parent, **judged, "engines": engines}
    # what `segloop reproduce` trains with again
    info["recipe"] = {**(info.get("recipe") or {}), "hyperparameters": dict(run.hyperparameters)}
    version = shop.registry.add(project, bundle, info)
    _write_json(run.folder / "outcome.json", {**outcome, "version": version})
    while True:
        champion = shop.registry.champion(project)
        if champion is not None and champion.version == version:
            return version, True
        if _generation(champion) == outcome["generation"]:
            break
        # Somebody rolled back or promoted meanwhile: the candidate has to win against what is served now.
        outcome.update(_judge(shop, settings, project, run.folder, bundle, manifest))
    if outcome["decision"]["act"]:
        shop.registry.promote(project, version, outcome["decision"]["reason"])
    return version, bool(outcome["decision"]["act"])


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
    known = _read_json(folder / "recipe.json")
    if known is None:
        known = {"recipe": shop.jobs.recipe(project)}
        folder.mkdir(parents=True, exist_ok=True)
        _write_json(folder / "recipe.json", known)
    recipe: Recipe = known["recipe"]
    return recipe


def _parent(shop: Workshop, project: str, folder: Path) -> str | None:
    """The version the run starts from: the champion when it first got here."""
    known = _read_json(folder / "parent.json")
    if known is None:
        champion = shop.registry.champion(project)
        known = {"version": champion.version if champion is not None else None}
        _write_json(folder / "parent.json", known)
    version: str | None = known["version"]
    return version


def _prune(folder: Path) -> None:
    """Remove the folders of the project's earlier runs: their versions are in the registry."""
    for other in folder.parent.iterdir():
        if other != folder:
            shutil.rmtree(other, ignore_errors=True)


def _generation(champion: Champion | None) -> int:
    return champion.generation if champion is not None else 0


def _read_json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None


def _write_json(path: Path, value: Any) -> None:
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(value, indent=1), encoding="utf-8")
    os.replace(partial, path)  # noqa: PTH105
