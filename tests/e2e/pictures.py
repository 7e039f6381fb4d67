"""The documentation's pictures of the demo and the status page, of real trainings: `python -m pytest tests/e2e/pictures.py`.

No test: its name keeps it out of a run of all of them. It takes some minutes.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from subprocess import PIPE
from typing import Any

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Browser, Page

from demo.label_studio import EMAIL, PASSWORD
from tests.e2e.browser import DESKTOP, logged_in, new_page, open_task, wait_for
from tests.e2e.loop import Loop, Project, region, running_loop
from tests.e2e.test_loop import clicked, middle, prediction_masks
from tests.e2e.test_page import browser, visited

__all__ = ["browser"]

pytestmark = pytest.mark.timeout(7200)

IMAGES = Path(__file__).parents[2] / "docs" / "images"
#: Tasks that the first version has not seen.
LATER = 10
#: Optimizer steps of each training, and the size that it sees images at.
STEPS, SIZE = 160, 192
#: Width and height, in pixels, of the animation: two thirds of the browser's window.
ANIMATION = (1000, 667)


@pytest.fixture(scope="module")
def loop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Loop]:
    own = {
        "train_min_steps": STEPS,
        "input_size": SIZE,
        "adapt_threshold": 0,
        "reconcile_s": 3600,
        "val_fraction": 0.25,
        "suspects": "all",
    }
    with running_loop(tmp_path_factory.mktemp("pictures"), train=36, val=24, **own) as loop:
        yield loop


def test_take_them(loop: Loop, browser: Browser) -> None:
    project = loop.project("Street scenes")
    train(loop, project)
    first = wait_for("a first version", project.champion, 3600)
    wait_until_idle(project)
    examples = list(zip(project.unlabelled, loop.data.val, strict=True))[:LATER]
    for task, example in examples:
        loop.label_studio.submit_annotation(task, regions_of(loop, example.truth(len(loop.data.classes))))
    mislabel(loop, project, first)
    train(loop, project)
    with visited(browser, loop) as page:
        page.goto(f"/ui/projects/{project.id}")
        share = "() => document.querySelector('#job-progress')?.value ?? 0"
        wait_for("a training that is well under way", lambda: page.evaluate(share) > 0.7, 3600)
        keep(page.locator("#job").screenshot(), "ui-training")
        page.goto("/ui/")
        keep(page.screenshot(clip={"x": 0, "y": 0, "width": DESKTOP["width"], "height": 350}), "ui-projects")
        wait_until_idle(project)
        page.goto(f"/ui/projects/{project.id}")
        photograph(page, "ui-project", ".tiles.four", "[aria-labelledby=versions-title]")
        photograph(page, "ui-suspects", "#suspects", ".suspect-list > li:nth-child(4)")
        photograph(page, "ui-version", "#version", ".gallery > li:nth-child(2)")
    assert len(loop.registry.versions(project.key)) == 2, f"{first} has a successor"


def test_take_the_gesture(loop: Loop) -> None:
    """Clicks over pre-labels, as docs/labels.md has them: the tool chosen, the region after one click, and after another."""
    project = loop.project("Clicks")
    train(loop, project)
    wait_for("a version", project.champion, 3600)
    wait_until_idle(project)
    task = project.unlabelled[0]
    wait_for("a prediction", lambda: project.predictions(task))
    masks = prediction_masks(project, task)
    name = max(masks, key=lambda name: masks[name].sum())
    other = max((one for one in masks if one != name), key=lambda one: masks[one].sum())
    with logged_in(loop.label_studio) as page:
        open_task(page, loop.label_studio, project.id, task)
        page.get_by_text("Auto-Annotation", exact=True).click()
        page.locator(".lsf-tool_smart").click()
        shown = [page.screenshot()]
        found = np.zeros_like(masks[name])
        for _ in range(2):
            # another piece of the label, where it has one
            rest = masks[name] & ~found
            found = clicked(page, name, middle(rest if rest.any() else masks[other]), ["Control"])
            page.wait_for_timeout(1500)
            shown.append(page.screenshot())
    frames = [Image.open(BytesIO(one)).convert("RGB").resize(ANIMATION) for one in shown]
    frames[0].save(
        IMAGES / "click.webp", save_all=True, append_images=frames[1:], duration=[1500, 2500, 3500], loop=0, quality=80
    )


def test_take_the_demo(browser: Browser) -> None:
    """An image that nobody labels, as Label Studio shows it before and after the training of `make demo`."""
    page = new_page(browser, viewport={"width": 900, "height": 680})
    halves = []
    with subprocess.Popen([sys.executable, "-m", "demo"], stdout=PIPE, text=True, start_new_session=True) as demo:
        try:
            for line in demo.stdout or ():
                print(line, end="")
                if address := re.match(r"Label Studio (http://\S+),", line):
                    site = address[1]
                elif "Start Training" in line:
                    halves.append(last_task_of_demo(page, site))
                elif "Why the new version was promoted" in line:
                    halves.append(last_task_of_demo(page, site))
                    break
        finally:
            os.killpg(demo.pid, signal.SIGINT)
    pair = [np.asarray(Image.open(BytesIO(half)).convert("RGB")) for half in halves]
    Image.fromarray(np.hstack(pair)).save(IMAGES / "demo.webp", quality=85, method=6)


def last_task_of_demo(page: Page, site: str) -> bytes:
    """A picture of the demo's last task, which nobody labels, as its user opens it now."""
    page.goto(site)
    if page.locator("input[name=email]").count():
        page.fill("input[name=email]", EMAIL)
        page.fill("input[name=password]", PASSWORD)
        page.click("button[type=submit]")
        page.wait_for_url(lambda url: "/login" not in url)
    [project] = page.request.get(f"{site}/api/projects").json()["results"]
    tasks = page.request.get(f"{site}/api/tasks?project={project['id']}&page_size=100").json()["tasks"]
    page.goto(f"{site}/projects/{project['id']}/data?task={max(task['id'] for task in tasks)}")
    page.wait_for_selector("canvas")
    page.wait_for_timeout(5000)
    return page.screenshot()


def regions_of(loop: Loop, truth: np.ndarray) -> list[dict[str, Any]]:
    """What an annotator draws of a class map."""
    return [region(truth, i, name) for i, name in enumerate(loop.data.classes, 1)]


def mislabel(loop: Loop, project: Project, version: str) -> None:
    """Have the buildings of a task labelled as trees that the version holds out, for the suspected labels."""
    with loop.segloop.client() as client:
        shown = client.get(f"/ui/projects/{project.id}", params={"version": version, "format": "json"}).json()
    task = shown["chosen"]["gallery"][-1]["task"]
    truth = loop.data.train[project.labelled.index(task)].truth(len(loop.data.classes))
    building, tree = (loop.data.classes.index(name) + 1 for name in ("Building", "Tree"))
    [annotation] = loop.http.get(f"/api/tasks/{task}/annotations/").raise_for_status().json()
    drawn = regions_of(loop, np.where(truth == building, tree, truth))
    loop.http.patch(f"/api/annotations/{annotation['id']}/", json={"result": drawn}).raise_for_status()


def train(loop: Loop, project: Project) -> None:
    loop.http.post(f"/api/ml/{project.backend}/train", json={}).raise_for_status()


def wait_until_idle(project: Project) -> None:
    wait_for("the end of the training", lambda: not project.training()["is_training"], 3600)


def photograph(page: Page, name: str, first: str, last: str) -> None:
    """Keep a picture of the page from the top of one element to the bottom of another."""
    for row in page.locator(".gallery > li, .suspect-list > li").all():
        row.scroll_into_view_if_needed()
    page.wait_for_function("() => [...document.images].every(one => one.complete)")
    page.wait_for_load_state("networkidle")
    page.evaluate("() => scrollTo(0, 0)")
    top, bottom = (page.locator(one).evaluate("one => one.getBoundingClientRect()") for one in (first, last))
    clip = {"x": 0, "y": top["top"] - 12, "width": DESKTOP["width"], "height": bottom["bottom"] - top["top"] + 24}
    keep(page.screenshot(full_page=True, clip=clip), name)  # type: ignore[arg-type]


def keep(picture: bytes, name: str) -> None:
    """Put a picture into the documentation."""
    Image.open(BytesIO(picture)).convert("RGB").save(IMAGES / f"{name}.webp", quality=85, method=6)
