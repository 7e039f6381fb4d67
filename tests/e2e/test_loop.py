"""The loop on a real Label Studio with a real browser: train, see the masks, click, kill, go on."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from typing import Literal

import cv2
import httpx
import numpy as np
import pytest
from playwright.sync_api import Page, expect

from demo.data import COLOURS
from segloop.label_config import parse_label_config
from segloop.masks import decode_rle
from tests.e2e.browser import logged_in, open_task, point_on_page, wait_for, wait_until_drawn
from tests.e2e.loop import HEIGHT, WIDTH, Loop, Project, processes, running_loop

pytestmark = [pytest.mark.label_studio, pytest.mark.slow, pytest.mark.timeout(900)]

#: Brush regions are drawn softly at their edges, which are not compared.
BAND_PX = 1


@pytest.fixture(scope="module")
def loop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Loop]:
    with running_loop(tmp_path_factory.mktemp("loop"), train=12, val=4, train_min_steps=24) as loop:
        yield loop


@pytest.fixture(scope="module")
def project(loop: Loop) -> Project:
    return loop.project("in the browser")


@pytest.fixture(scope="module")
def page(loop: Loop) -> Iterator[Page]:
    with logged_in(loop.label_studio) as page:
        yield page


def test_start_training_in_the_page_leads_to_a_new_version_though_its_worker_is_killed(
    loop: Loop, project: Project, page: Page
) -> None:
    page.goto(f"{loop.label_studio.url}/projects/{project.id}/settings/ml")
    page.click('[aria-label="Machine learning model options"]')
    page.get_by_text("Start Training", exact=True).click()
    page.get_by_role("button", name="Start Training").click()
    expect(page.get_by_text("Request Sent!")).to_be_visible()
    job = wait_for(
        "a training that has made some steps", lambda: steps_made(project) >= 3 and project.training()["job"]
    )
    [worker] = processes(loop.segloop.data_dir, "-m worker retrain", leaders_only=True)
    os.kill(worker, signal.SIGKILL)
    version = wait_for("a promoted version all the same", project.champion)
    status = wait_for("the same job to end", lambda: loop.finished(job))
    assert status["result"]["version"] == version
    wait_for("the title in Label Studio", lambda: project.title() == version)
    for task in project.unlabelled:
        [prediction] = wait_for(f"a prediction of task {task}", lambda task=task: project.predictions(task))
        assert prediction["model_version"] == version
        assert 0 <= prediction["score"] <= 1
    assert all(project.predictions(task) == [] for task in project.labelled)
    line = f"segloop: {version} was promoted. {loop.segloop.url}/ui/projects/{project.id}"
    wait_for("word of it in Label Studio", lambda: line in (loop.api.projects.get(project.id)["description"] or ""))
    page.goto(f"{loop.label_studio.url}/projects")
    expect(page.get_by_text(line)).to_be_visible()


def steps_made(project: Project) -> int:
    """Steps that the training of a project without a version has made; 0 once there is a version."""
    return (project.training().get("progress") or {}).get("step", 0) if project.champion() is None else 0


def test_the_masks_of_a_prediction_are_on_the_canvas(loop: Loop, project: Project, page: Page) -> None:
    class_maps = {task: predicted_class_map(project, task) for task in project.unlabelled}
    # A mask over everything or nothing would prove little.
    task = min(class_maps, key=lambda task: abs((class_maps[task] > 0).mean() - 0.5))
    open_task(page, loop.label_studio, project.id, task)
    wait_until_drawn(page, class_maps[task], COLOURS[: len(loop.data.classes)], BAND_PX)


def test_clicks_over_pre_labels_as_the_page_describes_them(loop: Loop, project: Project, page: Page) -> None:
    """docs/labels.md, "Smart tools", step by step, with the pre-labels where they are."""
    task = project.unlabelled[-1]
    open_task(page, loop.label_studio, project.id, task)
    regions = page.locator(".lsf-outliner-item").count()
    assert regions >= 2
    masks = prediction_masks(project, task)
    name = max(masks, key=lambda name: masks[name].sum())
    other = max((one for one in masks if one != name), key=lambda one: masks[one].sum())
    page.get_by_text("Auto-Annotation", exact=True).click()
    page.locator(".lsf-tool_smart").click()
    first = clicked(page, name, middle(masks[name]), ["Control"])
    place = middle(masks[other] & ~first)
    second = clicked(page, name, place, ["Control"])
    assert second[place]
    assert second.sum() > first.sum()
    assert (second & first).sum() > 0.9 * first.sum()
    third = clicked(page, name, place, ["Control", "Alt"])
    assert not third[place]
    accept = page.locator("[data-testid=bottombar-accept-suggestions-button]")
    accept.click()
    expect(accept).to_have_count(0)
    expect(page.locator(".lsf-outliner-item")).to_have_count(regions + 1)


def clicked(page: Page, label: str, place: tuple[int, int], keys: list[Literal["Control", "Alt"]]) -> np.ndarray:
    """Choose a label of the row for clicks, click on a pixel with keys held, and wait for the region: its mask."""
    page.locator(".lsf-label", has_text=label).nth(1).click()
    row, column = place
    # before the keys are held: with Ctrl, the key that fits the image into its canvas is another one
    point = point_on_page(page, column, row, WIDTH, HEIGHT)
    with page.expect_response(lambda response: "interactive-annotating" in response.url) as caught:
        for key in keys:
            page.keyboard.down(key)
        page.mouse.click(*point)
        for key in keys:
            page.keyboard.up(key)
    answer = caught.value.json()
    assert "data" in answer, f"Label Studio could not get a region: {answer}"
    [found] = answer["data"]["result"]
    assert found["value"]["brushlabels"] == [label]
    return np.asarray(decode_rle(found["value"]["rle"], HEIGHT, WIDTH) > 0)


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
