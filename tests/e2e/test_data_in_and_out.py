"""From annotated files to a model that needs no segloop: imported, trained on, exported, and the same as /predict."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from click.testing import CliRunner
from label_studio_sdk.converter.brush import decode_rle
from PIL import Image

from demo.label_studio import RunningLabelStudio
from demo.stack import RunningSegloop
from segloop.cli import main
from segloop.payloads import project_key
from tests.datasets import photo, write_cityscapes, write_coco, write_masks, write_voc
from tests.predicting import predict_alone
from tests.waiting import until

pytestmark = [
    pytest.mark.label_studio,
    pytest.mark.slow,
    pytest.mark.timeout(900),
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),
]

EMPTY = '<View><Image name="image" value="$image"/></View>'
IMAGES = 3
#: Of an image's pixels, those that ONNX Runtime may give another class than OpenVINO does: near-ties of two classes alone.
#: In the small images that is none.
TIES = 1e-4


@pytest.fixture(scope="module")
def segloop(running: RunningLabelStudio, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningSegloop]:
    with RunningSegloop(
        tmp_path_factory.mktemp("segloop"),
        label_studio_url=running.url,
        label_studio_api_key=running.api_key,
        weights="none",
        input_size=64,
        train_epochs=1,
        train_min_steps=16,
        guided_steps=0,
        suspects="off",
        retrain_threshold=0,
        adapt_threshold=0,
        twin_similarity=1.0,  # the photos of a set are much alike, and are to be held out one by one
        engine="openvino",
    ) as started:
        yield started
        print(started.log.read_text(errors="replace")[-6000:])


def layouts(folder: Path) -> dict[str, list[str]]:
    """The same two classes in each layout, and how each is imported; Cityscapes comes first, with all its classes."""
    coco, masks, voc, cityscapes = (folder / name for name in ("coco", "masks", "voc", "cityscapes"))
    write_voc(voc, labelmap=True, images=IMAGES)
    write_cityscapes(cityscapes, images=IMAGES)
    names = str(write_masks(masks, "palette", images=IMAGES))
    instances = str(write_coco(coco, images=IMAGES))
    photos = [file for name in ("photos", "JPEGImages", "leftImg8bit") for file in folder.rglob(f"{name}/**/*.*")]
    for seed, file in enumerate(sorted(photos)):  # other photos in each set, though some have the same names
        Image.fromarray(photo(seed)).save(file)
    return {
        "cityscapes": [str(cityscapes), "--set-config"],
        "coco": [instances, "--images", str(coco / "photos")],
        "masks": [str(masks / "masks"), "--images", str(masks / "photos"), "--names", names],
        "voc": [str(voc)],
    }


def test_four_data_sets_become_a_model_that_predicts_as_segloop_does(
    running: RunningLabelStudio, segloop: RunningSegloop, tmp_path: Path
) -> None:
    created = running.create_project("in and out", EMPTY)
    project = str(created["id"])

    def run(*arguments: str) -> Any:
        result = CliRunner(env=segloop.environment).invoke(main, [*arguments, "--project", project, "--json"])
        assert result.exit_code == 0, result.output
        return json.loads(result.stdout)

    for layout, arguments in layouts(tmp_path).items():
        assert run("import", layout, *arguments)["tasks"] == IMAGES, layout
    large = tmp_path / "large.jpg"
    Image.fromarray(photo()).resize((640, 427), Image.Resampling.BICUBIC).save(large)
    running.upload_images(created["id"], [large])
    run("connect")
    trained = run("train", "--follow")["result"]
    assert trained["promoted"], trained
    folders = {kind: tmp_path / kind for kind in ("onnx", "openvino")}
    written = run(
        "export", "served", *(text for kind, folder in folders.items() for text in (f"--{kind}", str(folder)))
    )
    assert written["version"] == trained["version"]

    with running.client() as client:
        label_config = client.get(f"/api/projects/{project}/").raise_for_status().json()["label_config"]
        tasks = tasks_of(client, project)
        images = [tmp_path / f"{task['id']}.image" for task in tasks]
        for task, image in zip(tasks, images, strict=True):
            image.write_bytes(client.get(task["data"]["image"]).raise_for_status().content)
    body = {"tasks": tasks, "project": project_key(created), "label_config": label_config, "params": {}}
    answer = predicted(segloop, body, trained["version"])
    for kind, folder in folders.items():
        classes = json.loads((folder / "model.json").read_text())["classes"]
        numbers = {name: int(number) for number, name in classes.items()}
        ours = [class_map(result["result"], numbers) for result in answer["results"]]
        assert all(len(np.unique(one)) >= 2 for one in ours), "a network that sees one class everywhere proves nothing"
        for task, one, other in zip(tasks, ours, predict_alone(folder, images), strict=True):
            assert one.shape == other.shape
            different = float((one != other).mean())
            assert different <= (TIES if kind == "onnx" else 0), f"{kind}, {task['data']}: {different:.6f} differ"


def tasks_of(client: httpx.Client, project: str) -> list[dict[str, Any]]:
    """Id and data of a project's tasks."""
    found = client.get("/api/tasks/", params={"project": project, "page_size": 100}).raise_for_status().json()
    tasks = [{"id": task["id"], "data": task["data"]} for task in found["tasks"]]
    assert len(tasks) == 4 * IMAGES + 1
    return tasks


def predicted(segloop: RunningSegloop, body: dict[str, Any], version: str) -> dict[str, Any]:
    """The answer of /predict once it serves a version."""
    with segloop.client() as client:

        def answer() -> dict[str, Any] | None:
            found: dict[str, Any] = client.post("/predict", json=body).raise_for_status().json()
            return found if found["model_version"] == version else None

        return until(answer, "the promoted version is served")


def class_map(regions: list[dict[str, Any]], numbers: dict[str, int]) -> np.ndarray:
    """What brush regions draw, uint8 (H, W), by Label Studio's own decoder."""
    height, width = regions[0]["original_height"], regions[0]["original_width"]
    drawn = np.zeros((height, width), np.uint8)
    for region in regions:
        [label] = region["value"]["brushlabels"]
        mask = decode_rle(region["value"]["rle"]).reshape(height, width, 4)[..., 3] > 0
        assert not drawn[mask].any(), "regions of two classes overlap"
        drawn[mask] = numbers[label]
    return drawn
