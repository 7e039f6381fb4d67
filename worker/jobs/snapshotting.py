"""The first step of a retrain: what has been annotated, frozen."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from segloop.dataset import Manifest, Memory, ProjectSplits, load_manifest, snapshot
from segloop.policy import Recipe
from segloop.settings import Settings
from worker.jobs.mirroring import mark, open_mirror, sync_mirror
from worker.jobs.workshop import Workshop, project_id_of


def take_snapshot(
    shop: Workshop, settings: Settings, project: str, job_id: str, folder: Path, recipe: Recipe = "full"
) -> Manifest:
    """The run's snapshot: the one that is there, or a new one.

    Changes count toward the next full retrain from the `since` of snapshot.json on, which only a full run's snapshot
    moves; toward the next quick adaptation from its `quick_since` on, where a quick run's snapshot came later.
    """
    dest = folder / "snapshot"
    if dest.is_dir():
        return load_manifest(dest)
    partial = folder / "snapshot.partial"
    shop.jobs.take_changes(project, recipe)
    label_config = shop.label_studio.project(project_id_of(project))["label_config"]
    started = datetime.now(UTC)

    def report(progress: dict[str, Any]) -> None:
        shop.jobs.report(job_id, progress)

    with open_mirror(shop, project) as mirror:
        sync_mirror(shop, mirror, project, report)
        # Label Studio's clock decides what is newer than the snapshot; ours only, where a page was read before a change.
        since = min(mirror.newest() or datetime.fromtimestamp(0, UTC), started)
        marked = mark(mirror, since)
        manifest = snapshot(
            project,
            mirror.tasks(),
            label_config,
            images=shop.images,
            splits=ProjectSplits(shop.registry, project),
            dest=partial,
            settings=settings,
            progress=report,
            memory=Memory(mirror),
            steps=len(mirror),
        )
    for warning in manifest.warnings:
        report({"phase": "snapshot", "message": warning})
    if recipe == "quick":
        known = shop.registry.read_json(project, "snapshot.json") or {}
        marked = {
            **{name: known[name] for name in marked if name in known},
            **{f"quick_{name}": value for name, value in marked.items()},
        }
    shop.registry.write_json(project, "snapshot.json", {**marked, "job": job_id})
    partial.replace(dest)
    return manifest
