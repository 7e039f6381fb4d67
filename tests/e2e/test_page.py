"""The status page in Chromium, over a real Label Studio and a real training: followed, promoted, rolled back, looked at."""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Browser, Error, Page, expect

from tests.e2e.browser import LOOKS, chromium, new_page, serious_faults, wait_for
from tests.e2e.loop import Loop, Project, processes, running_loop

pytestmark = [pytest.mark.label_studio, pytest.mark.slow, pytest.mark.timeout(900)]

#: Optimizer steps of a training here.
STEPS = 24


@pytest.fixture(scope="module")
def loop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Loop]:
    own = {"train_min_steps": STEPS, "input_size": 64, "adapt_threshold": 0, "reconcile_s": 15}
    with running_loop(tmp_path_factory.mktemp("page"), train=10, val=4, **own) as loop:
        yield loop


@pytest.fixture(scope="module")
def project(loop: Loop) -> Project:
    return loop.project("Street scenes")


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as browser:
        yield browser


@contextmanager
def visited(browser: Browser, loop: Loop, look: str = "light") -> Iterator[Page]:
    """A page with the backend's password; it must not complain about a script or a style that is refused."""
    scheme, viewport = LOOKS[look]
    page = new_page(
        browser,
        base_url=loop.segloop.url,
        color_scheme=scheme,
        viewport=viewport,
        http_credentials={"username": loop.segloop.user, "password": loop.segloop.password},
    )
    complaints: list[str] = []
    page.on("console", lambda message: complaints.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: complaints.append(str(error)))
    yield page
    page.close()
    assert complaints == []


def test_a_training_is_followed_from_queued_to_promoted(loop: Loop, project: Project, browser: Browser) -> None:
    with visited(browser, loop) as page:
        page.goto("/ui/")
        page.get_by_role("link", name="Street scenes").click()
        expect(page.get_by_text("None yet: the first training makes one.")).to_be_visible()
        expect(page.locator("dl.tiles.four")).to_contain_text("10 of 14")
        # a worker that stands still leaves the job queued
        [worker] = processes(loop.segloop.data_dir, "-m worker retrain", leaders_only=True)
        os.kill(worker, signal.SIGSTOP)
        page.get_by_role("button", name="Start training").focus()
        page.keyboard.press("Enter")
        expect(page.get_by_role("status")).to_have_text("The training is queued.")
        expect(page.locator("#job-state")).to_have_text("Queued")
        os.kill(worker, signal.SIGCONT)
        # from here on nobody loads the page again
        seen: list[tuple[str, str, float]] = []
        wait_for("the end of the training on the page", lambda: look_at(page, seen) and seen[-1][0] == "Promoted", 700)
        states, steps = [one[0] for one in seen], [one[1] for one in seen]
        assert list(dict.fromkeys(states)) in (["Queued", "Running", "Promoted"], ["Running", "Promoted"])
        assert "Training" in steps, seen
        shares = [share for _, step, share in seen if step == "Training" and share > 0]
        assert len(set(shares)) >= 3, "the bar moves"
        assert shares == sorted(shares)
        version = project.champion()
        expect(page.locator("#served")).to_have_text(str(version))
        expect(page.get_by_role("row", name=re.compile(str(version)))).to_contain_text("Served")
        drawn = page.locator("#version-loss").get_attribute("aria-label") or ""
        assert re.fullmatch(rf"Loss by step: \d\.\d{{3}} at step {STEPS}", drawn)
        assert f"at step {STEPS}" in (page.locator("#version-miou").get_attribute("aria-label") or "")


def look_at(page: Page, seen: list[tuple[str, str, float]]) -> bool:
    """Note the state, the step and the share of the job that the page shows now."""
    try:
        state, step, share = page.evaluate(
            "() => [document.querySelector('#job-state').textContent,"
            " document.querySelector('.phases .now')?.textContent ?? '',"
            " document.querySelector('#job-progress')?.value ?? 0]"
        )
    except Error:  # the page loads itself anew when the training has ended
        return False
    seen.append((state, step, share))
    return True


def test_a_version_is_promoted_and_rolled_back_by_button(
    loop: Loop, project: Project, browser: Browser, tmp_path: Path
) -> None:
    first = project.champion()
    assert first is not None
    second = copy_of(loop, project, first, tmp_path)
    with visited(browser, loop) as page:
        page.goto(f"/ui/projects/{project.id}")
        page.get_by_role("row", name=second).get_by_role("button", name="Promote").click()
        expect(page.get_by_role("status")).to_contain_text("is served from now on")
        expect(page.locator("#served")).to_have_text(second)
        wait_for("the promoted version to answer", lambda: answering(loop, project) == second)
        wait_for("its title in Label Studio", lambda: project.title() == second)
        page.get_by_role("button", name=f"Roll back to {first}").click()
        expect(page.locator("#served")).to_have_text(first)
        wait_for("the earlier version to answer", lambda: answering(loop, project) == first)
        wait_for("its title in Label Studio", lambda: project.title() == first)
    lines = [line for line in loop.segloop.log.read_text(errors="replace").splitlines() if "on the status page" in line]
    assert lines[-1].endswith(f"project {project.key}: segloop (127.0.0.1) rolled back to {first} on the status page")


def answering(loop: Loop, project: Project) -> str:
    with loop.segloop.client() as client:
        return client.get("/versions", params={"project": project.id}).raise_for_status().json()["model_version"]


def copy_of(loop: Loop, project: Project, version: str, folder: Path) -> str:
    """The same network once more, as another version: a training less to wait for."""
    info = loop.registry.get(project.key, version)
    bundle = folder / "bundle"
    shutil.copytree(loop.registry.bundle(project.key, version), bundle)
    (bundle / "note.txt").write_text("a copy", encoding="utf-8")
    return loop.registry.add(project.key, bundle, info.model_copy(update={"files": {}}))


def test_the_gallery_shows_held_out_images_worst_first(loop: Loop, project: Project, browser: Browser) -> None:
    version = project.champion()
    with visited(browser, loop) as page:
        page.goto(f"/ui/projects/{project.id}?version={version}")
        rows = page.locator(".gallery > li")
        assert rows.count() == 2, "a fifth of ten tasks is held out"
        for row in rows.all():
            row.scroll_into_view_if_needed()
            pictures = row.locator("img")
            expect(pictures).to_have_count(5)  # the photo, and both layers of the truth and of this version
            page.wait_for_function(
                "row => [...row.querySelectorAll('img')].every(i => i.complete && i.naturalWidth === 320)",
                arg=row.element_handle(),
            )
        link = rows.first.get_by_role("link")
        address = link.get_attribute("href") or ""
    with loop.segloop.client() as client:
        shown = client.get(f"/ui/projects/{project.id}", params={"version": version, "format": "json"}).json()["chosen"]
        truth = client.get(f"/ui/projects/{project.id}/versions/{version}/gallery/0-truth.png").content
    mious = [image["miou"] for image in shown["gallery"]]
    assert mious == sorted(mious)
    task = shown["gallery"][0]["task"]
    assert address == f"{loop.label_studio.url}/projects/{project.id}/data?task={task}"
    assert [one["name"] for one in shown["legend"]] == list(loop.data.classes)
    expected = loop.data.train[project.labelled.index(task)].truth(len(loop.data.classes))
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(truth))), expected)


@pytest.mark.parametrize("look", LOOKS)
def test_no_serious_accessibility_fault(loop: Loop, project: Project, browser: Browser, look: str) -> None:
    with visited(browser, loop, look) as page:
        for path in ("/ui/", f"/ui/projects/{project.id}"):
            page.goto(path)
            page.wait_for_load_state("networkidle")
            assert serious_faults(page) == []
            wide, inner = page.evaluate("() => [document.documentElement.scrollWidth, innerWidth]")
            assert wide <= inner, "nothing has to be scrolled sideways"


def test_an_unknown_project_is_a_page_too(loop: Loop, project: Project, browser: Browser) -> None:
    credentials = {"username": loop.segloop.user, "password": loop.segloop.password}
    page = new_page(browser, base_url=loop.segloop.url, http_credentials=credentials)
    answer: Any = page.goto("/ui/projects/987654")
    assert answer.status == 404
    page.get_by_role("link", name="All projects").click()
    expect(page.get_by_role("heading", name="Projects")).to_be_visible()
    page.close()


def test_live_curves_grow_and_a_training_is_cancelled(loop: Loop, project: Project, browser: Browser) -> None:
    with visited(browser, loop) as page:
        page.goto(f"/ui/projects/{project.id}")
        page.get_by_role("button", name="Start training").click()
        points: list[int] = []

        def grown() -> bool:
            block = page.locator("#job-curves").text_content() or "{}"
            points.append(len(json.loads(block).get("loss", [])))
            return points[-1] >= 3

        wait_for("a loss curve of some points", grown)
        assert "Loss by step: " in (page.locator("#job-loss").get_attribute("aria-label") or "")
        assert page.locator("#job-loss canvas").count() == 1
        assert serious_faults(page) == []
        page.locator("#cancel summary").focus()
        page.keyboard.press("Enter")
        page.wait_for_timeout(2500)  # the fragment is fetched anew meanwhile, and leaves the question open
        page.get_by_role("button", name="Stop the training").click()
        expect(page.get_by_role("status")).to_contain_text("asked to stop")
        expect(page.locator("#job-state")).to_have_text("Stopped")
        expect(page.locator("#job-message")).to_have_text("Somebody stopped the training.")
