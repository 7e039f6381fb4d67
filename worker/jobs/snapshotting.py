"""The first step of a retrain: what has been annotated, frozen."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from segloop.dataset import Manifest, ProjectSplits, load_manifest, snapshot
from segloop.settings import Settings
from worker.jobs.workshop import Workshop, project_id_of


def take_snapshot(shop: Workshop, settings: Settings, project: str, job_id: str, folder: Path) -> Manifest:
    """The run's snapshot: the one that is there, or a new one."""
    dest = folder / "snapshot"
    if dest.is_dir():
        return load_manifest(dest)
    partial = folder / "snapshot.partial"
    shop.jobs.take_changes(project)
    project_id = project_id_of(project)
    started = datetime.now(UTC)
    newest = [datetime.fromtimestamp(0, UTC)]

    def tasks() -> Iterator[dict[str, Any]]:
        for task in shop.label_studio.labelled_tasks(project_id):
            newest.extend(_moments(task))
            newest[:] = [max(newest)]
            yield task

    manifest = snapshot(
        project,
        tasks(),
        shop.label_studio.project(project_id)["label_config"],
        images=shop.images,
        splits=ProjectSplits(shop.registry, project),
        dest=partial,
        settings=settings,
        progress=lambda progress: shop.jobs.report(job_id, progress),
    )
    # Label Studio's clock decides what is newer than the snapshot; ours only, where a page was read before a change.
    since = min(newest[0], started)
    shop.registry.write_json(project, "snapshot.json", {"since": since.isoformat(), "job": job_id})
    partial.replace(dest)
    return manifest


def _moments(task: Mapping[str, Any]) -> Iterable[datetime]:
    for annotation in task.get("annotations") or ():
        yield datetime.fromisoformat(annotation["updated_at"]).astimezone(UTC)
