"""Data sets in their layouts, written here and read back: the class maps are those that were written."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask

from segloop.errors import DatasetError
from segloop.exchange.coco_results import CocoResults
from segloop.exchange.datasets import Dataset, read_cityscapes, read_coco, read_masks, read_voc
from tests.datasets import HEIGHT, TRUTH, WIDTH, photo, write_cityscapes, write_coco, write_masks, write_voc

# pycocotools' own, with NumPy 2
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

LIMIT = 10**6


def maps(dataset: Dataset) -> dict[str, np.ndarray]:
    return {example.name: example.class_map() for example in dataset.examples}


def test_coco_polygons_and_both_run_length_codes(tmp_path: Path) -> None:
    dataset = read_coco(write_coco(tmp_path), tmp_path / "photos", LIMIT)
    assert dataset.classes == ("road", "sky")
    found = maps(dataset)
    assert list(found) == ["a.png", "deep/b.png", "c.png"]
    for name in found:
        assert np.array_equal(found[name], TRUTH), name
    assert dataset.problems == ("gone.png is not in " + str(tmp_path / "photos"),)


def changed(tmp_path: Path, **annotation: Any) -> Dataset:
    file = write_coco(tmp_path)
    content = json.loads(file.read_text())
    content["annotations"][0] |= annotation
    file.write_text(json.dumps(content))
    return read_coco(file, tmp_path / "photos", LIMIT)


@pytest.mark.parametrize(
    "segmentation",
    [
        {"size": [HEIGHT, WIDTH], "counts": [1, 2]},
        {"size": [HEIGHT, WIDTH], "counts": [-1, HEIGHT * WIDTH + 1]},
        {"size": [1, 10**9], "counts": [10**9]},
        {"size": [HEIGHT, WIDTH], "counts": "\x00bad"},
        {"counts": [1]},
        {"size": [HEIGHT, WIDTH], "counts": ""},
        {"size": [HEIGHT, WIDTH], "counts": "QQ"},
        [[1, 2, "x", 4, 5, 6]],
        [[0, 0, 1e9, 0, 1e9, 1e9]],
        [[0, 0, 1e308, 0, -1e308, 1e308]],
        [[0, 0, float("nan"), 9, 9, 9]],
        [[0, 0, float("inf"), 9, 9, 9]],
        7,
    ],
)
def test_a_bad_code_costs_its_image_alone(tmp_path: Path, segmentation: Any) -> None:
    dataset = changed(tmp_path, segmentation=segmentation)
    with pytest.raises(DatasetError, match="cannot be drawn"):
        dataset.examples[0].class_map()
    assert np.array_equal(dataset.examples[1].class_map(), TRUTH)


@pytest.mark.parametrize("segmentation", [None, [], [[1, 2, 3, 4]]], ids=["none", "empty", "too few points"])
def test_pixels_in_a_box_alone_are_ignored_and_are_no_background(tmp_path: Path, segmentation: Any) -> None:
    dataset = changed(tmp_path, segmentation=segmentation, bbox=[4.5, 6, 10, 20.2])
    expected = np.where(TRUTH == 2, 2, 0)
    expected[8:27, 4:15] = 255
    assert np.array_equal(dataset.examples[0].class_map(), expected)
    assert np.array_equal(dataset.examples[1].class_map(), TRUTH)


@pytest.mark.parametrize("box", [[1, 2], [float("inf"), 0, 1, 1], ["x", 0, 1, 1], 7])
def test_a_bad_box_costs_its_image_alone(tmp_path: Path, box: Any) -> None:
    dataset = changed(tmp_path, segmentation=[], bbox=box)
    with pytest.raises(DatasetError, match="cannot be drawn"):
        dataset.examples[0].class_map()


def test_coco_outside_its_folder_or_beyond_the_limit_is_left_out(tmp_path: Path) -> None:
    file = write_coco(tmp_path)
    (tmp_path / "secret.png").write_bytes(b"x")
    content = json.loads(file.read_text())
    content["images"][0]["file_name"] = "../secret.png"
    content["images"][1]["width"] = 10**9
    file.write_text(json.dumps(content))
    dataset = read_coco(file, tmp_path / "photos", LIMIT)
    assert [example.name for example in dataset.examples] == ["c.png"]
    assert len(dataset.problems) == 3
    assert "outside" in dataset.problems[0]


def test_an_area_that_is_no_number_costs_nothing(tmp_path: Path) -> None:
    dataset = changed(tmp_path, area=float("nan"))
    assert np.array_equal(dataset.examples[0].class_map(), TRUTH)


@pytest.mark.parametrize(
    "text",
    ["", "[" * 100_000, "[]", "{}", '{"images": 3, "categories": []}', '{"categories": [{"id": 1}], "images": []}'],
)
def test_what_is_no_coco_file_is_one_line(tmp_path: Path, text: str) -> None:
    (tmp_path / "bad.json").write_text(text)
    with pytest.raises(DatasetError, match=r"bad\.json"):
        read_coco(tmp_path / "bad.json", tmp_path, LIMIT)


def test_predictions_as_coco_are_read_back_the_same(tmp_path: Path) -> None:
    results = CocoResults(("road", "sky"))
    Image.fromarray(photo()).save(tmp_path / "a.png")
    results.add("a.png", TRUTH)
    results.add("b.png", np.zeros_like(TRUTH))
    content = results.content()
    (tmp_path / "predictions.json").write_text(json.dumps(content))
    dataset = read_coco(tmp_path / "predictions.json", tmp_path, LIMIT)
    assert dataset.classes == ("road", "sky")
    assert np.array_equal(dataset.examples[0].class_map(), TRUTH)
    road, sky = content["annotations"]
    assert (road["bbox"], road["area"]) == ([0, 20, WIDTH, HEIGHT - 20], WIDTH * (HEIGHT - 20))
    assert list(coco_mask.toBbox(sky["segmentation"])) == sky["bbox"]


def test_a_polygon_without_area_is_nothing(tmp_path: Path) -> None:
    class_map = changed(tmp_path, segmentation=[[0, 0, 9, 9]]).examples[0].class_map()
    assert set(np.unique(class_map)) == {0, 2}


def test_pycocotools_gives_back_what_it_was_given() -> None:
    code = coco_mask.encode(np.asfortranarray(TRUTH == 2).astype(np.uint8))
    assert np.array_equal(coco_mask.decode(code), TRUTH == 2)


@pytest.mark.parametrize("kind", ["grey", "palette", "colours"])
def test_folders_of_masks(tmp_path: Path, kind: str) -> None:
    names = write_masks(tmp_path, kind)
    dataset = read_masks(tmp_path / "masks", tmp_path / "photos", names)
    assert dataset.classes == ("road", "sky")
    found = maps(dataset)
    assert list(found) == ["a.png", "deep/b.png"]
    for class_map in found.values():
        assert np.array_equal(class_map[:, :-2], TRUTH[:, :-2])
        assert (class_map[:, -2:] == 255).all(), "what has no name is ignored"
    assert dataset.problems == (f"unlabelled.png has no mask in {tmp_path / 'masks'}",)


@pytest.mark.parametrize(
    ("kind", "found"),
    [
        ("grey", "numbers 255 have no name, and those that have one are 0, 1, 2"),
        ("colours", r"colours \(255, 255, 255\)"),
    ],
)
def test_a_mask_of_other_numbers_than_those_with_names_is_left_out(tmp_path: Path, kind: str, found: str) -> None:
    """Black and white masks beside names for 0 and 1: nothing would be learnt, and nobody would know why."""
    names = write_masks(tmp_path, kind)
    Image.fromarray(np.where(TRUTH == 1, 255, 0).astype(np.uint8)).save(tmp_path / "masks" / "a.png")
    dataset = read_masks(tmp_path / "masks", tmp_path / "photos", names)
    with pytest.raises(DatasetError, match=found):
        dataset.examples[0].class_map()
    dataset.examples[1].class_map()
    Image.fromarray(np.zeros_like(TRUTH, dtype=np.uint8)).save(tmp_path / "masks" / "a.png")
    assert not dataset.examples[0].class_map().any(), "an image that shows no class is one of background"


@pytest.mark.parametrize(
    ("text", "classes"),
    [
        ("background\nroad\nsky\n", ("road", "sky")),
        ("# a comment\n\n0 background\n2\ttraffic light\n1 road\n255 void\n", ("road", "traffic light")),
    ],
)
def test_files_of_names(tmp_path: Path, text: str, classes: tuple[str, ...]) -> None:
    (tmp_path / "names.txt").write_text(text)
    (tmp_path / "masks").mkdir()
    assert read_masks(tmp_path / "masks", tmp_path / "masks", tmp_path / "names.txt").classes == classes


@pytest.mark.parametrize("text", ["", "1\n", "1 2 road\n", "1 road\n1 2 3 sky\n", "road\nroad\n"])
def test_files_that_name_nothing_are_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "names.txt").write_text(text)
    (tmp_path / "masks").mkdir()
    with pytest.raises(DatasetError):
        read_masks(tmp_path / "masks", tmp_path / "masks", tmp_path / "names.txt")


def test_pascal_voc(tmp_path: Path) -> None:
    write_voc(tmp_path)
    dataset = read_voc(tmp_path)
    assert len(dataset.classes) == 20
    car, person = dataset.classes.index("car") + 1, dataset.classes.index("person") + 1
    expected = np.where(TRUTH == 1, car, np.where(TRUTH == 2, person, 0))
    for class_map in maps(dataset).values():
        assert np.array_equal(class_map[:, :-2], expected[:, :-2])
        assert (class_map[:, -2:] == 255).all(), "VOC's boundary"
    assert [example.name for example in read_voc(tmp_path, "val").examples] == ["JPEGImages/b.jpg"]
    with pytest.raises(DatasetError, match="no list"):
        read_voc(tmp_path, "test")


def test_pascal_voc_with_a_labelmap(tmp_path: Path) -> None:
    write_voc(tmp_path, labelmap=True)
    dataset = read_voc(tmp_path)
    assert dataset.classes == ("road", "sky")
    for class_map in maps(dataset).values():
        assert np.array_equal(class_map, TRUTH)


def test_cityscapes(tmp_path: Path) -> None:
    write_cityscapes(tmp_path)
    dataset = read_cityscapes(tmp_path)
    road, sky = dataset.classes.index("road") + 1, dataset.classes.index("sky") + 1
    expected = np.where(TRUTH == 1, road, np.where(TRUTH == 2, sky, 255))
    found = maps(dataset)
    assert len(found) == 2
    for class_map in found.values():
        assert np.array_equal(class_map, expected), "labels of other ids are ignored"
    assert [example.name for example in read_cityscapes(tmp_path, "val").examples] == [
        "leftImg8bit/val/ulm/ulm_000001_000019_leftImg8bit.png"
    ]
    assert dataset.problems == ("train/bonn/bonn_000009_000019_leftImg8bit.png has no labels in gtFine",)
    with pytest.raises(DatasetError, match="gtFine"):
        read_cityscapes(tmp_path / "leftImg8bit")


@pytest.mark.parametrize("data", [b"", b"not an image", photo().tobytes()])
def test_a_mask_that_is_no_image_is_one_line(tmp_path: Path, data: bytes) -> None:
    names = write_masks(tmp_path, "grey")
    (tmp_path / "masks" / "a.png").write_bytes(data)
    dataset = read_masks(tmp_path / "masks", tmp_path / "photos", names)
    with pytest.raises(DatasetError, match=r"a\.png"):
        dataset.examples[0].class_map()
    Image.fromarray(photo()).save(tmp_path / "masks" / "a.png")
    with pytest.raises(DatasetError, match="colours"):
        dataset.examples[0].class_map()


def test_no_program_is_started_for_a_mask(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pillow runs Ghostscript for EPS, which it knows by the file's content."""
    (tmp_path / "gs").write_text(f"#!/bin/sh\n: > {tmp_path / 'started'}\n")
    (tmp_path / "gs").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr("PIL.EpsImagePlugin.gs_binary", None)
    names = write_masks(tmp_path, "grey")
    eps = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\nshowpage\n%%EOF\n"
    (tmp_path / "masks" / "a.png").write_bytes(eps)
    dataset = read_masks(tmp_path / "masks", tmp_path / "photos", names)
    with pytest.raises(DatasetError, match="cannot be read as a mask"):
        dataset.examples[0].class_map()
    assert not (tmp_path / "started").exists()


@pytest.mark.parametrize("mode", ["I;16", "I;16B", "I"])
def test_masks_of_16_and_32_bits(tmp_path: Path, mode: str) -> None:
    kind = {"I;16": "<u2", "I;16B": ">u2", "I": "<i4"}[mode]
    names = write_masks(tmp_path, "grey")
    (tmp_path / "masks" / "a.png").unlink()
    numbers = TRUTH.astype(kind)
    numbers[:, -2:] = 65_000
    if mode == "I":
        numbers[:, -2:] = 65_537, -1  # what is 1 or 65,535 in 16 bits
    Image.frombytes(mode, (WIDTH, HEIGHT), numbers.tobytes()).save(tmp_path / "masks" / "a.tif")
    with Image.open(tmp_path / "masks" / "a.tif") as saved:
        assert saved.mode == mode
    class_map = read_masks(tmp_path / "masks", tmp_path / "photos", names).examples[0].class_map()
    assert np.array_equal(class_map[:, :-2], TRUTH[:, :-2])
    assert (class_map[:, -2:] == 255).all(), "what has no name is ignored"


def test_large_numbers_may_have_names(tmp_path: Path) -> None:
    write_masks(tmp_path, "grey")
    (tmp_path / "names.txt").write_text("0 background\n70000 road\n")
    Image.fromarray(np.where(TRUTH == 1, 70_000, 0).astype(np.int32)).save(tmp_path / "masks" / "a.tif")
    (tmp_path / "masks" / "a.png").unlink()
    dataset = read_masks(tmp_path / "masks", tmp_path / "photos", tmp_path / "names.txt")
    assert np.array_equal(dataset.examples[0].class_map(), TRUTH == 1)


@pytest.mark.parametrize("suffix", [".png", ".jpg"])
def test_images_and_masks_in_one_folder(tmp_path: Path, suffix: str) -> None:
    (tmp_path / "names.txt").write_text("background\nroad\nsky\n")
    for stem in ("a", "b"):
        Image.fromarray(photo()).save(tmp_path / f"{stem}{suffix}")
    Image.fromarray(TRUTH).save(tmp_path / "a_mask.png")
    dataset = read_masks(tmp_path, tmp_path, tmp_path / "names.txt")
    assert [example.name for example in dataset.examples] == [f"a{suffix}"]
    assert np.array_equal(dataset.examples[0].class_map(), TRUTH)
    assert dataset.problems == (f"b{suffix} has no mask in {tmp_path}",)


def test_pascal_voc_in_folders(tmp_path: Path) -> None:
    """CVAT keeps the folders of images, of which two may have the same names."""
    for number, folder in enumerate(("north", "south")):
        for part in ("JPEGImages", "SegmentationClass"):
            (tmp_path / part / folder).mkdir(parents=True)
        Image.fromarray(photo(number)).save(tmp_path / "JPEGImages" / folder / "0001.jpg")
        Image.fromarray(TRUTH * np.uint8(number)).save(tmp_path / "SegmentationClass" / folder / "0001.png")
    lists = tmp_path / "ImageSets" / "Segmentation"
    lists.mkdir(parents=True)
    (lists / "train.txt").write_text("south/0001\n")
    dataset = read_voc(tmp_path)
    north, south = dataset.examples
    assert [north.name, south.name] == ["JPEGImages/north/0001.jpg", "JPEGImages/south/0001.jpg"]
    assert north.image.parent.name == "north"
    assert not north.class_map().any()
    assert np.array_equal(south.class_map(), TRUTH)
    assert [example.name for example in read_voc(tmp_path, "train").examples] == [south.name]
    assert not dataset.problems


def test_pascal_voc_with_texts_of_other_tools(tmp_path: Path) -> None:
    """A byte order mark, and names with spaces, which CVAT puts in quotes."""
    write_voc(tmp_path, labelmap=True)
    for part, suffix in (("JPEGImages", "jpg"), ("SegmentationClass", "png")):
        (tmp_path / part / f"a.{suffix}").rename(tmp_path / part / f"my photo.{suffix}")
    lists = tmp_path / "ImageSets" / "Segmentation"
    (lists / "train.txt").write_text('\ufeff"my photo"\n\nb\n')
    (lists / "val.txt").write_text("my photo\nb  1\n")
    labelmap = tmp_path / "labelmap.txt"
    labelmap.write_text(f"\ufeff{labelmap.read_text()}")
    for split in ("train", "val"):
        dataset = read_voc(tmp_path, split)
        assert [example.image.name for example in dataset.examples] == ["my photo.jpg", "b.jpg"], split
        assert dataset.classes == ("road", "sky")
        assert not dataset.problems
    labelmap.write_bytes("Straße:1,2,3::".encode("latin-1"))
    with pytest.raises(DatasetError, match=r"labelmap\.txt cannot be read as UTF-8"):
        read_voc(tmp_path)
    labelmap.unlink()
    (lists / "train.txt").write_bytes("Straße".encode("latin-1"))
    with pytest.raises(DatasetError, match=r"train\.txt cannot be read as UTF-8"):
        read_voc(tmp_path, "train")


@pytest.mark.parametrize("name", ["a" * 300, "a\0.png", "\ud800.png"], ids=["long", "zero", "half"])
def test_a_name_that_no_file_can_have_costs_its_image_alone(tmp_path: Path, name: str) -> None:
    file = write_coco(tmp_path)
    content = json.loads(file.read_text())
    content["images"][0]["file_name"] = name
    file.write_text(json.dumps(content))
    dataset = read_coco(file, tmp_path / "photos", LIMIT)
    assert [example.name for example in dataset.examples] == ["deep/b.png", "c.png"]
    assert "is no name of a file: " in dataset.problems[0]
    assert dataset.problems[0].isprintable()


@pytest.mark.parametrize("prefix", ["{folder}/", "./", "deep/../", ""])
def test_an_image_is_called_by_its_path_below_the_folder(tmp_path: Path, prefix: str) -> None:
    """That is its name in the data set, of which its address is made."""
    folder = tmp_path / "photos"
    file = write_coco(tmp_path)
    content = json.loads(file.read_text())
    for image in content["images"]:
        image["file_name"] = prefix.format(folder=folder) + image["file_name"]
    file.write_text(json.dumps(content))
    dataset = read_coco(file, folder, LIMIT)
    assert [example.name for example in dataset.examples] == ["a.png", "deep/b.png", "c.png"]
    assert all(example.image.is_file() for example in dataset.examples)
