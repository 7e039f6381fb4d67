"""Data sets imported into a real Label Studio: what is there is what was in the files, and counts for training."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image
from pydantic import SecretStr

from demo.label_studio import RunningLabelStudio
from segloop.cli import main
from segloop.dataset import Mirror, ProjectSplits, SnapshotInputs, snapshot, sync
from segloop.errors import LabelStudioUnreachable
from segloop.exchange.datasets import read_masks
from segloop.exchange.importing import import_dataset, target_of, uploads
from segloop.images import ImageSource
from segloop.labelstudio import Credentials, LabelStudio
from segloop.payloads import project_key
from segloop.registry import open_registry
from segloop.settings import Settings
from tests.datasets import TRUTH, photo, write_cityscapes, write_coco, write_masks, write_voc

pytestmark = [
    pytest.mark.label_studio,
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),
]

EMPTY = '<View><Image name="image" value="$image"/></View>'
POLYGONS = """<View><Image name="picture" value="$photo"/><PolygonLabels name="p" toName="picture">
<Label value="Road"/><Label value="SKY"/></PolygonLabels></View>"""


@pytest.fixture
def own(running: RunningLabelStudio, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, redis_url: str) -> Settings:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SEGLOOP_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setenv("LABEL_STUDIO_URL", running.url)
    monkeypatch.setenv("LABEL_STUDIO_API_KEY", running.api_key)
    monkeypatch.setenv("REDIS_URL", redis_url)
    return Settings(
        data_dir=tmp_path / "data", label_studio_url=running.url, label_studio_api_key=SecretStr(running.api_key)
    )


def run(*arguments: object) -> Result:
    return CliRunner(env={"COLUMNS": "200"}).invoke(main, ["import", *map(str, arguments)])


def done(*arguments: object) -> dict[str, Any]:
    result = run(*arguments, "--json")
    assert result.exit_code == 0, result.output
    found: dict[str, Any] = json.loads(result.stdout)
    return found


def truths(
    own: Settings, studio: LabelStudio, project: dict[str, Any]
) -> tuple[dict[str, np.ndarray], tuple[str, ...]]:
    """What a retrain would learn from: each task's class map by the name of its example, and the classes."""
    key = project_key(project)
    found = {}
    folder = own.data_dir / "snapshot" / key
    label_config = studio.projects.get(project["id"])["label_config"]
    credentials = Credentials(own.label_studio_url, own.label_studio_api_key)
    with (
        closing(ImageSource(own, credentials, own.data_dir / "images")) as images,
        Mirror(own.data_dir / key) as mirror,
    ):
        sync(mirror, studio.tasks, project["id"])
        names = {task["id"]: task["data"]["source"] for task in mirror.tasks()}
        splits = ProjectSplits(open_registry(own), key)
        manifest = snapshot(SnapshotInputs(key, label_config, images, splits, own), mirror.tasks(), folder)
    for item in manifest.items:
        found[names[item.task]] = np.asarray(Image.open(folder / item.mask))
    return found, manifest.classes


def road_and_sky(classes: tuple[str, ...], road: str, sky: str, between: int) -> np.ndarray:
    values = [between, classes.index(road) + 1, classes.index(sky) + 1]
    return np.array(values, np.uint8)[TRUTH]


def coco(folder: Path) -> list[object]:
    return ["coco", write_coco(folder), "--images", folder / "photos"]


def masks(folder: Path) -> list[object]:
    return [
        "masks",
        folder / "masks",
        "--images",
        folder / "photos",
        "--names",
        write_masks(folder, "palette", images=3),
    ]


def voc(folder: Path) -> list[object]:
    write_voc(folder, images=3)
    return ["voc", folder]


def cityscapes(folder: Path) -> list[object]:
    write_cityscapes(folder, images=3)
    return ["cityscapes", folder]


@pytest.mark.parametrize(
    ("layout", "road", "sky", "between", "ignored"),
    [
        (coco, "road", "sky", 0, False),
        (masks, "road", "sky", 0, True),
        (voc, "car", "person", 0, True),
        (cityscapes, "road", "sky", 255, False),
    ],
)
def test_a_data_set_is_what_is_learnt_from(
    own: Settings,
    running: RunningLabelStudio,
    studio: LabelStudio,
    tmp_path: Path,
    layout: Callable[[Path], list[object]],
    road: str,
    sky: str,
    between: int,
    ignored: bool,
) -> None:
    project = running.create_project("import", EMPTY)
    arguments = [*layout(tmp_path / "set"), "--project", project["id"]]
    refused = run(*arguments)
    assert refused.exit_code == 1
    assert "--set-config" in refused.stderr
    dry = done(*arguments, "--set-config", "--dry-run")
    assert (dry["tasks"], studio.tasks.count(project["id"])) == (3, 0)
    assert studio.projects.get(project["id"])["label_config"] == EMPTY
    first = done(*arguments, "--set-config")
    assert (first["tasks"], first["known"]) == (3, 0)
    assert studio.tasks.totals(project["id"])[:2] == (3, 3), "the Data Manager counts them as labelled"
    again = done(*arguments)
    assert (again["tasks"], again["known"], studio.tasks.count(project["id"])) == (0, 3, 3)
    found, classes = truths(own, studio, project)
    assert len(found) == 3
    for name, class_map in found.items():
        expected = road_and_sky(classes, road, sky, between)
        if ignored:
            expected[:, -2:] = 255
        assert np.array_equal(class_map, expected), name


def test_labels_are_matched_by_name_and_images_stay_where_they_are(
    own: Settings, running: RunningLabelStudio, studio: LabelStudio, tmp_path: Path
) -> None:
    project = running.create_project("polygons", POLYGONS)
    root = running.folder / "files" / "set"
    storage = {"project": project["id"], "path": str(root), "use_blob_urls": True}
    names = write_masks(root, "grey", images=3)
    with running.client() as client:
        client.post("/api/storages/localfiles", json=storage).raise_for_status()
    arguments = ["masks", root / "masks", "--images", root / "photos", "--names", names, "--project", project["id"]]
    imported = done(*arguments, "--local-files", "set/photos")
    assert imported["labels"] == {"road": "Road", "sky": "SKY"}
    data = list(studio.tasks.data(project["id"]))
    assert len(data[0].pop("source_hash")) == 16
    assert data[0] == {"photo": "/data/local-files/?d=set/photos/a.png", "source": "a.png"}
    found, _ = truths(own, studio, project)
    for class_map in found.values():
        seen = class_map[:, :-2]
        assert np.array_equal(seen, TRUTH[:, :-2])
    addressed = running.create_project("addresses", POLYGONS)
    arguments[-1] = addressed["id"]
    done(*arguments, "--address", "s3://bucket/prefix/")
    assert next(studio.tasks.data(addressed["id"]))["photo"] == "s3://bucket/prefix/a.png"


def test_a_run_that_was_stopped_goes_on_where_it_was(
    own: Settings, running: RunningLabelStudio, studio: LabelStudio, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = running.create_project("stopped", POLYGONS)["id"]
    names = write_masks(tmp_path / "set", "colours", images=6)
    dataset = read_masks(tmp_path / "set" / "masks", tmp_path / "set" / "photos", names)
    target = target_of(project, POLYGONS, dataset.classes)
    monkeypatch.setattr("segloop.exchange.importing._BATCH", 2)
    place, calls = uploads(studio, project), []

    def failing(examples: Any) -> list[str]:
        calls.append(len(examples))
        if len(calls) == 2:
            raise LabelStudioUnreachable("away")
        return place(examples)

    with pytest.raises(LabelStudioUnreachable):
        import_dataset(dataset, target, studio, failing, lambda done, new: None)
    assert studio.tasks.count(project) == 2
    again = import_dataset(dataset, target, studio, place, lambda done, new: None)
    assert (again.tasks, again.known, studio.tasks.count(project)) == (4, 2, 6)
    assert len({data["source"] for data in studio.tasks.data(project)}) == 6


def test_other_images_by_the_same_names_are_imported_too(
    own: Settings, running: RunningLabelStudio, studio: LabelStudio, tmp_path: Path
) -> None:
    project = running.create_project("same names", POLYGONS)["id"]
    for number, root in enumerate((tmp_path / "one", tmp_path / "two")):
        names = write_masks(root, "grey")
        for file in (root / "photos").rglob("*.png"):
            Image.fromarray(photo(10 + number)).save(file)
        arguments = ["masks", root / "masks", "--images", root / "photos", "--names", names, "--project", project]
        first, again = done(*arguments), done(*arguments)
        assert [first["tasks"], first["known"], again["tasks"], again["known"]] == [2, 0, 0, 2]
    assert studio.tasks.count(project) == 4


def test_one_bad_mask_costs_its_image_alone(own: Settings, running: RunningLabelStudio, tmp_path: Path) -> None:
    project = running.create_project("bad", POLYGONS)["id"]
    names = write_masks(tmp_path / "set", "grey", images=3)
    Image.new("L", (7, 5)).save(tmp_path / "set" / "masks" / "a.png")
    arguments = ["masks", tmp_path / "set" / "masks", "--images", tmp_path / "set" / "photos", "--names", names]
    found = done(*arguments, "--project", project)
    assert found["tasks"] == 2
    assert any("7 x 5" in problem for problem in found["problems"])
