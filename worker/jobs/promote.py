"""The end of a retrain: candidate against champion, models for other engines, and the champion's pointer."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from segloop.dataset import Manifest
from segloop.errors import EngineError
from segloop.files import read_json, write_json
from segloop.formats import VERSION_FILE, WEIGHTS_FILE
from segloop.policy import Recipe, should_promote
from segloop.settings import Settings
from segloop.trainers.base import Run
from worker.jobs.context import JobContext

if TYPE_CHECKING:
    from segloop.registry import Champion

logger = logging.getLogger(__name__)


def judge(
    context: JobContext, settings: Settings, project: str, folder: Path, bundle: Path, manifest: Manifest
) -> dict[str, Any]:
    """Metrics of candidate and champion on the same tasks, and the decision; kept in outcome.json."""
    champion = context.registry.champion(project)
    outcome: dict[str, Any] = read_json(folder / "outcome.json") or {}
    if outcome and (
        outcome["generation"] == _generation(champion)
        or (champion is not None and champion.version == outcome.get("version"))
    ):
        return outcome
    classes = tuple(manifest.classes)
    theirs, new_classes = None, frozenset[str]()
    if champion is not None:
        theirs = context.registry.bundle(project, champion.version, [WEIGHTS_FILE])
        new_classes = frozenset(classes) - frozenset(context.registry.get(project, champion.version).classes)
    compared = context.compare(bundle, theirs, folder / "snapshot", classes, settings)
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
    write_json(folder / "outcome.json", outcome)
    return outcome


def export(context: JobContext, settings: Settings, folder: Path, bundle: Path, recipe: Recipe) -> dict[str, Any]:
    """The bundle's models for other engines, added to it, and what version.json says of them.

    Also for a candidate that loses: it can be promoted by hand. One that cannot be exported is served by torch's
    weights as they are. A quick adaptation's int8 model is left out: to make and to judge it takes longer than the
    training did.
    """
    known: dict[str, Any] | None = read_json(folder / "engines.json")
    if known is not None:
        return known
    made = folder / "engines"
    shutil.rmtree(made, ignore_errors=True)
    try:
        engines = context.export(bundle, folder / "snapshot" if recipe == "full" else None, made, settings)
    except EngineError as error:
        logger.error("run %s: no models for other engines: %s", folder.name, error)
        engines = {"error": str(error)}
    else:
        for file in sorted(made.iterdir()):
            file.replace(bundle / file.name)
    write_json(folder / "engines.json", engines)
    return engines


def promote(
    context: JobContext,
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
    info = {**read_json(bundle / VERSION_FILE), "parent": parent, **judged, "engines": engines}
    # what `segloop reproduce` trains with again
    info["recipe"] = {**(info.get("recipe") or {}), "hyperparameters": dict(run.hyperparameters)}
    version = context.registry.add(project, bundle, info)
    write_json(run.folder / "outcome.json", {**outcome, "version": version})
    while True:
        champion = context.registry.champion(project)
        if champion is not None and champion.version == version:
            return version, True
        if _generation(champion) == outcome["generation"]:
            break
        # Somebody rolled back or promoted meanwhile: the candidate has to win against what is served now.
        outcome.update(judge(context, settings, project, run.folder, bundle, manifest))
    if outcome["decision"]["act"]:
        context.registry.promote(project, version, outcome["decision"]["reason"])
    return version, bool(outcome["decision"]["act"])


def _generation(champion: Champion | None) -> int:
    return champion.generation if champion is not None else 0
