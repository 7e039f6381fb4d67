"""Projects as people have them, in a real Label Studio: two names, pages in a Repeater, a label that was renamed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from playwright.sync_api import Page

from demo.label_studio import RunningLabelStudio
from segloop.dataset import MANIFEST, Manifest, Memory, Mirror, SnapshotInputs, read_manifest, snapshot, sync
from segloop.doctor import labels
from segloop.images import ImageSource
from segloop.label_config import parse_label_config
from segloop.labelstudio import Credentials, LabelStudio
from segloop.network.network import build_network, save_bundle
from segloop.payloads import project_key
from segloop.results import Canvas, RegionWriter, Scene, draw_annotation
from segloop.settings import Settings
from tests.e2e.browser import logged_in, wait_for
from tests.e2e.loop import Loop, Project, running_loop
from tests.image_server import Server, ok, png, serving
from tests.labelling import MemorySplits
from tests.toys import toy_info

pytestmark = [pytest.mark.label_studio, pytest.mark.slow, pytest.mark.timeout(600)]

WIDTH, HEIGHT = 64, 48
LABELS = '<Label value="Sky"/><Label value="Road"/>'
PAGES = f"""<View><Repeater on="$pages" indexFlag="{{{{i}}}}"><Image name="p_{{{{i}}}}" value="$pages[{{{{i}}}}].url"/>
<BrushLabels name="b_{{{{i}}}}" toName="p_{{{{i}}}}">{LABELS}</BrushLabels></Repeater></View>"""
PLAIN = f"""<View><Image name="image" value="$image"/>
<PolygonLabels name="p" toName="image">{LABELS}</PolygonLabels></View>"""
#: Trainings of seconds.
TINY = {"arch": "fcn_resnet50", "input_size": 64, "train_min_steps": 2, "min_val_tasks": 1, "val_fraction": 0.4}


@pytest.fixture(scope="module")
def public() -> Iterator[Server]:
    """What answers at Label Studio's public address and at 127.0.0.1 there: nobody's business but browsers'."""
    with serving() as server:
        yield server


@pytest.fixture(scope="module")
def loop(tmp_path_factory: pytest.TempPathFactory, public: Server) -> Iterator[Loop]:
    folder = tmp_path_factory.mktemp("odd")
    own = {"label_studio_public_url": f"http://localhost:{public.server_port}", "image_hosts": "127.0.0.1"}
    with running_loop(folder, train=1, val=1, adapt_threshold=0, reconcile_s=5, **own, **TINY) as loop:
        yield loop


@pytest.fixture(scope="module")
def label_studio(loop: Loop) -> RunningLabelStudio:
    return loop.label_studio


@pytest.fixture(scope="module")
def page(label_studio: RunningLabelStudio) -> Iterator[Page]:
    with logged_in(label_studio) as page:
        yield page


def uploaded(label_studio: RunningLabelStudio, folder: Path, count: int) -> list[str]:
    """Paths of uploaded pictures, each of another grey."""
    paths = []
    for number in range(count):
        paths.append(folder / f"{number}.png")
        cv2.imwrite(str(paths[-1]), np.full((HEIGHT, WIDTH, 3), 30 * number + 20, np.uint8))
    tasks = label_studio.upload_images(label_studio.create_project("pictures", PLAIN)["id"], paths)
    with label_studio.client() as client:
        return [client.get(f"/api/tasks/{task}/").raise_for_status().json()["data"]["image"] for task in tasks]


def imported(label_studio: RunningLabelStudio, project: int, tasks: list[dict[str, Any]]) -> list[int]:
    with label_studio.client() as client:
        answer = client.post(f"/api/projects/{project}/import", params={"return_task_ids": "true"}, json=tasks)
        return answer.raise_for_status().json()["task_ids"]


def half(label: str, left: int, to_name: str = "image") -> dict[str, Any]:
    """A region over the left (0) or the right (50) half of an image."""
    points = [[left, 0], [left + 50, 0], [left + 50, 100], [left, 100]]
    size = {"original_width": WIDTH, "original_height": HEIGHT, "image_rotation": 0}
    value = {"points": points, "closed": True, "polygonlabels": [label]}
    region = {"id": f"{label}{left}", "from_name": "p", "to_name": to_name, "type": "polygonlabels", "value": value}
    return {**region, **size}


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


def serve(project: Project, folder: Path) -> str:
    """Have a project served by a version that finds Sky wherever it looks; the version."""
    network = build_network("fcn_resnet50", 3, 16)
    with torch.no_grad():
        network.classifier[-1].bias[1] = 100  # type: ignore[index]
    info = toy_info(("Sky", "Road"), arch="fcn_resnet50", engines={"error": "none here"})
    info = save_bundle(folder / "bundle", network, info)
    version = project.loop.registry.add(project.key, folder / "bundle", info)
    project.loop.registry.promote(project.key, version, "for a test")
    return version


def predicted(project: Project, task: int, version: str) -> set[tuple[str, str, str]]:
    """Tags and label of each region that a worker has predicted for a task."""

    def made() -> list[dict[str, Any]]:
        return [one for one in project.predictions(task) if one["model_version"] == version]

    [prediction] = wait_for("a prediction", made)
    return {(item["from_name"], item["to_name"], *item["value"][item["type"]]) for item in prediction["result"]}


def test_a_project_under_two_names_is_predicted(loop: Loop, public: Server, tmp_path: Path) -> None:
    """The tasks have Label Studio's public address, which segloop cannot use; LABEL_STUDIO_URL is the internal one."""
    project = Project(loop, loop.label_studio.create_project("two names", PLAIN))
    [path] = uploaded(loop.label_studio, tmp_path, 1)
    elsewhere = "/data/upload/1/elsewhere.png"
    public.answers[elsewhere] = ok(png())
    urls = f"http://localhost:{public.server_port}{path}", f"{public.url}{elsewhere}"
    tasks = imported(loop.label_studio, project.id, [{"data": {"image": url}} for url in urls])
    version = serve(project, tmp_path)
    assert [predicted(project, task, version) for task in tasks] == [{("p", "image", "Sky")}] * 2
    assert set(public.paths) == {elsewhere}
    assert set(public.credentials) == {None}


def test_pages_of_a_repeater_are_predicted_shown_and_learnt(
    loop: Loop, label_studio: RunningLabelStudio, page: Page, tmp_path: Path
) -> None:
    created = label_studio.create_project("pages", PAGES)
    urls = uploaded(label_studio, tmp_path, 6)
    pages = [{"url": url} for url in urls]
    first, second, third = imported(
        label_studio, created["id"], [{"data": {"pages": pages[at : at + 2]}} for at in (0, 2, 4)]
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
    show(page, label_studio, created["id"], first, 2)
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
    manifest = take(label_studio, created, PAGES, tmp_path / "data")
    assert [(item.task, item.image_tag) for item in manifest.items] == [
        (task, f"p_{number}") for task in (first, second) for number in (0, 1)
    ]
    assert (manifest.skipped, manifest.warnings) == ((), ())
    project = Project(loop, created)
    assert predicted(project, third, serve(project, tmp_path)) == {("b_0", "p_0", "Sky"), ("b_1", "p_1", "Sky")}
    show(page, label_studio, project.id, third, 2)


def show(page: Page, label_studio: RunningLabelStudio, project: int, task: int, regions: int) -> None:
    """Open a task, and wait until the editor lists its regions."""
    page.goto(f"{label_studio.url}/projects/{project}/data?task={task}")
    page.wait_for_function(f"document.querySelectorAll('.lsf-outliner-item').length === {regions}")


def test_a_renamed_label_costs_a_retrain_no_task(
    loop: Loop, label_studio: RunningLabelStudio, public: Server, tmp_path: Path
) -> None:
    project = Project(loop, label_studio.create_project("renamed", PLAIN))
    known = [[half("Sky", 0), half("Road", 50)]] * 3
    regions = [*known, [half("Sky", 0, "img")], [half("Sky", 0), half("Street", 50)]]
    urls = [f"http://localhost:{public.server_port}{path}" for path in uploaded(label_studio, tmp_path, len(regions))]
    labelled = [
        {"data": {"image": url}, "annotations": [{"result": result}]} for url, result in zip(urls, regions, strict=True)
    ]
    *before, broken = imported(label_studio, project.id, labelled[:4])
    serve(project, tmp_path)

    renamed = PLAIN.replace('"Road"', '"Street"')
    with label_studio.client() as client:
        client.patch(f"/api/projects/{project.id}/", json={"label_config": renamed}).raise_for_status()
    [after] = imported(label_studio, project.id, labelled[4:])
    trained = project.retrain()
    manifest = read_manifest(loop.registry.bundle(project.key, trained["version"], [MANIFEST]) / MANIFEST)
    assert manifest.classes == ("Sky", "Street")
    assert [item.task for item in manifest.items] == [*before, after]
    [frozen] = (loop.segloop.data_dir / "runs" / project.key).glob("*/snapshot")
    for item in manifest.items:
        mask = cv2.imread(str(frozen / item.mask), cv2.IMREAD_UNCHANGED)
        right = 2 if item.task == after else 255
        assert mask[0].tolist() == [1] * (WIDTH // 2) + [right] * (WIDTH // 2)
    [told] = manifest.warnings
    assert told.startswith(
        "the label 'Road' is not in the label config: the pixels of 3 regions in 3 tasks are ignored"
    )
    [left_out] = manifest.skipped
    assert left_out.task == broken
    assert "point at 'img'" in left_out.reason
    found = labels.known(renamed, loop.api.tasks.annotated_pages(project.id), "ground-truth")
    assert found.status == "warning"
    assert "'Road' is not in the label config: the pixels of 3 regions in 3 tasks" in found.text
    assert "'img' is no tag of the label config: 1 region in 1 task" in found.text
