"""`segloop reproduce`: a version trained again from the same snapshot, to see that its metrics were no accident."""

from __future__ import annotations

import shutil
import tempfile
import time
from pathlib import Path
from typing import TypedDict

from segloop.dataset import MANIFEST, Manifest, read_manifest, rebuild
from segloop.errors import RegistryError, TrainingError
from segloop.formats import WEIGHTS_FILE
from segloop.progress import Report
from segloop.trainers.base import Run
from segloop.versions import Metrics
from worker.jobs.context import JobContext
from worker.jobs.mirrors import open_mirror, sync_mirror


class Reproduction(TypedDict):
    """A version trained again: its snapshot's hash and number of tasks, its metrics, those that were `reproduced`, and
    the `difference` of their mIoU; None where either has none."""

    version: str
    snapshot: str
    tasks: int
    metrics: Metrics
    reproduced: Metrics
    difference: float | None


def run_reproduce(context: JobContext, project: str, version: str, progress: Report) -> Reproduction:
    """Rebuild a version's snapshot, train on it with the same hyperparameters from the same parent, and measure.

    Nothing is added to the registry.

    Raises:
        RegistryError, VersionNotFound: the version, or its parent, cannot be read, or is from before versions had it all.
        TrainingError: the snapshot cannot be rebuilt (the text names the tasks), or the training failed.
        LabelStudioError: an image or an annotation is needed of Label Studio, and it cannot be reached.
    """
    info = context.registry.get(project, version)
    hyperparameters = info.recipe.hyperparameters
    if MANIFEST not in info.files or hyperparameters is None:
        raise RegistryError(f"{version} was made before versions kept what reproduces them: choose a newer one")
    manifest = read_manifest(context.registry.bundle(project, version, [MANIFEST]) / MANIFEST)
    if manifest.hash != info.snapshot:
        raise RegistryError(f"{version}: its {MANIFEST} is not of the snapshot {info.snapshot[:12]} that it names")
    runs = context.settings.data_dir.absolute() / "runs"
    runs.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix="reproduce-", dir=runs))
    try:
        _rebuild(context, project, manifest, folder / "snapshot", progress)
        parent = info.parent
        run = Run(
            id=folder.name,
            folder=folder,
            snapshot=folder / "snapshot",
            champion=context.registry.bundle(project, parent, [WEIGHTS_FILE]) if parent is not None else None,
            hyperparameters=hyperparameters,
        )
        bundle = _train(context, run, progress)
        compared = context.compare(bundle, None, folder / "snapshot", context.settings)
        reproduced = compared.metrics
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    theirs, ours = info.metrics.miou, reproduced.miou
    return {
        "version": version,
        "snapshot": manifest.hash,
        "tasks": len({item.task for item in manifest.items}),
        "metrics": info.metrics,
        "reproduced": reproduced,
        "difference": None if theirs is None or ours is None else ours - theirs,
    }


def _rebuild(context: JobContext, project: str, manifest: Manifest, dest: Path, progress: Report) -> None:
    progress({"phase": "snapshot", "message": f"Rebuilding the snapshot {manifest.hash[:12]}."})
    with open_mirror(context, project) as mirror:
        sync_mirror(context, mirror, project, progress)
        rebuild(manifest, mirror, images=context.images, dest=dest)


def _train(context: JobContext, run: Run, progress: Report) -> Path:
    context.trainer.submit(run)
    try:
        while (status := context.trainer.poll(run)).state == "running":
            if status.progress is not None:
                progress(status.progress)
            time.sleep(context.poll_s)
    except BaseException:
        context.trainer.stop(run)
        raise
    if status.state != "finished":
        raise TrainingError(status.reason)
    return context.trainer.collect(run)
