"""Load: 50 annotators for ten minutes beside a training, and 10,000 events in a burst.

    python -m benchmarks.load [--minutes 10] [--annotators 50]

Each annotator opens a task (a drawn photo of 0.3 megapixels as a `data:` URL), clicks once with the smart tool on every
fourth, saves an annotation, and thinks for a while. It writes docs/RELIABILITY.md's tables of it.
"""

from __future__ import annotations

import argparse
import base64
import io
import random
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median, quantiles
from typing import Any

import httpx
from PIL import Image
from redis import Redis

from benchmarks.faults.people import PROJECT, QUIET, publish
from benchmarks.faults.processes import Stand
from benchmarks.faults.tables import Table, yes_or_no
from demo.stack import RunningSegloop
from segloop.queue import Jobs
from segloop.settings import Settings
from tests.e2e.loop import running_loop

#: What these annotators draw with.
CONFIG = (
    '<View><Image name="image" value="$image"/><BrushLabels name="tag" toName="image"><Label value="Road"/>'
    '<Label value="Sky"/></BrushLabels><KeyPointLabels name="kp" toName="image" smart="true"><Label value="Road"/>'
    '<Label value="Sky"/></KeyPointLabels></View>'
)
#: Longest and shortest time that an annotator thinks about a task, in seconds.
THINKS_S = (4.0, 16.0)
IMAGES, IMAGE_SIZE = 20, (640, 480)
EVENTS, SENDERS = 10_000, 32
#: How often processes are looked at, in seconds; and the share of the run at its begin and its end that is compared.
LOOK_S, EDGE = 5.0, 0.2


@dataclass
class Answers:
    """Seconds that answers took, and failures, by what was asked."""

    seconds: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    failed: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def post(self, client: httpx.Client, what: str, route: str, body: dict[str, Any]) -> None:
        """Ask, and note how it went."""
        began, good = time.monotonic(), False
        with suppress(httpx.HTTPError):
            good = client.post(route, json=body).is_success
        with self._lock:
            self.seconds[what].append(time.monotonic() - began)
            self.failed[what] += not good


def images() -> list[str]:
    """Pictures of noise that compresses as photos do."""
    source = random.Random(0)
    found = []
    for _ in range(IMAGES):
        small = Image.new("RGB", (16, 12))
        small.putdata([(source.randrange(256), source.randrange(256), source.randrange(256)) for _ in range(192)])
        file = io.BytesIO()
        small.resize(IMAGE_SIZE, Image.Resampling.BICUBIC).save(file, "JPEG", quality=85)
        found.append("data:image/jpeg;base64," + base64.b64encode(file.getvalue()).decode())
    return found


def event_of(task: int) -> dict[str, Any]:
    """What Label Studio tells when an annotation of a task is saved."""
    return {
        "action": "ANNOTATION_CREATED",
        "annotation": {"id": task, "task": task},
        "project": {"id": 29, "created_at": "2026-11-22T21:30:40Z", "label_config": CONFIG},
    }


def click_at(x: float, y: float) -> dict[str, Any]:
    """The context of one positive click, in percent of the image."""
    value = {"x": x, "y": y, "width": 0.1, "labels": ["Road"], "keypointlabels": ["Road"]}
    place = {"original_width": IMAGE_SIZE[0], "original_height": IMAGE_SIZE[1], "image_rotation": 0}
    item = {"type": "keypointlabels", "from_name": "kp", "to_name": "image", "is_positive": True, "value": value}
    return {"result": [{**place, **item}]}


def annotate(number: int, segloop: RunningSegloop, pictures: list[str], answers: Answers, until_s: float) -> None:
    """One annotator's work."""
    source = random.Random(number)
    with segloop.client() as client:
        time.sleep(source.uniform(0, THINKS_S[1]))
        for done in range(10**6):
            if time.monotonic() > until_s:
                return
            task = number * 10**6 + done
            body: dict[str, Any] = {
                "project": PROJECT,
                "label_config": CONFIG,
                "tasks": [{"id": task, "data": {"image": source.choice(pictures)}}],
            }
            answers.post(client, "a task opened", "/predict", body)
            time.sleep(source.uniform(*THINKS_S) / 2)
            if done % 4 == 0:
                context = click_at(source.uniform(5, 95), source.uniform(5, 95))
                answers.post(client, "a click", "/predict", body | {"params": {"context": context}})
            time.sleep(source.uniform(*THINKS_S) / 2)
            answers.post(client, "an annotation saved", "/webhook", event_of(task))


@contextmanager
def looking(stand: Stand) -> Iterator[dict[str, list[float]]]:
    """What the server's processes and Redis take, looked at every few seconds, for as long as the block takes."""
    seen: dict[str, list[float]] = defaultdict(list)
    stop = threading.Event()

    def look() -> None:
        with stand.redis() as redis:
            while not stop.wait(LOOK_S):
                with suppress(OSError):
                    pids = stand.processes("segloop.server")
                    seen["server's memory, MiB"].append(sum(map(memory_mib, pids)))
                    seen["server's open files"].append(
                        sum(len(list(Path(f"/proc/{pid}/fd").iterdir())) for pid in pids)
                    )
                    seen["Valkey's memory, MiB"].append(redis_mib(redis))

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield seen
    finally:
        stop.set()
        thread.join()


def memory_mib(pid: int) -> float:
    """What a process has in memory for itself."""
    text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    return sum(int(line.split()[1]) for line in text.splitlines() if line.startswith("Private_")) / 1024


def redis_mib(redis: Redis) -> float:
    return float(redis.info("memory")["used_memory"]) / 2**20


def burst(stand: Stand) -> tuple[int, int, float]:
    """Events sent, events counted, and seconds."""
    jobs = Jobs.open(Settings(_env_file=None, data_dir=stand.segloop.data_dir))
    jobs.changes.take(PROJECT, "full")
    clients = [stand.segloop.client() for _ in range(SENDERS)]

    def send(number: int) -> bool:
        for _ in range(5):
            with suppress(httpx.HTTPError):
                if clients[number % SENDERS].post("/webhook", json=event_of(10**9 + number)).is_success:
                    return True
        return False

    began = time.monotonic()
    with ThreadPoolExecutor(SENDERS) as pool:
        acknowledged = sum(pool.map(send, range(EVENTS)))
    seconds = time.monotonic() - began
    counted = jobs.changes.record(PROJECT, ()).full
    jobs.close()
    for client in clients:
        client.close()
    return acknowledged, counted, seconds


def main() -> None:
    parser = argparse.ArgumentParser(description="Load of many annotators beside a training.")
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--annotators", type=int, default=50)
    given = parser.parse_args()
    with (
        tempfile.TemporaryDirectory(prefix="segloop-load-") as base,
        running_loop(Path(base), train=24, val=8, **QUIET, train_min_steps=10**6) as loop,
    ):
        stand = Stand(loop.segloop, loop.registry, publish(loop.registry, Path(base) / "bundle"))
        project = loop.project("trained meanwhile")
        loop.http.post(f"/api/ml/{project.backend}/train", json={}).raise_for_status()
        answers, pictures = Answers(), images()
        with looking(stand) as seen, ThreadPoolExecutor(given.annotators) as pool:
            end = time.monotonic() + given.minutes * 60
            for number in range(given.annotators):
                pool.submit(annotate, number, loop.segloop, pictures, answers, end)
        assert project.training()["is_training"], "the training was to last as long"
        table = Table("load", ("what", "requests", "failed", "p50, ms", "p95, ms", "p99, ms"))
        for what, seconds in sorted(answers.seconds.items()):
            cut = [1000 * value for value in quantiles(seconds, n=100)]
            table.add((what, len(seconds), answers.failed[what], *(f"{cut[n - 1]:.0f}" for n in (50, 95, 99))))
        growth = Table("growth", ("what", "first fifth", "last fifth"))
        for what, values in seen.items():
            edge = max(1, round(len(values) * EDGE))
            growth.add((what, f"{median(values[:edge]):.1f}", f"{median(values[-edge:]):.1f}"))
        sent, counted, seconds_taken = burst(stand)
        row = ("events in a burst", "acknowledged", "counted", "events a second", "green")
        rate = f"{sent / seconds_taken:.0f}"
        Table("burst", row).add((EVENTS, sent, counted, rate, yes_or_no(sent == counted == EVENTS)))


if __name__ == "__main__":
    main()
