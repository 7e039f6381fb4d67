"""The drawn scenes: files where they belong, every class there, the same seed the same picture."""

from __future__ import annotations

import json

import cv2
import numpy as np

from demo.scenes import CLASSES, NO_LABEL, draw_scene, write_scenes


def test_files_and_classes(tmp_path):
    write_scenes(tmp_path, train=3, val=2, size=(96, 72), seed=5)
    assert json.loads((tmp_path / "classes.json").read_text()) == list(CLASSES)
    for part, count in (("train", 3), ("val", 2)):
        images, masks = (sorted((tmp_path / part / folder).iterdir()) for folder in ("images", "masks"))
        assert [path.stem for path in images] == [path.stem for path in masks]
        assert len(images) == count
        mask = cv2.imread(str(masks[0]), cv2.IMREAD_UNCHANGED)
        assert mask.shape == cv2.imread(str(images[0])).shape[:2] == (72, 96)
        assert set(np.unique(mask)) <= {0, 1, 2, 3, NO_LABEL}


def test_every_class_is_common_and_scenes_differ():
    scenes = [draw_scene(np.random.default_rng(seed), 160, 120) for seed in range(12)]
    share = np.mean([[(mask == value).mean() for value in range(len(CLASSES))] for _, mask in scenes], axis=0)
    assert share.min() > 0.03
    assert len({image.tobytes() for image, _ in scenes}) == 12


def test_a_seed_draws_the_same_scene():
    first, again = (draw_scene(np.random.default_rng(1), 80, 60) for _ in range(2))
    assert (first[0] == again[0]).all()
    assert (first[1] == again[1]).all()
    assert first[0].dtype == first[1].dtype == np.uint8


def test_colour_alone_does_not_tell_the_classes_apart():
    colours = np.zeros((len(CLASSES), 512))
    for seed in range(20):
        image, mask = draw_scene(np.random.default_rng(seed), 160, 120)
        coarse = (image // 32).astype(int) @ [64, 8, 1]
        for value in range(len(CLASSES)):
            colours[value] += np.bincount(coarse[mask == value], minlength=512)
    best_guess = colours.max(axis=0).sum() / colours.sum()
    assert best_guess < 0.8
