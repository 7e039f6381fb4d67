from __future__ import annotations

import io
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from segloop.dataset import Item
from segloop.errors import RegistryError
from segloop.label_config import parse_label_config
from segloop.metrics import ConfusionMatrix
from segloop.registry.gallery import LONG_SIDE, Entry, colours_of, read_image, read_index, write_gallery
from segloop.training.worst import EvaluatedImage, WorstExamples

CLASSES = ("Road", "Sky")


def entry(task: int, *, champion: bool = True) -> Entry:
    maps = [np.full((6, 8), value, np.uint8) for value in (1, 2, 0)]
    maps[0][0, 0] = 255
    photo = np.full((6, 8, 3), 90, np.uint8)
    return Entry(task, photo, maps[0], maps[1], 0.25, maps[2] if champion else None, 0.5 if champion else None)


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    path = tmp_path / "gallery.zip"
    write_gallery(path, [entry(7), entry(8, champion=False)], CLASSES, {"Sky": "#00f"})
    index = read_index(path)
    assert [one.task for one in index.images] == [7, 8]
    assert [(one.name, one.colour) for one in index.classes] == [("Road", "#0072b2"), ("Sky", "#0000ff")]
    assert (index.images[0].champion_miou, index.images[1].has_champion) == (0.5, False)
    truth = Image.open(io.BytesIO(read_image(path, "0-truth.png") or b""))
    assert np.array_equal(np.asarray(truth), [[0, *[1] * 7], *[[1] * 8] * 5]), "ignored pixels are shown as none"
    pixels = np.asarray(truth.convert("RGBA"))
    assert pixels[0, 0, 3] == 0
    assert tuple(pixels[1, 1]) == (0x00, 0x72, 0xB2, 150)
    assert Image.open(io.BytesIO(read_image(path, "1-photo.jpg") or b"")).size == (8, 6)
    assert read_image(path, "1-champion.png") is None
    assert [path.name for path in tmp_path.iterdir()] == ["gallery.zip"]


def test_the_same_images_give_the_same_bytes(tmp_path: Path) -> None:
    for name in ("a.zip", "b.zip"):
        write_gallery(tmp_path / name, [entry(7)], CLASSES, {})
    assert (tmp_path / "a.zip").read_bytes() == (tmp_path / "b.zip").read_bytes()


@pytest.mark.parametrize("name", ["gallery.json", "../../etc/passwd", "0-photo.jpg/", "9-photo.jpg", "0-photo.png"])
def test_only_its_images_are_given(tmp_path: Path, name: str) -> None:
    path = tmp_path / "gallery.zip"
    write_gallery(path, [entry(7)], CLASSES, {})
    assert read_image(path, name) is None


def test_a_file_that_is_no_gallery_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "gallery.zip"
    path.write_bytes(b"no archive")
    with pytest.raises(RegistryError, match="cannot be read"):
        read_index(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("gallery.json", "{}")
    with pytest.raises(RegistryError, match="classes: Field required"):
        read_index(path)


def test_colours_are_those_of_the_label_config() -> None:
    config = parse_label_config(
        '<View><Image name="i" value="$i"/><BrushLabels name="b" toName="i"><Label value="Road" background="#ff0000"/>'
        '<Label value="Sky" background="skyblue"/><Label value="Tree" background="url(evil)"/><Label value="Sea"/>'
        "</BrushLabels></View>"
    )
    assert config.colours == {"Road": "#ff0000", "Sky": "skyblue", "Tree": "url(evil)"}
    found = colours_of(config.classes, config.colours)
    assert found == {"Road": "#ff0000", "Sky": "#87ceeb", "Tree": "#009e73", "Sea": "#cc79a7"}


def seen(task: int, right: int, size: tuple[int, int] = (4, 10)) -> EvaluatedImage:
    """An image of class 1 of which so many tenths of the columns are found."""
    truth = np.ones(size, np.uint8)
    found = np.zeros_like(truth)
    found[:, : right * size[1] // 10] = 1
    matrix = ConfusionMatrix(CLASSES)
    matrix.update(truth, found)
    name = f"{task:064x}"
    item = Item(
        task=task,
        image_tag="image",
        annotations=(),
        image=f"images/{name}.png",
        mask=f"masks/{name}.png",
        width=size[1],
        height=size[0],
        split="val",
    )
    return EvaluatedImage(item, np.zeros((*size, 3), np.uint8), truth, found, matrix)


def test_the_worst_are_kept_and_come_first() -> None:
    worst = WorstExamples(most=2)
    for task, right in ((1, 9), (2, 3), (3, 5), (4, 8)):
        worst.add(seen(task, right))
    for task in (1, 2, 3):
        worst.add_champion(seen(task, 10))
    entries = worst.entries()
    assert [(one.task, one.miou, one.champion_miou) for one in entries] == [(2, 0.3, 1.0), (3, 0.5, 1.0)]
    assert entries[0].champion is not None
    assert entries[0].champion.all()


def test_large_images_become_small() -> None:
    worst = WorstExamples()
    worst.add(seen(1, 5, size=(1000, 2000)))
    [kept] = worst.entries()
    assert kept.photo.shape == (LONG_SIDE // 2, LONG_SIDE, 3)
    assert kept.truth.shape == kept.candidate.shape == (LONG_SIDE // 2, LONG_SIDE)


def test_an_image_without_a_class_is_none_of_the_worst() -> None:
    empty = np.zeros((2, 2), np.uint8)
    matrix = ConfusionMatrix(CLASSES)
    matrix.update(empty, empty)
    nothing = seen(1, 5)
    worst = WorstExamples(most=1)
    worst.add(EvaluatedImage(nothing.item, np.zeros((2, 2, 3), np.uint8), empty, empty, matrix))
    assert worst.entries()[0].miou is None
    worst.add(seen(2, 9))
    assert [one.task for one in worst.entries()] == [2]


def test_an_image_without_a_class_is_among_the_worst_where_classes_are_predicted() -> None:
    empty, painted = np.zeros((2, 2), np.uint8), np.array([[1, 1], [1, 0]], np.uint8)
    matrix = ConfusionMatrix(CLASSES)
    matrix.update(empty, painted)
    worst = WorstExamples(most=1)
    worst.add(EvaluatedImage(seen(1, 5).item, np.zeros((2, 2, 3), np.uint8), empty, painted, matrix))
    worst.add(seen(2, 3))
    assert [(one.task, one.miou) for one in worst.entries()] == [(1, None)], "a quarter of its pixels is right"
