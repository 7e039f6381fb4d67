"""Faults in each phase of a retrain, beside a real Label Studio, while people work on another project.

Each row is a project of its own: its drawn scenes are labelled, somebody presses Start Training, and the fault comes in
the moment in which the phase is seen to run. The row is green if one version is made and served, it has learnt every
annotation, Label Studio shows its predictions and its title, and people were answered all the while.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import httpx

from benchmarks.faults.people import QUIET, People, publish
from benchmarks.faults.tables import Table, yes_or_no
from segloop.dataset import MANIFEST
from segloop.dataset.manifest import read_manifest
from segloop.errors import RegistryError, SegloopError
from tests.e2e.loop import Loop, Project, processes, running_loop

LABELLED, UNLABELLED = 8, 3
#: Characters that a title has in Label Studio at most.
MOST_OF_TITLE = 50
#: How long Label Studio is frozen, and the disk full, in seconds; and how long a retrain may take after that.
FROZEN_S, FULL_S, PATIENCE_S = 40.0, 10.0, 600.0
#: Of the file system that the data folder is on.
DISK_BYTES = 4 * 2**30
COLUMNS = (
    *("fault", "served / failed", "annotations learnt", "versions made", "half versions"),
    *("seconds from Start Training to all predictions", "green"),
)


@dataclass
class Scene:
    """A project whose retrain runs."""

    loop: Loop
    project: Project

    def run(self, *parts: str) -> bool:
        """Whether a file of the retrain's run is there."""
        runs = self.loop.segloop.data_dir / "runs" / self.project.key
        return any(runs.glob("/".join(("*", *parts))))

    def phase(self) -> str:
        """The phase that the job tells."""
        return str((self.project.training().get("progress") or {}).get("phase", ""))

    def predicted(self) -> int:
        """Tasks that have a prediction of the champion."""
        version = self.project.champion()
        return sum(
            any(found["model_version"] == version for found in self.project.predictions(task))
            for task in self.project.unlabelled
        )


#: What shows that a phase runs.
PHASES: dict[str, Callable[[Scene], bool]] = {
    "snapshot": lambda scene: scene.run("snapshot.partial"),
    "training": lambda scene: scene.run("base", "output", "data", "progress.jsonl"),
    "evaluation": lambda scene: scene.phase() == "evaluating",
    "export": lambda scene: scene.phase() == "exporting",
    "promotion": lambda scene: scene.run("engines.json"),
    "announcement": lambda scene: scene.project.champion() is not None,
    "refresh": lambda scene: scene.project.champion() is not None and scene.predicted() > 0,
}


def kill_workers(scene: Scene) -> None:
    """SIGKILL of every worker that could be at it."""
    for queue in ("retrain", "prelabel"):
        for pid in processes(scene.loop.segloop.data_dir, f"-m worker {queue}", leaders_only=True):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def kill_everything(scene: Scene) -> None:
    """SIGKILL of `segloop up` and all that it started, and a new start."""
    segloop = scene.loop.segloop
    for word in ("segloop", "worker", "supervisord"):
        for pid in processes(segloop.data_dir, word, leaders_only=False):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
    segloop.stop()
    segloop.start()


def freeze_label_studio(scene: Scene) -> None:
    """Stop its process for a while: connections are accepted and not answered."""
    pid = scene.loop.label_studio.pid
    assert pid is not None
    os.killpg(pid, signal.SIGSTOP)
    time.sleep(FROZEN_S)
    os.killpg(pid, signal.SIGCONT)


def fill_disk(scene: Scene) -> None:
    """Take all the space of the data folder's disk for a while."""
    ballast = scene.loop.segloop.data_dir / "ballast"
    with ballast.open("wb", buffering=0) as file:
        free = shutil.disk_usage(ballast.parent).free
        with suppress(OSError):
            os.posix_fallocate(file.fileno(), 0, free)
        file.seek(0, os.SEEK_END)
        with suppress(OSError):
            while file.write(b"x" * 4096):
                pass
        time.sleep(FULL_S)
        ballast.unlink()


FAULTS: dict[str, tuple[Callable[[Scene], None], tuple[str, ...]]] = {
    "SIGKILL of the workers": (kill_workers, tuple(PHASES)),
    "SIGKILL of every process, and a start,": (kill_everything, ("training", "promotion")),
    f"Label Studio frozen for {FROZEN_S:.0f} s": (freeze_label_studio, ("snapshot", "announcement", "refresh")),
    f"disk full for {FULL_S:.0f} s": (fill_disk, ("snapshot", "training", "evaluation", "export", "promotion")),
}


def measure(loop: Loop, fault: str, phase: str) -> tuple[str, ...]:
    """A row of the table."""
    inject, _ = FAULTS[fault]
    project = loop.project(f"{fault} in {phase}"[:MOST_OF_TITLE])
    scene = Scene(loop, project)
    with People(loop.segloop) as people:
        began = time.monotonic()
        loop.http.post(f"/api/ml/{project.backend}/train", json={}).raise_for_status()
        seen = wait(lambda: PHASES[phase](scene), pause_s=0.002)
        inject(scene)
        done = wait(lambda: done_with(scene), pause_s=0.5)
        seconds = time.monotonic() - began
        time.sleep(1)
    version = project.champion() or ""
    learnt, half = 0, 0
    for info in loop.registry.versions(project.key):
        try:
            folder = loop.registry.bundle(project.key, info.version)
        except RegistryError:
            half += 1
            continue
        if info.version == version:
            learnt = len(read_manifest(folder / MANIFEST).items)
    made = len(loop.registry.versions(project.key))
    is_green = seen and done and learnt == LABELLED and made == 1 and not half
    for folder in ("runs", "store"):  # the disk is small
        shutil.rmtree(loop.segloop.data_dir / folder / project.key, ignore_errors=True)
    cells = (f"{people.served} / {people.failed}", f"{learnt} of {LABELLED}", str(made), str(half), f"{seconds:.0f}")
    return (f"{fault} in {phase}" if seen else f"{fault} in {phase} (missed it)", *cells, yes_or_no(is_green))


def done_with(scene: Scene) -> bool:
    """Whether the version is served, titled and predicted everywhere."""
    with suppress(httpx.HTTPError, SegloopError):
        version = scene.project.champion()
        return version is not None and scene.project.title() == version and scene.predicted() == UNLABELLED
    return False


def wait(condition: Callable[[], bool], pause_s: float) -> bool:
    """Whether a condition holds within the patience."""
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        with suppress(httpx.HTTPError, SegloopError):
            if condition():
                return True
        time.sleep(pause_s)
    return False


@contextmanager
def small_disk(folder: Path) -> Iterator[bool]:
    """A file system of its own at a folder; False where this user cannot mount one."""
    folder.mkdir(parents=True)
    command = ["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES}", "tmpfs", str(folder)]
    mounted = subprocess.run(command, capture_output=True, check=False).returncode == 0
    try:
        yield mounted
    finally:
        if mounted:
            subprocess.run(["umount", "--lazy", str(folder)], check=True)


def main() -> None:
    """Inject each fault in each of its phases, and write the table row by row."""
    table = Table("training", COLUMNS)
    with (
        tempfile.TemporaryDirectory(prefix="segloop-faults-") as base,
        small_disk(Path(base) / "data") as mounted,
        running_loop(Path(base), train=LABELLED, val=UNLABELLED, **QUIET, train_min_steps=24) as loop,
    ):
        publish(loop.registry, Path(base) / "bundle")
        for fault, (inject, phases) in FAULTS.items():
            if inject is not fill_disk or mounted:
                for phase in phases:
                    table.add(measure(loop, fault, phase))
