"""A Label Studio, a segloop connected to it, and what people do with both: for the tests in a browser."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import numpy as np
from pydantic import SecretStr

from demo.data import DemoData, from_folder
from demo.label_studio import RunningLabelStudio
from demo.scenes import write_scenes
from demo.stack import RunningSegloop
from segloop.formats import SUSPECT_MODEL
from segloop.labelstudio import BackendSpec, Credentials, LabelStudio
from segloop.masks import encode_rle
from segloop.payloads import project_key
from segloop.registry import open_registry
from segloop.settings import Settings
from tests.e2e.browser import wait_for

WIDTH, HEIGHT = 320, 240
#: Settings of a short training. tests/e2e/test_demo.py looks for suspected labels.
QUICK = {"weights": "none", "input_size": 128, "train_epochs": 1, "guided_steps": 0, "suspects": "off"}


class Loop:
    """A Label Studio, a segloop, and what somebody does with both."""

    def __init__(self, label_studio: RunningLabelStudio, segloop: RunningSegloop, data: DemoData) -> None:
        self.label_studio, self.segloop, self.data = label_studio, segloop, data
        self.registry = open_registry(Settings(data_dir=segloop.data_dir))
        self.api = LabelStudio(label_studio.url, Credentials(label_studio.url, SecretStr(label_studio.api_key)))
        self.http = label_studio.client()

    def finished(self, job: str) -> dict[str, Any] | None:
        """What `/job_status` says of a job that has ended well; None before."""
        with self.segloop.client() as client:
            status = client.post("/job_status", json={"job": job}).raise_for_status().json()
        assert status["job_status"] != "failed", status
        return status if status["job_status"] == "finished" else None

    def project(self, title: str) -> Project:
        """A project with labelled and unlabelled scenes."""
        data = self.data
        project = Project(self, self.label_studio.create_project(title, data.label_config))
        images = [example.image for example in (*data.train, *data.val)]
        ids = self.label_studio.upload_images(project.id, images)
        project.labelled, project.unlabelled = ids[: len(data.train)], ids[len(data.train) :]
        for task, example in zip(project.labelled, data.train, strict=True):
            truth = example.truth(len(data.classes))
            self.label_studio.submit_annotation(task, [region(truth, i, n) for i, n in enumerate(data.classes, 1)])
        return project


class Project:
    """A project that is connected to segloop."""

    def __init__(self, loop: Loop, created: dict[str, Any]) -> None:
        self.loop = loop
        self.id, self.key = created["id"], project_key(created)
        self.labelled: list[int] = []
        self.unlabelled: list[int] = []
        spec = BackendSpec(
            loop.segloop.url,
            "segloop",
            basic_auth=(loop.segloop.user, SecretStr(loop.segloop.password)),
            webhook_secret=SecretStr(loop.segloop.secret),
        )
        self.backend = loop.api.backends.connect(self.id, spec).backend["id"]

    def champion(self) -> str | None:
        champion = self.loop.registry.champion(self.key)
        return None if champion is None else champion.version

    def predictions(self, task: int) -> list[dict[str, Any]]:
        """The pre-labels of a task; those that show suspected labels are none."""
        rows = self.loop.http.get("/api/predictions/", params={"task": task}).raise_for_status().json()
        return [one for one in rows if one["model_version"] != SUSPECT_MODEL]

    def title(self) -> str:
        return title_of(self.loop.http, self.id, self.backend)

    def training(self) -> dict[str, Any]:
        with self.loop.segloop.client() as client:
            return client.get("/is_training", params={"project": self.id}).raise_for_status().json()

    def retrain(self) -> dict[str, Any]:
        """Press Start Training, and wait for what the job says at its end."""
        self.loop.http.post(f"/api/ml/{self.backend}/train", json={}).raise_for_status()
        job = wait_for("a training", lambda: self.training().get("job"))
        return wait_for("the end of the training", lambda: self.loop.finished(job))["result"]


def title_of(http: httpx.Client, project: int, backend: int) -> str:
    """A backend's title, by the list: to ask for the backend alone saves its whole row, and may undo a title set meanwhile."""
    backends = http.get("/api/ml/", params={"project": project}).raise_for_status().json()
    return str(next(entry["title"] for entry in backends if entry["id"] == backend))


def region(truth: np.ndarray, index: int, name: str) -> dict[str, Any]:
    """A brush region of one class, as an annotator draws it."""
    height, width = truth.shape
    rle = encode_rle(np.where(truth == index, 255, 0).astype(np.uint8))
    place = {"from_name": "tag", "to_name": "image", "type": "brushlabels", "origin": "manual", "image_rotation": 0}
    value = {"format": "rle", "rle": rle, "brushlabels": [name]}
    return {"id": f"true-{index}", **place, "original_width": width, "original_height": height, "value": value}


@contextmanager
def running_loop(folder: Path, *, train: int, val: int, **settings: Any) -> Iterator[Loop]:
    """Both, with drawn scenes to label; `settings` are segloop's own."""
    write_scenes(folder / "scenes", train=train, val=val, size=(WIDTH, HEIGHT))
    with RunningLabelStudio() as label_studio:
        segloop = RunningSegloop(
            folder,
            label_studio_url=label_studio.url,
            label_studio_api_key=label_studio.api_key,
            **{**QUICK, **settings},
        )
        with segloop:
            made = Loop(label_studio, segloop, from_folder(folder / "scenes", train, val))
            yield made
            made.api.close()
            made.http.close()
        print(segloop.log.read_text(errors="replace")[-6000:])


def processes(data_dir: Path, command: str, *, leaders_only: bool) -> list[int]:
    """Processes with this command line that work in this data folder; leaders are not children of each other."""
    found = {}
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            line = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode()
            environment = (entry / "environ").read_bytes()
            parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
        except (OSError, ValueError):
            continue
        if command in line and str(data_dir).encode() in environment:
            found[int(entry.name)] = parent
    return [pid for pid, parent in found.items() if not leaders_only or parent not in found]
