"""People who open tasks and save annotations of one project while something fails, and what they are answered."""

from __future__ import annotations

import base64
import io
import threading
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import httpx
from PIL import Image

from demo.stack import RunningSegloop
from segloop.registry import Registry
from tests.toys import BRUSH, half_red_half_blue, toy_info
from tests.waiting import until

PROJECT = "29.1795383040"
INFO = toy_info(arch="fcn_resnet50", decision={"act": True, "reason": "The first."})
#: How long the first answers may take, in seconds.
PATIENCE_S = 300.0
#: Settings under which nobody's annotations start a training of that project.
QUIET = {"weights": "none", "retrain_threshold": 100_000, "adapt_threshold": 0, "log_level": "WARNING"}


@dataclass
class People:
    """Opens tasks and saves annotations, over and over, until it is stopped."""

    segloop: RunningSegloop
    served: int = 0
    failed: int = 0
    longest_s: float = 0.0
    acknowledged: set[int] = field(default_factory=set)
    versions: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        picture = io.BytesIO()
        Image.fromarray(half_red_half_blue()).save(picture, "PNG")
        address = "data:image/png;base64," + base64.b64encode(picture.getvalue()).decode()
        self._predict = {"project": PROJECT, "label_config": BRUSH, "tasks": [{"id": 1, "data": {"image": address}}]}
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._work)

    def __enter__(self) -> People:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def begin(self) -> None:
        """Wait for the first answers, and count from here on: the first prediction loads the network."""
        until(lambda: self.served > 4, "answers", PATIENCE_S)
        self.served = self.failed = 0
        self.longest_s = 0.0

    def _work(self) -> None:
        answered, task = time.monotonic(), 0
        with self.segloop.client() as client:
            while not self._stop.wait(0.05):
                task += 1
                event = {
                    "action": "ANNOTATION_CREATED",
                    "annotation": {"id": task, "task": task},
                    "project": {"id": 29, "created_at": "2026-11-22T21:30:40Z", "label_config": BRUSH},
                }
                for route, body in (("/predict", self._predict), ("/webhook", event)):
                    answer = None
                    with suppress(httpx.HTTPError):
                        answer = client.post(route, json=body, timeout=20)
                    if answer is None or not answer.is_success:
                        self.failed += 1
                        continue
                    self.served += 1
                    self.longest_s = max(self.longest_s, time.monotonic() - answered)
                    answered = time.monotonic()
                    if route == "/predict":
                        self.versions.add(answer.json()["model_version"])
                    elif answer.json()["status"] != "deferred":
                        self.acknowledged.add(task)


def publish(registry: Registry, folder: Path, count: int = 1) -> list[str]:
    """Versions of the project: a network that was never trained, exported; the first one is the champion."""
    from segloop.network.network import build_network, save_bundle
    from segloop.training.export import export

    save_bundle(folder, build_network("fcn_resnet50", 3, 16), INFO)
    export(folder, None, folder)
    versions = []
    for number in range(count):
        (folder / "number.txt").write_text(str(number))
        versions.append(registry.add(PROJECT, folder, INFO))
    registry.promote(PROJECT, versions[0], "first")
    return versions
