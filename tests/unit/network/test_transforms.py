"""Resizing, normalising, upsampling and augmenting, against numbers anyone can check and against torch."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from torch.nn import functional as F

from segloop.formats import IGNORED
from segloop.network.transforms import (
    Augmentation,
    augment,
    class_map_of,
    confidence_grid,
    jitter_colours,
    network_size,
    normalise,
    resize_confidence,
    resize_image,
    resize_mask,
)


def rng(seed=0):
    return np.random.default_rng(seed)


def random_image(height, width, seed=0):
    return rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


@pytest.mark.parametrize(
    ("height", "width", "input_size", "expected"),
    [
        (240, 320, 256, (192, 256)),
        (3000, 4000, 512, (384, 512)),
        (320, 240, 256, (256, 192)),
        (512, 512, 512, (512, 512)),
        (30, 40, 256, (192, 256)),  # small images grow
        (10, 4000, 512, (32, 512)),  # never thinner than one stride
        (100, 100, 100, (96, 96)),
    ],
)
def test_network_size(height, width, input_size, expected):
    assert network_size(height, width, input_size) == expected


@given(st.integers(1, 9000), st.integers(1, 9000), st.integers(64, 1024))
def test_network_size_is_in_strides_and_near_the_input_size(height, width, input_size):
    size = network_size(height, width, input_size)
    assert all(side % 32 == 0 and side >= 32 for side in size)
    assert abs(max(size) - input_size) <= 16


def test_shrinking_averages_areas():
    image = np.zeros((2, 2, 3), np.uint8)
    image[0, 0] = (200, 100, 40)
    assert resize_image(image, 1, 1).tolist() == [[[50, 25, 10]]]


def test_a_shrunken_mask_stays_in_place():
    mask = np.repeat(np.array([[1, 2, 3, 4]], np.uint8), 6, axis=0).repeat(3, axis=1)  # (6, 12): bands of three
    assert resize_mask(mask, 2, 4).tolist() == [[1, 2, 3, 4]] * 2


def test_resizing_to_the_same_size_changes_nothing():
    image = random_image(5, 7)
    assert (resize_image(image, 5, 7) == image).all()
    assert (resize_mask(image[:, :, 0], 5, 7) == image[:, :, 0]).all()


def test_normalise_as_torchvision_does():
    image = np.array([[[255, 0, 128]]], np.uint8)
    expected = [(1 - 0.485) / 0.229, (0 - 0.456) / 0.224, (128 / 255 - 0.406) / 0.225]
    np.testing.assert_allclose(normalise(image)[:, 0, 0], expected, rtol=1e-5)


# -- logits at the image's size


def at_size(logits, height, width, temperature=1.0):
    grid = confidence_grid(logits, height, width, temperature)
    return class_map_of(logits, height, width), resize_confidence(grid, height, width)


@given(st.integers(1, 6), st.integers(1, 40), st.integers(1, 40), st.integers(0, 99))
def test_a_class_map_gives_the_labels_of_torch(classes, height, width, seed):
    logits = rng(seed).normal(0, 3, (classes, 4, 5)).astype(np.float32)
    resized = F.interpolate(torch.from_numpy(logits)[None], (height, width), mode="bilinear", align_corners=False)[0]
    class_map, confidence = at_size(logits, height, width)
    assert class_map.shape == confidence.shape == (height, width)
    assert (class_map.dtype, confidence.dtype) == (np.uint8, np.float32)
    # where they differ, it is by a tie to within float32
    chosen = resized.gather(0, torch.from_numpy(class_map.astype(np.int64))[None])[0]
    assert (resized.max(dim=0).values - chosen).max() < 1e-4
    assert confidence.min() > 1 / classes - 1e-4
    assert confidence.max() <= 1


def test_at_the_logits_own_size_is_argmax_and_softmax():
    logits = rng().normal(0, 2, (5, 6, 7)).astype(np.float32)
    class_map, confidence = at_size(logits, 6, 7)
    assert (class_map == logits.argmax(axis=0)).all()
    softmax = torch.from_numpy(logits).softmax(dim=0).max(dim=0).values.numpy()
    np.testing.assert_allclose(confidence, softmax, rtol=1e-5)


def test_confidence_by_hand():
    logits = np.zeros((2, 1, 1), np.float32)
    logits[1] = np.log(9)
    for temperature, expected in ((1.0, 0.9), (2.0, 0.75)):  # 9 / 10, and sqrt(9) / (sqrt(9) + 1)
        class_map, confidence = at_size(logits, 3, 2, temperature)
        assert (class_map == 1).all()
        np.testing.assert_allclose(confidence, expected, rtol=1e-6)


def test_confidence_is_low_where_two_classes_meet():
    logits = np.zeros((2, 1, 2), np.float32)
    logits[0, 0, 0] = logits[1, 0, 1] = 4
    class_map, confidence = at_size(logits, 1, 64)
    assert class_map[0].tolist() == [0] * 32 + [1] * 32
    assert confidence[0, [0, -1]].min() > 0.98
    assert confidence[0, 31:33].max() < 0.8


def test_a_tie_goes_to_the_lower_class():
    assert (class_map_of(np.ones((4, 2, 2), np.float32), 8, 8) == 0).all()


@pytest.mark.parametrize("shape", [(3, 3), (0, 2, 2), (256, 2, 2), (1, 2, 2, 2)])
def test_a_class_map_refuses_what_is_not_logits(shape):
    with pytest.raises(ValueError, match="expected"):
        class_map_of(np.zeros(shape, np.float32), 4, 4)


# -- augmentation


def test_augment_without_change_is_the_image_or_its_mirror():
    image = random_image(16, 24)
    mask = image[:, :, 0] % 5
    seen = set()
    for seed in range(12):
        view, truth = augment(image, mask, (16, 24), rng(seed), Augmentation((1, 1), 1, (0,)))
        mirrored = (view != image).any()
        expected = (image[:, ::-1], mask[:, ::-1]) if mirrored else (image, mask)
        assert (view == expected[0]).all()
        assert (truth == expected[1]).all()
        seen.add(mirrored)
    assert seen == {True, False}


def test_augment_moves_image_and_mask_together():
    mask = np.kron(rng(1).integers(0, 2, (6, 8)), np.ones((20, 20))).astype(np.uint8)
    image = np.repeat((mask * 255)[:, :, None], 3, axis=2)
    for seed in range(10):
        view, truth = augment(image, mask, (96, 128), rng(seed), Augmentation(jitters=(0,)))
        inside = truth != IGNORED
        assert ((view[inside][:, 0] > 127) == truth[inside]).mean() > 0.99


def test_augment_pads_with_ignored_pixels_of_the_mean_colour():
    image = np.full((20, 20, 3), 255, np.uint8)
    view, truth = augment(image, np.ones((20, 20), np.uint8), (40, 40), rng(), Augmentation((1, 1), 1, (0,)))
    assert (truth == 1).sum() == pytest.approx(400, abs=45)
    assert (truth == IGNORED).sum() == 1600 - (truth == 1).sum()
    assert (view[truth == IGNORED] < 255).any()


def test_augment_is_seeded():
    image = random_image(30, 30)
    views = [augment(image, image[:, :, 0], (32, 32), rng(7)) for _ in range(2)]
    assert all((first == second).all() for first, second in zip(*views, strict=True))


def test_colours_are_strange_in_some_views_alone():
    """Brightness moves by up to 32 levels in half of the views, by up to 96 in the others."""
    grey = np.full((16, 16, 3), 128, np.uint8)
    same_place = Augmentation((1, 1), 1)
    views = [augment(grey, grey[:, :, 0], (16, 16), rng(seed), same_place)[0] for seed in range(300)]
    moved = np.array([abs(float(view.mean()) - 128) for view in views])
    assert 0.15 < (moved > 42).mean() < 0.45
    assert moved.max() > 70


@given(arrays(np.uint8, (3, 4, 3)))
def test_no_jitter_changes_no_colour(image):
    assert (jitter_colours(image, rng(), 0.0) == image).all()
