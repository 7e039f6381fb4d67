"""The drawn scenes: files where they belong, every class there, thin and touching things, the same seed the same picture."""

from __future__ import annotations

import json

import cv2
import numpy as np
import pytest

from demo.data import from_folder
from demo.scenes import (
    CLASSES,
    NO_LABEL,
    POLE_PX,
    STREET_CLASSES,
    Place,
    draw_scene,
    draw_street,
    write_scenes,
    write_streets,
)


def test_files_and_classes(tmp_path):
    write_scenes(tmp_path, train=3, val=2, size=(96, 72), seed=5)
    assert json.loads((tmp_path / "classes.json").read_text()) == list(CLASSES)
    for part, count in (("train", 3), ("val", 2)):
        images, masks = (sorted((tmp_path / part / folder).iterdir()) for folder in ("images", "masks"))
        assert [path.stem for path in images] == [path.stem for path in masks]
        assert len(images) == count
        mask = cv2.imread(str(masks[0]), cv2.IMREAD_UNCHANGED)
        assert mask.shape == cv2.imread(str(images[0])).shape[:2] == (72, 96)
        assert set(np.unique(mask)) <= {*range(len(CLASSES)), NO_LABEL}


def test_whole_places_of_street_scenes_are_held_out(tmp_path):
    write_streets(tmp_path, train=[1, 2], val=[7], each=2, size=(96, 72))
    data = from_folder(tmp_path, 10, 10)
    assert data.classes == STREET_CLASSES
    assert [example.image.stem for example in data.train] == [
        "place001_0000",
        "place001_0001",
        "place002_0000",
        "place002_0001",
    ]
    assert [example.image.stem for example in data.val] == ["place007_0000", "place007_0001"]
    assert (data.val[0].truth(len(data.classes)) == draw_street(7, 0, (96, 72))[1] + 1).all(), "every pixel has a class"


def test_the_demos_classes_are_common_and_its_scenes_differ():
    scenes = [draw_scene(np.random.default_rng(seed), 320, 240) for seed in range(12)]
    share = np.mean([[(mask == value).mean() for value in range(len(CLASSES))] for _, mask in scenes], axis=0)
    assert share[:-1].min() > 0.03
    assert 0.005 < share[CLASSES.index("Pole")] < 0.02, "it is thin"
    assert len({image.tobytes() for image, _ in scenes}) == 12


def test_every_class_is_in_most_street_scenes():
    masks = [draw_street(index // 2, index, (320, 240))[1] for index in range(16)]
    found = [[(mask == value).any() for value in range(len(STREET_CLASSES))] for mask in masks]
    assert np.mean(found, axis=0).min() >= 0.5
    assert not any((mask == NO_LABEL).any() for mask in masks)


@pytest.mark.parametrize("draw", [lambda: draw_scene(np.random.default_rng(1), 80, 60), lambda: draw_street(3, 1)])
def test_a_seed_draws_the_same_scene(draw):
    first, again = draw(), draw()
    assert (first[0] == again[0]).all()
    assert (first[1] == again[1]).all()
    assert first[0].dtype == first[1].dtype == np.uint8


@pytest.mark.slow
@pytest.mark.parametrize("size", [(96, 64), (320, 240), (640, 480), (1600, 1200)])
def test_poles_are_as_wide_at_every_size(size):
    image, mask = draw_scene(np.random.default_rng(2), *size, classes=("Pole",))
    pole = np.pad((mask == 0).astype(np.int8), ((0, 0), (1, 1)))
    starts, ends = (np.argwhere(np.diff(pole) == change) for change in (1, -1))
    widths = (ends - starts)[:, 1]
    assert len(widths) > size[1] / 4
    assert (widths == POLE_PX).all()
    rows, left = starts[starts[:, 1] >= 3].T
    grey = image.mean(axis=2)
    assert np.abs(grey[rows, left + 1] - grey[rows, left - 3]).mean() > 40, "it stands out"


@pytest.mark.slow
def test_cars_touch_each_other_and_other_things():
    masks = [draw_street(index, index)[1] for index in range(10)]
    car = STREET_CLASSES.index("Car")
    rows = []
    for mask in masks:
        _, _, boxes, _ = cv2.connectedComponentsWithStats((mask == car).astype(np.uint8))
        rows += [box for box in boxes[1:] if box[cv2.CC_STAT_WIDTH] > 3 * box[cv2.CC_STAT_HEIGHT]]
    assert len(rows) > 4, "a car alone is about twice as long as it is high"
    above = np.unique(np.concatenate([mask[:-1][(mask[1:] == car) & (mask[:-1] != car)] for mask in masks]))
    assert {STREET_CLASSES[value] for value in above} >= {"Road", "Pavement", "Ground", "Building", "Tree", "Fence"}


def test_places_look_different():
    colours = np.array([[draw_street(place, i, (96, 72))[0].mean(axis=(0, 1)) for i in range(6)] for place in range(6)])
    assert colours.mean(axis=1).std(axis=0).mean() > colours.std(axis=1).mean()
    assert len({Place.of(seed).horizon for seed in range(6)}) == 6


@pytest.mark.slow
def test_colour_alone_does_not_tell_the_classes_apart():
    for classes, draw in (
        (CLASSES, lambda seed: draw_scene(np.random.default_rng(seed), 160, 120)),
        (STREET_CLASSES, lambda seed: draw_street(1, seed, (160, 120))),
    ):
        colours = np.zeros((len(classes), 512))
        for image, mask in map(draw, range(20)):
            coarse = (image // 32).astype(int) @ [64, 8, 1]
            for value in range(len(classes)):
                colours[value] += np.bincount(coarse[mask == value], minlength=512)
        best_guess = colours.max(axis=0).sum() / colours.sum()
        assert best_guess < 0.8
