"""How long `/setup` and `/webhook` take: `python -m benchmarks.latency`.

The real server, workers and Valkey (`segloop up`) serving a ResNet-50. First with nothing else to do; then while a
training runs (the real entry point, with the worker's niceness) and two clients keep `/predict` busy. Prints one JSON
line. Label Studio waits 3 s for `/setup` and 1 s for `/webhook`, inside the annotator's Submit; the target is 50 ms at
the 99th percentile.
"""

from __future__ import annotations

import argparse
import base64
import json
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.runs import PROJECT, write_run
from demo.data import DemoData, Example, generated
from demo.stack import RunningSegloop, clean_environment
from segloop.network.network import build_network, pick_output_stride, save_bundle
from segloop.registry import open_registry
from segloop.settings import Settings
from segloop.trainers.local import NICENESS
from segloop.versions import Metrics, VersionInfo

TARGET_MS = 50.0
INPUT_SIZE = 256


def main() -> int:
    """Measure, and print one JSON line."""
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--seconds", type=float, default=15.0, help="length of each of the two measurements")
    seconds = arguments.parse_args().seconds
    with tempfile.TemporaryDirectory(prefix="segloop-latency-") as name:
        folder = Path(name)
        data = generated(folder / "scenes", train=16, val=4)
        with RunningSegloop(
            folder, weights="none", input_size=INPUT_SIZE, retrain_threshold=10**9, adapt_threshold=0
        ) as segloop:
            settings = Settings(data_dir=segloop.data_dir, weights="none", input_size=INPUT_SIZE, unlabelled="ignore")
            serve_something(settings, folder, data)
            base = write_run(
                folder / "run",
                data,
                input_size=INPUT_SIZE,
                weights="none",
                train_min_steps=100_000,
                train_epochs=100_000,
            )
            task = {"id": 1, "data": {"image": data_url(data.val[0])}, "project": 1}
            predict = {"tasks": [task], "project": PROJECT, "label_config": data.label_config}
            with segloop.client() as client:
                client.post("/predict", json=predict).raise_for_status()
            idle = probe(segloop, data, seconds)
            with training(base) as trainer, predicting(segloop, predict) as count:
                time.sleep(15)  # importing torch and reading the images are not yet the load that is meant
                busy = probe(segloop, data, seconds)
                assert trainer.poll() is None, "the training ended before the measurement did"
    met = all(busy[route]["p99_ms"] <= TARGET_MS for route in busy)
    line = {
        "benchmark": "latency",
        "idle": idle,
        "busy": busy,
        "predictions": len(count),
        "target_p99_ms": TARGET_MS,
        "met": met,
    }
    print(json.dumps(line))
    return 0 if met else 1


def probe(segloop: RunningSegloop, data: DemoData, seconds: float) -> dict[str, dict[str, float]]:
    """Both routes in turn, 20 times a second each, over one connection as Label Studio's."""
    setup = {"project": PROJECT, "schema": data.label_config, "hostname": "", "access_token": "", "extra_params": None}
    taken: dict[str, list[float]] = {"/setup": [], "/webhook": []}
    deadline = time.monotonic() + seconds
    with segloop.client() as client:
        while time.monotonic() < deadline:
            task = 2 + len(taken["/setup"])
            event = {"action": "ANNOTATION_CREATED", "project": {"id": 1, "created_at": "2026-11-22T21:27:09Z"}}
            bodies = {"/setup": setup, "/webhook": {**event, "annotation": {"id": task, "task": task}}}
            for route, body in bodies.items():
                start = time.perf_counter()
                client.post(route, json=body).raise_for_status()
                taken[route].append((time.perf_counter() - start) * 1000)
                time.sleep(0.025)
    return {
        route: {
            "requests": len(times),
            "p50_ms": round(float(np.percentile(times, 50)), 2),
            "p99_ms": round(float(np.percentile(times, 99)), 2),
            "max_ms": round(max(times), 2),
        }
        for route, times in taken.items()
    }


@contextmanager
def predicting(segloop: RunningSegloop, body: dict[str, Any], clients: int = 2) -> Iterator[list[int]]:
    """Clients that ask for predictions one after the other; yields the list that each answer adds to."""
    stop = threading.Event()
    answers: list[int] = []

    def ask() -> None:
        with segloop.client() as client:
            while not stop.is_set():
                answers.append(client.post("/predict", json=body).raise_for_status().status_code)

    threads = [threading.Thread(target=ask) for _ in range(clients)]
    for thread in threads:
        thread.start()
    try:
        yield answers
    finally:
        stop.set()
        for thread in threads:
            thread.join()


@contextmanager
def training(base: Path) -> Iterator[subprocess.Popen[bytes]]:
    """The training entry point, as the worker starts it."""
    process = subprocess.Popen(
        ["nice", "-n", str(NICENESS), sys.executable, "-m", "segloop.training", "--base", str(base)],
        env=clean_environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        yield process
    finally:
        process.terminate()
        process.wait()


def serve_something(settings: Settings, folder: Path, data: DemoData) -> None:
    """A version with random weights: the arithmetic is the same."""
    stride = pick_output_stride(settings.arch, settings, torch.device("cpu"))
    info = VersionInfo(
        created_at="2026-11-22T00:00:00+00:00",
        arch=settings.arch,
        output_stride=stride,
        input_size=INPUT_SIZE,
        classes=data.classes,
        snapshot="0" * 64,
        metrics=Metrics(),
    )
    save_bundle(folder / "bundle", build_network(settings.arch, len(data.classes) + 1, stride), info)
    registry = open_registry(settings)
    registry.promote(PROJECT, registry.add(PROJECT, folder / "bundle", info), "benchmark")


def data_url(example: Example) -> str:
    """The image file as a data URL."""
    return "data:image/jpeg;base64," + base64.b64encode(example.image.read_bytes()).decode()


if __name__ == "__main__":
    sys.exit(main())
