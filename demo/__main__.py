"""The demo: a real Label Studio project whose pre-labels get better. `make demo` runs it; see `python -m demo --help`."""

from __future__ import annotations

import os
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import numpy as np
from pydantic import SecretStr
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from demo.data import DemoData, from_folder, generated
from demo.label_studio import RunningLabelStudio, installed, template
from demo.sagemaker import emulated
from demo.stack import RunningSegloop
from segloop.label_config import LabelConfig, parse_label_config
from segloop.labelstudio import UNCERTAINTY_SAMPLING, BackendSpec, Credentials, LabelStudio
from segloop.masks import encode_rle
from segloop.metrics import BoundaryScore, ConfusionMatrix
from segloop.results import Canvas, annotation_class_map

USAGE = """A real Label Studio project whose pre-labels get better as it is annotated, on this machine alone.

Variables:
  DEMO_EXIT=1        end when everything was shown: status 0, or 1 if a promise was not kept
  DEMO_DATA=FOLDER   use train/images, train/masks, val/images, val/masks (class indices) instead of drawn scenes
  DEMO_TRAIN=N       images that the annotator labels (64, or 100 of a folder)
  DEMO_VAL=N         images that nobody labels, to measure the pre-labels with (12, or 24 of a folder)
  DEMO_TRAINER=NAME  local, or sagemaker: training jobs in an emulator of Amazon SageMaker on this machine
  SEGLOOP_...        any setting of segloop, such as SEGLOOP_TRAIN_MINUTES (2.6): a folder of photos learns more in ten
"""

#: How much the mIoU of the pre-labels must rise.
GAIN = 0.1
#: How long the demo's training goes on, if its passes are not done before: the rest takes one minute.
TRAIN_MINUTES = 2.6
#: Longest time that a training may take, in seconds.
TRAINING_S = 3600.0
#: The version that answers while there is none.
UNTRAINED = "untrained"
#: How often somebody opens a task during the training and the swap, in seconds.
OPEN_EVERY_S = 0.5

#: How a click asks for a region (docs/labels.md, "Smart tools").
GESTURE = (
    "turn on Auto-Annotation below the image, choose the smart tool (the last button of the toolbar), choose a label of the lower "
    "row, hold Ctrl (Cmd on a Mac) and click. For more of the region choose the label and Ctrl-click again; for less of it add Alt."
)

console = Console()


class Quality(NamedTuple):
    """What predictions are worth: mIoU, and boundary F1 as the mean over the classes."""

    miou: float
    boundary_f1: float


@dataclass
class Traffic:
    """People who open tasks all the while: every answer counted, every failure and mixed version noted."""

    segloop: RunningSegloop
    body: dict[str, Any]
    versions: dict[str, int] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="traffic")

    def __enter__(self) -> Traffic:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    @property
    def served(self) -> int:
        return sum(self.versions.values())

    def _run(self) -> None:
        with self.segloop.client() as client:
            while not self._stop.is_set():
                try:
                    self._check(client.post("/predict", json=self.body))
                except httpx.HTTPError as error:
                    self.failures.append(repr(error))
                self._stop.wait(OPEN_EVERY_S)

    def _check(self, response: httpx.Response) -> None:
        answer = response.json() if response.status_code == 200 else {}
        version = answer.get("model_version")
        [prediction] = answer.get("results") or [{}]
        # before there is a version each task gets {}: Label Studio stores nothing, and asks again
        if not version or ("result" not in prediction and version != UNTRAINED):
            self.failures.append(f"{response.status_code} {response.text[:200]}")
        elif prediction.get("model_version", version) != version:
            self.failures.append(f"{prediction['model_version']} in an answer of {version}")
        else:
            self.versions[version] = self.versions.get(version, 0) + 1


class Demo:
    """One run: a project, an annotator, a training, and what became of the pre-labels."""

    def __init__(self, data: DemoData, label_studio: RunningLabelStudio, segloop: RunningSegloop) -> None:
        self.data, self.label_studio, self.segloop = data, label_studio, segloop
        self.config: LabelConfig = parse_label_config(data.label_config)
        self.http = label_studio.client()
        self.broken: list[str] = []

    def promise(self, kept: bool, what: str) -> None:
        """Note a promise that was not kept."""
        if not kept:
            self.broken.append(what)

    def set_up(self) -> None:
        """Create the project with all images, and connect segloop as anybody would."""
        self.project = self.label_studio.create_project(
            "segloop demo", self.data.label_config, description=f"To correct a region by clicks: {GESTURE}"
        )
        ids = self.label_studio.upload_images(self.project["id"], [e.image for e in (*self.data.train, *self.data.val)])
        self.train_tasks, self.val_tasks = ids[: len(self.data.train)], ids[len(self.data.train) :]
        api = LabelStudio(
            self.label_studio.url, Credentials(self.label_studio.url, SecretStr(self.label_studio.api_key))
        )
        spec = BackendSpec(
            self.segloop.url,
            "segloop",
            basic_auth=(self.segloop.user, SecretStr(self.segloop.password)),
            webhook_secret=SecretStr(self.segloop.secret),
            extra_params={"unlabelled": self.data.unlabelled},
        )
        connected = api.backends.connect(self.project["id"], spec)
        api.projects.change(self.project["id"], sampling=UNCERTAINTY_SAMPLING)
        api.close()
        self.backend_id = connected.backend["id"]
        self.promise(connected.webhook is not None, f"a webhook ({connected.webhook_problem})")
        console.print(
            f"Project with [b]{len(ids)}[/] images and {len(self.data.classes)} classes; segloop is connected."
        )

    def retrieve(self, tasks: Sequence[int]) -> None:
        """Label Studio's own action Retrieve Predictions."""
        body = {
            "selectedItems": {"all": False, "included": list(tasks)},
            "filters": {"conjunction": "and", "items": []},
        }
        params = {"id": "retrieve_tasks_predictions", "project": self.project["id"]}
        self._checked(self.http.post("/api/dm/actions", params=params, json=body, timeout=300))

    def annotate(self) -> None:
        """The annotator draws the true mask of each training image, and submits it."""
        for task, example in zip(self.train_tasks, self.data.train, strict=True):
            truth = example.truth(len(self.data.classes))
            result = [
                self._region(truth, index, name)
                for index, name in enumerate(self.data.classes, start=1)
                if (truth == index).any()
            ]
            self.label_studio.submit_annotation(task, result)

    def train(self) -> dict[str, Any]:
        """Press Start Training, follow it to its end, and return the job's result."""
        self._checked(self.http.post(f"/api/ml/{self.backend_id}/train", json={}))
        columns = (
            TextColumn("[b]{task.description:<12}"),
            BarColumn(),
            TextColumn("{task.fields[facts]}"),
            TimeElapsedColumn(),
        )
        with self.segloop.client() as client, Progress(*columns, console=console) as bar:
            shown = bar.add_task("queued", total=None, facts="")
            job, deadline = None, time.monotonic() + TRAINING_S
            while time.monotonic() < deadline:
                live = client.get("/is_training", params={"project": self.project["id"]}).json()
                job = live.get("job", job)
                if job is None:
                    time.sleep(0.5)
                    continue
                status = client.post("/job_status", json={"job": job}).json()
                progress = status.get("progress") or {}
                facts = [f"{name} {progress[name]:.3f}" for name in ("loss", "miou") if progress.get(name) is not None]
                if progress.get("eta_s"):
                    facts.append(f"{progress['eta_s']:.0f} s left")
                bar.update(
                    shown,
                    description=progress.get("phase", status["job_status"]),
                    total=progress.get("steps"),
                    completed=progress.get("step", 0),
                    facts=", ".join(facts),
                )
                if status["job_status"] in ("finished", "failed", "stopped", "canceled"):
                    break
                time.sleep(0.5)
        if job is None or status["job_status"] != "finished":
            raise SystemExit(f"The training did not finish: {status.get('error') if job else 'it was never queued'}")
        result: dict[str, Any] = status["result"]
        console.print(result["reason"])
        return result

    def wait_for_refresh(self, version: str, timeout_s: float = 600) -> int:
        """Wait until every task without an annotation has a prediction of `version`; how many have."""
        deadline = time.monotonic() + timeout_s
        done = 0
        while time.monotonic() < deadline:
            done = sum(self._prediction(task, version) is not None for task in self.val_tasks)
            if done == len(self.val_tasks):
                break
            time.sleep(1)
        return done

    def title(self) -> str:
        """The title under which Label Studio shows the backend."""
        # by the list: to ask for the backend alone saves its whole row, and may undo a title set meanwhile
        backends = self._checked(self.http.get("/api/ml/", params={"project": self.project["id"]})).json()
        return str(next(entry["title"] for entry in backends if entry["id"] == self.backend_id))

    def quality(self, version: str | None) -> Quality:
        """What the predictions are worth that Label Studio stores for the images nobody labelled."""
        matrix, boundaries = ConfusionMatrix(self.data.classes), BoundaryScore(self.data.classes)
        for task, example in zip(self.val_tasks, self.data.val, strict=True):
            truth = example.truth(len(self.data.classes))
            prediction = self._prediction(task, version) or {"result": []}
            found = annotation_class_map(
                prediction["result"], self.config, Canvas("image", *truth.shape), self.data.classes
            )
            if self.data.unlabelled == "ignore":
                truth = np.where(truth == 0, 255, truth).astype(np.uint8)
            matrix.update(truth, found)
            boundaries.update(truth, found)
        scores = [score for score in boundaries.summary().values() if score is not None]
        return Quality(matrix.summary(len(self.data.val)).miou or 0.0, sum(scores) / max(1, len(scores)))

    def predict_body(self) -> dict[str, Any]:
        """What Label Studio posts when somebody opens a task."""
        task = self._checked(self.http.get(f"/api/tasks/{self.val_tasks[0]}/")).json()
        return {
            "tasks": [{"id": task["id"], "data": task["data"], "project": self.project["id"]}],
            "project": str(self.project["id"]),
            "label_config": self.data.label_config,
            "params": {"login": None, "password": None, "context": None},
        }

    def _prediction(self, task: int, version: str | None) -> dict[str, Any] | None:
        stored = self._checked(self.http.get("/api/predictions/", params={"task": task})).json()
        ours = [prediction for prediction in stored if version is None or prediction["model_version"] == version]
        return ours[-1] if ours else None

    def _region(self, truth: np.ndarray, index: int, name: str) -> dict[str, Any]:
        height, width = truth.shape
        rle = encode_rle(np.where(truth == index, 255, 0).astype(np.uint8))
        place = {"from_name": "tag", "to_name": "image", "type": "brushlabels", "origin": "manual", "image_rotation": 0}
        value = {"format": "rle", "rle": rle, "brushlabels": [name]}
        return {"id": f"true-{index}", **place, "original_width": width, "original_height": height, "value": value}

    @staticmethod
    def _checked(response: httpx.Response) -> httpx.Response:
        if not response.is_success:
            raise SystemExit(
                f"Label Studio answered {response.status_code} to {response.request.url.path}: {response.text[:300]}"
            )
        return response


def trainer_settings(name: str, folder: Path) -> AbstractContextManager[dict[str, Any]]:
    """The settings of a place to train in, which is there as long as they are used."""
    if name not in ("local", "sagemaker"):
        raise SystemExit(f"DEMO_TRAINER is {name!r}: use local or sagemaker.")
    return emulated(folder) if name == "sagemaker" else nullcontext({})


def run(data: DemoData, folder: Path, trainer: str, stay: bool) -> int:
    """Show everything; 0, or 1 if a promise was not kept."""
    installing = console.status("Preparing Label Studio (its first time takes a minute or two) ...")
    with installing:
        installed(), template()
    with trainer_settings(trainer, folder) as elsewhere, RunningLabelStudio() as label_studio:
        settings = {**elsewhere, "label_studio_url": label_studio.url, "label_studio_api_key": label_studio.api_key}
        # a short run from scratch: by the clock, so that the demo takes the same time on a slow machine, and of small
        # steps, because on its scenes twice as many of them teach more
        settings |= {
            "weights": "none",
            "input_size": data.input_size,
            "train_epochs": 60,
            "train_minutes": TRAIN_MINUTES,
            "train_batch_size": 2,
            "guided_steps": 0,
        }
        own = {
            name.removeprefix("SEGLOOP_").lower(): value
            for name, value in os.environ.items()
            if name.startswith("SEGLOOP_")
        }
        with console.status("Starting segloop: backend, workers, queue ..."):
            segloop = RunningSegloop(folder, **{**settings, **own})
            segloop.start()
        try:
            return show(Demo(data, label_studio, segloop), stay)
        finally:
            segloop.stop()


def show(demo: Demo, stay: bool) -> int:
    """The demo proper."""
    console.print(f"Label Studio [b]{demo.label_studio.url}[/], segloop [b]{demo.segloop.url}[/]")
    demo.set_up()
    with console.status("Retrieving predictions before any training ..."):
        demo.retrieve(demo.val_tasks)
        before = demo.quality(None)
    console.print(
        f"Pre-labels before any training: mIoU [b]{before.miou:.3f}[/], boundary F1 [b]{before.boundary_f1:.3f}[/] "
        f"on {len(demo.val_tasks)} images nobody labels."
    )
    with console.status(f"The annotator labels {len(demo.train_tasks)} images ..."):
        demo.annotate()
    console.print(f"The annotator has labelled {len(demo.train_tasks)} images and presses Start Training.")
    with Traffic(demo.segloop, demo.predict_body()) as traffic:
        result = demo.train()
        version = result["version"]
        with console.status("Predictions are refreshed ..."):
            refreshed = demo.wait_for_refresh(version)
    after = demo.quality(version)

    table = Table(title="Pre-labels of images nobody labelled")
    for column in ("version", "mIoU", "boundary F1", "predictions", "requests served", "failed"):
        table.add_column(column, justify="left" if column == "version" else "right")
    old = next((name for name in traffic.versions if name != version), UNTRAINED)
    table.add_row(
        old, *(f"{value:.3f}" for value in before), str(len(demo.val_tasks)), str(traffic.versions.get(old, 0)), ""
    )
    table.add_row(
        version,
        *(f"{value:.3f}" for value in after),
        f"{refreshed} refreshed",
        str(traffic.versions.get(version, 0)),
        str(len(traffic.failures)),
    )
    console.print(table)

    demo.promise(result["promoted"], "the trained version is promoted")
    demo.promise(after.miou >= before.miou + GAIN, f"the mIoU of the pre-labels rises by at least {GAIN}")
    demo.promise(after.boundary_f1 > before.boundary_f1, "the boundary F1 of the pre-labels rises")
    demo.promise(refreshed == len(demo.val_tasks), "every unlabelled task gets a prediction of the new version")
    demo.promise(demo.title() == version, "Label Studio shows the new version as the backend's title")
    demo.promise(not traffic.failures, f"no request fails during training and swap: {traffic.failures[:3]}")
    demo.promise(version in traffic.versions, "the new version answers requests")
    for what in demo.broken:
        console.print(f"[red b]not kept:[/] {what}")
    if not demo.broken:
        console.print("[green b]Every promise was kept.[/]")
    if stay:
        console.print(f"\nLook at it: [b]{demo.label_studio.url}/projects/{demo.project['id']}[/]")
        console.print(f"Login [b]{demo.label_studio.email}[/], password [b]{demo.label_studio.password}[/].")
        console.print(f"There, open a task without annotations. To correct a region by clicks: {GESTURE}")
        console.print(f"Why the new version was promoted: [b]{demo.segloop.url}/ui/[/]")
        console.print(f"Login [b]{demo.segloop.user}[/], password [b]{demo.segloop.password}[/]. Ctrl-C ends it all.")
        try:
            signal.pause()
        except KeyboardInterrupt:
            console.print("Ending.")
    return 1 if demo.broken else 0


def main() -> int:
    if len(sys.argv) > 1:
        print(USAGE)
        return 0 if sys.argv[1] in ("-h", "--help") else 2
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    folder = Path(tempfile.mkdtemp(prefix="segloop-demo-"))
    given = os.environ.get("DEMO_DATA")
    train = int(os.environ.get("DEMO_TRAIN", 100 if given else 64))
    val = int(os.environ.get("DEMO_VAL", 24 if given else 12))
    try:
        data = from_folder(Path(given), train, val) if given else generated(folder / "scenes", train, val)
        trainer = os.environ.get("DEMO_TRAINER") or "local"
        return run(data, folder, trainer, stay=os.environ.get("DEMO_EXIT") != "1")
    finally:
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main())
