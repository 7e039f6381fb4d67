"""Projects as people have them, in a real Label Studio: pages in a Repeater, and a label that was renamed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from playwright.sync_api import Page

from demo.label_studio import RunningLabelStudio
from segloop.dataset import Manifest, Memory, Mirror, SnapshotInputs, snapshot, sync
from segloop.doctor import labels
from segloop.images import ImageSource
from segloop.label_config import parse_label_config
from segloop.labelstudio import Credentials, LabelStudio
from segloop.payloads import project_key
from segloop.results import Canvas, RegionWriter, Scene, draw_annotation
from segloop.settings import Settings
from tests.e2e.browser import logged_in
from tests.labelling import MemorySplits

pytestmark = [pytest.mark.label_studio, pytest.mark.slow, pytest.mark.timeout(600)]

WIDTH, HEIGHT = 64, 48
LABELS = '<Label value="Sky"/><Label value="Road"/>'
PAGES = f"""<View><Repeater on="$pages" indexFlag="{{{{i}}}}"><Image name="p_{{{{i}}}}" value="$pages[{{{{i}}}}].url"/>
<BrushLabels name="b_{{{{i}}}}" toName="p_{{{{i}}}}">{LABELS}</BrushLabels></Repeater></View>"""
PLAIN = f"""<View><Image name="image" value="$image"/>
<PolygonLabels name="p" toName="image">{LABELS}</PolygonLabels></View>"""


@pytest.fixture(scope="module")
def label_studio() -> Iterator[RunningLabelStudio]:
    with RunningLabelStudio() as running:
        yield running


@pytest.fixture(scope="module")
def page(label_studio: RunningLabelStudio) -> Iterator[Page]:
    with logged_in(label_studio) as page:
        yield page


def uploaded(label_studio: RunningLabelStudio, folder: Path, project: int, count: int) -> list[str]:
    """Addresses of uploaded pictures, each of another grey."""
    paths = []
    for number in range(count):
        paths.append(folder / f"{number}.png")
        cv2.imwrite(str(paths[-1]), np.full((HEIGHT, WIDTH, 3), 40 * number + 20, np.uint8))
    tasks = label_studio.upload_images(project, paths)
    with label_studio.client() as client:
        return [client.get(f"/api/tasks/{task}/").raise_for_status().json()["data"]["image"] for task in tasks]


def imported(label_studio: RunningLabelStudio, project: int, tasks: list[dict[str, Any]]) -> list[int]:
    with label_studio.client() as client:
        answer = client.post(f"/api/projects/{project}/import", params={"return_task_ids": "true"}, json=tasks)
        return answer.raise_for_status().json()["task_ids"]


def take(label_studio: RunningLabelStudio, project: dict[str, Any], label_config: str, folder: Path) -> Manifest:
    """A snapshot of a project as a retrain takes it."""
    settings = Settings(
        data_dir=folder,
        label_studio_url=label_studio.url,
        label_studio_api_key=label_studio.api_key,
        min_val_tasks=1,
        val_fraction=0.5,
    )
    credentials = Credentials(settings.label_studio_url, settings.label_studio_api_key)
    with (
        closing(LabelStudio(label_studio.url, credentials)) as api,
        closing(ImageSource(settings, credentials, folder / "images")) as images,
        Mirror(folder / "mirror") as mirror,
    ):
        sync(mirror, api.tasks, project["id"])
        inputs = SnapshotInputs(project_key(project), label_config, images, MemorySplits(), settings, Memory(mirror))
        return snapshot(inputs, mirror.tasks(), folder / "snapshot")


def test_pages_of_a_repeater_are_predicted_shown_and_learnt(
    label_studio: RunningLabelStudio, page: Page, tmp_path: Path
) -> None:
    project = label_studio.create_project("pages", PAGES)
    urls = uploaded(label_studio, tmp_path, label_studio.create_project("pictures", PLAIN)["id"], 4)
    pages = [{"url": url} for url in urls]
    first, second = imported(
        label_studio, project["id"], [{"data": {"pages": pages[:2]}}, {"data": {"pages": pages[2:]}}]
    )
    config = parse_label_config(PAGES)
    truth = np.zeros((2, HEIGHT, WIDTH), np.uint8)
    truth[0, :20], truth[1, :, 30:] = 1, 2
    result: list[dict[str, Any]] = []
    for number, (tag, _, uri) in enumerate(config.addresses({"pages": pages[:2]})):
        assert (tag.name, uri) == (f"p_{number}", urls[number])
        result += RegionWriter(config, tag.name).scene_regions(Scene(truth[number], config.classes))
    assert [(item["from_name"], item["to_name"]) for item in result] == [("b_0", "p_0"), ("b_1", "p_1")]
    with label_studio.client() as client:
        prediction = {"task": first, "result": result, "model_version": "by hand", "score": 0.5}
        client.post("/api/predictions/", json=prediction).raise_for_status()
    page.goto(f"{label_studio.url}/projects/{project['id']}/data?task={first}")
    page.wait_for_selector(".lsf-outliner-item")
    page.wait_for_function("document.querySelectorAll('.lsf-outliner-item').length === 2")
    with page.expect_response(lambda answer: answer.request.method == "POST" and "/annotations" in answer.url):
        page.click("[data-testid=bottombar-submit-button]")
    with label_studio.client() as client:
        [annotation] = client.get(f"/api/tasks/{first}/annotations/").raise_for_status().json()
    for number in (0, 1):
        canvas = Canvas(f"p_{number}", HEIGHT, WIDTH)
        drawing = draw_annotation(annotation["result"], config, canvas, config.classes)
        assert np.array_equal(drawing.class_map, truth[number])
        assert drawing.problems == ()
    label_studio.submit_annotation(second, result)
    manifest = take(label_studio, project, PAGES, tmp_path / "data")
    assert [(item.task, item.image_tag) for item in manifest.items] == [
        (task, f"p_{number}") for task in (first, second) for number in (0, 1)
    ]
    assert (manifest.skipped, manifest.warnings) == ((), ())


def test_a_renamed_label_costs_no_task(label_studio: RunningLabelStudio, tmp_path: Path) -> None:
    project = label_studio.create_project("renamed", PLAIN)
    urls = uploaded(label_studio, tmp_path, label_studio.create_project("more pictures", PLAIN)["id"], 4)

    def half(label: str, left: int, to_name: str = "image") -> dict[str, Any]:
        points = [[left, 0], [left + 50, 0], [left + 50, 100], [left, 100]]
        value = {"points": points, "closed": True, "polygonlabels": [label]}
        size = {"original_width": WIDTH, "original_height": HEIGHT, "image_rotation": 0}
        return {
            "id": f"{label}{left}",
            "from_name": "p",
            "to_name": to_name,
            "type": "polygonlabels",
            "value": value,
            **size,
        }

    regions = [[half("Sky", 0), half("Road", 50)]] * 3 + [[half("Sky", 0, "img")]]
    tasks = imported(
        label_studio,
        project["id"],
        [
            {"data": {"image": url}, "annotations": [{"result": result}]}
            for url, result in zip(urls, regions, strict=True)
        ],
    )
    renamed = PLAIN.replace('"Road"', '"Street"')
    with label_studio.client() as client:
        client.patch(f"/api/projects/{project['id']}/", json={"label_config": renamed}).raise_for_status()
    manifest = take(label_studio, project, renamed, tmp_path / "data")
    assert [item.task for item in manifest.items] == tasks[:3]
    for item in manifest.items:
        mask = cv2.imread(str(tmp_path / "data" / "snapshot" / item.mask), cv2.IMREAD_UNCHANGED)
        assert mask[0].tolist() == [1] * (WIDTH // 2) + [255] * (WIDTH // 2)
    [told] = manifest.warnings
    assert told.startswith(
        "the label 'Road' is not in the label config: the pixels of 3 regions in 3 tasks are ignored"
    )
    [left_out] = manifest.skipped
    assert left_out.task == tasks[3]
    assert "point at 'img'" in left_out.reason
    credentials = Credentials(
        label_studio.url, Settings(label_studio_api_key=label_studio.api_key).label_studio_api_key
    )
    with closing(LabelStudio(label_studio.url, credentials)) as api:
        found = labels.known(renamed, api.tasks.annotated_pages(project["id"]), "ground-truth")
    assert found.status == "warning"
    assert "'Road' is not in the label config: the pixels of 3 regions in 3 tasks" in found.text
    assert "'img' is no tag of the label config: 1 region in 1 task" in found.text
