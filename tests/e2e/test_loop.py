"""The loop on a real Label Studio with a real browser: train, see the masks, click, kill, go on."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import httpx
import numpy as np
import pytest
from playwright.sync_api import Page, expect
from pydantic import SecretStr

from demo.data import COLOURS, DemoData, from_folder
from demo.label_studio import RunningLabelStudio
from demo.scenes import write_scenes
from demo.stack import RunningSegloop
from segloop.label_config import parse_label_config
from segloop.labelstudio import Credentials, LabelStudio
from segloop.masks import decode_rle, encode_rle
from segloop.payloads import project_key
from segloop.registry import open_registry
from segloop.settings import Settings
from tests.e2e.browser import logged_in, open_task, point_on_page, wait_for, wait_until_drawn

pytestmark = [pytest.mark.label_studio, pytest.mark.slow, pytest.mark.timeout(900)]

WIDTH, HEIGHT = 320, 240
#: Brush regions are drawn softly at their edges, which are not compared.
BAND_PX = 1


class Loop:
    """A Label Studio, a segloop, and what somebody does with both."""

    def __init__(self, label_studio: RunningLabelStudio, segloop: RunningSegloop, data: DemoData) -> None:
        self.label_studio, self.segloop, self.data = label_studio, segloop, data
        self.registry = open_registry(Settings(data_dir=segloop.data_dir))
        self.api = LabelStudio(label_studio.url, Credentials(label_studio.url, SecretStr(label_studio.api_key)))
        self.http = label_studio.client()

    def project(self, title: str) -> Project:
        return Project(self, title)


class Project:
    """A project with labelled and unlabelled scenes, connected to segloop."""

    def __init__(self, loop: Loop, title: str) -> None:
        self.loop = loop
        data = loop.data
        created = loop.label_studio.create_project(title, data.label_config)
        self.id, self.key = created["id"], project_key(created)
        ids = loop.label_studio.upload_images(self.id, [example.image for example in (*data.train, *data.val)])
        self.labelled, self.unlabelled = ids[: len(data.train)], ids[len(data.train) :]
        connected = loop.api.connect(
            self.id,
            loop.segloop.url,
            title="segloop",
            basic_auth=(loop.segloop.user, SecretStr(loop.segloop.password)),
            webhook_secret=SecretStr(loop.segloop.secret),
        )
        self.backend = connected["backend"]["id"]
        for task, example in zip(self.labelled, data.train, strict=True):
            truth = example.truth(len(data.classes))
            loop.label_studio.submit_annotation(task, [region(truth, i, n) for i, n in enumerate(data.classes, 1)])

    def champion(self) -> str | None:
        champion = self.loop.registry.champion(self.key)
        return None if champion is None else champion.version

    def predictions(self, task: int) -> list[dict[str, Any]]:
        answer = self.loop.http.get("/api/predictions/", params={"task": task})
        return answer.raise_for_status().json()

    def title(self) -> str:
        return self.loop.http.get(f"/api/ml/{self.backend}").raise_for_status().json()["title"]

    def training(self) -> dict[str, Any]:
        with self.loop.segloop.client() as client:
            return client.get("/is_training", params={"project": self.id}).raise_for_status().json()


def region(truth: np.ndarray, index: int, name: str) -> dict[str, Any]:
    """A brush region of one class, as an annotator draws it."""
    height, width = truth.shape
    rle = encode_rle(np.where(truth == index, 255, 0).astype(np.uint8))
    place = {"from_name": "tag", "to_name": "image", "type": "brushlabels", "origin": "manual", "image_rotation": 0}
    value = {"format": "rle", "rle": rle, "brushlabels": [name]}
    return {"id": f"true-{index}", **place, "original_width": width, "original_height": height, "value": value}


@pytest.fixture(scope="module")
def loop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Loop]:
    folder = tmp_path_factory.mktemp("loop")
    write_scenes(folder / "scenes", train=12, val=4, size=(WIDTH, HEIGHT))
    with RunningLabelStudio() as label_studio:
        segloop = RunningSegloop(
            folder,
            weights="none",
            input_size=128,
            train_epochs=1,
            train_min_steps=48,
            label_studio_url=label_studio.url,
            label_studio_api_key=label_studio.api_key,
        )
        with segloop:
            made = Loop(label_studio, segloop, from_folder(folder / "scenes", 12, 4))
            yield made
            made.api.close()
            made.http.close()
        print(segloop.log.read_text(errors="replace")[-6000:])


@pytest.fixture(scope="module")
def project(loop: Loop) -> Project:
    return loop.project("in the browser")


@pytest.fixture(scope="module")
def page(loop: Loop) -> Iterator[Page]:
    with logged_in(loop.label_studio) as page:
        yield page


def test_start_training_in_the_page_leads_to_a_new_version(loop: Loop, project: Project, page: Page) -> None:
    page.goto(f"{loop.label_studio.url}/projects/{project.id}/settings/ml")
    page.click('[aria-label="Machine learning model options"]')
    page.get_by_text("Start Training", exact=True).click()
    page.get_by_role("button", name="Start Training").click()
    expect(page.get_by_text("Request Sent!")).to_be_visible()
    assert wait_for("a queued training", lambda: project.training()["is_training"] or project.champion())
    version = wait_for("a promoted version", project.champion)
    wait_for("the title in Label Studio", lambda: project.title() == version)
    for task in project.unlabelled:
        [prediction] = wait_for(f"a prediction of task {task}", lambda task=task: project.predictions(task))
        assert prediction["model_version"] == version
        assert 0 <= prediction["score"] <= 1
    assert all(project.predictions(task) == [] for task in project.labelled)


def test_the_masks_of_a_prediction_are_on_the_canvas(loop: Loop, project: Project, page: Page) -> None:
    class_maps = {task: predicted_class_map(project, task) for task in project.unlabelled}
    # A mask over everything or nothing would prove little.
    task = min(class_maps, key=lambda task: abs((class_maps[task] > 0).mean() - 0.5))
    open_task(page, loop.label_studio, project.id, task)
    wait_until_drawn(page, class_maps[task], COLOURS[: len(loop.data.classes)], BAND_PX)


def test_a_smart_tool_click_returns_a_region(loop: Loop, project: Project, page: Page) -> None:
    task = project.unlabelled[-1]
    open_task(page, loop.label_studio, project.id, task)
    masks = prediction_masks(project, task)
    name = max(masks, key=lambda name: masks[name].sum())
    row, column = middle(masks[name])
    # a click on a region selects it, so the prediction's own regions go first
    while page.locator(".lsf-outliner-item").count():
        page.locator(".lsf-outliner-item").first.click()
        page.keyboard.press("Backspace")
        page.wait_for_timeout(300)
    page.get_by_text("Auto-Annotation").click()
    index = loop.data.classes.index(name)
    page.locator(".lsf-label", has_text=name).nth(1).click()
    page.locator(".lsf-tool_smart").first.hover()
    page.click(".lsf-toolbar__smart [aria-label=key-point-tool]")
    with page.expect_response(lambda response: "interactive-annotating" in response.url, timeout=60_000) as caught:
        page.mouse.click(*point_on_page(page, column, row, WIDTH, HEIGHT))
    answer = caught.value.json()
    assert "data" in answer, f"Label Studio could not get a region: {answer}"
    [found] = answer["data"]["result"]
    assert found["value"]["brushlabels"] == [loop.data.classes[index]]
    mask = decode_rle(found["value"]["rle"], HEIGHT, WIDTH) > 0
    assert mask[row, column]
    expect(page.locator("[data-testid=bottombar-accept-suggestions-button]")).to_be_visible()


def test_a_worker_killed_in_the_middle_of_a_training_ends_in_a_promoted_version(loop: Loop) -> None:
    project = loop.project("kill -9")
    loop.http.post(f"/api/ml/{project.backend}/train", json={}).raise_for_status()

    def step() -> int:
        return (project.training().get("progress") or {}).get("step", 0) if project.champion() is None else 0

    job = wait_for("a training that has made some steps", lambda: step() >= 3 and project.training()["job"])
    [worker] = processes(loop.segloop.data_dir, "-m worker retrain", leaders_only=True)
    os.kill(worker, signal.SIGKILL)
    version = wait_for("a promoted version all the same", project.champion)
    status = wait_for("the same job to end", lambda: finished(loop, job))
    assert status["result"]["version"] == version
    wait_for("the title in Label Studio", lambda: project.title() == version)


def finished(loop: Loop, job: str) -> dict[str, Any] | None:
    with loop.segloop.client() as client:
        status = client.post("/job_status", json={"job": job}).raise_for_status().json()
    assert status["job_status"] != "failed", status
    return status if status["job_status"] == "finished" else None


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


def prediction_masks(project: Project, task: int) -> dict[str, np.ndarray]:
    config = parse_label_config(project.loop.data.label_config)
    [prediction] = project.predictions(task)
    masks = {}
    for item in prediction["result"]:
        assert item["from_name"] in {control.name for control in config.controls}
        masks[item["value"]["brushlabels"][0]] = decode_rle(item["value"]["rle"], HEIGHT, WIDTH) > 0
    return masks


def predicted_class_map(project: Project, task: int) -> np.ndarray:
    """The classes of a task's prediction, uint8 (H, W): i + 1 for the i-th class, 0 for none."""
    class_map = np.zeros((HEIGHT, WIDTH), np.uint8)
    for name, mask in prediction_masks(project, task).items():
        class_map[mask] = project.loop.data.classes.index(name) + 1
    return class_map


def middle(mask: np.ndarray) -> tuple[int, int]:
    """The pixel of a mask that is farthest from its edge."""
    padded = np.pad(mask.astype(np.uint8), 1)
    row, column = np.unravel_index(cv2.distanceTransform(padded, cv2.DIST_L2, 5).argmax(), padded.shape)
    return int(row) - 1, int(column) - 1


def test_label_studio_saw_no_refused_event(loop: Loop) -> None:
    """Every event of this session reached the backend: none was refused, none met an error."""
    log = loop.segloop.log.read_text(errors="replace")
    assert "Traceback" not in log
    with httpx.Client(base_url=loop.segloop.url) as stranger:
        assert stranger.post("/webhook", json={"action": "START_TRAINING"}).status_code == 401
