"""Confident learning by pixel, against tables worked out by hand and against the formulas written down naively."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from segloop.formats import IGNORED
from segloop.suspects.confident import (
    REPEATED,
    PieceOfPixels,
    Thresholds,
    confident_classes,
    label_quality,
    outside_band,
    ranked,
    rarities,
    self_confidence,
    soft_minimum,
    suspected_pieces,
)


def random_image(seed: int, channels: int = 4, size: tuple[int, int] = (24, 30)) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities float32 (C, H, W) and labels uint8 (H, W) that agree in most pixels, some of them ignored."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, 1, (channels, *size))
    labels = np.kron(rng.integers(0, channels, (3, 3)), np.ones((size[0] // 3, size[1] // 3))).astype(np.uint8)
    np.put_along_axis(logits, labels[None].astype(int), 2.0, axis=0)
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=0)
    labels[rng.random(size) < 0.1] = IGNORED
    return probabilities.astype(np.float32), labels


def test_thresholds_are_mean_self_confidences() -> None:
    probabilities = np.array([[[0.9, 0.7, 0.2, 0.4]], [[0.1, 0.3, 0.8, 0.6]], [[0, 0, 0, 0]]], np.float32)
    thresholds = Thresholds(3)
    thresholds.update(probabilities, np.array([[0, 0, 1, IGNORED]], np.uint8))
    assert thresholds.values() == pytest.approx([0.8, 0.8, np.inf])
    thresholds.update(probabilities, np.array([[IGNORED, IGNORED, IGNORED, 1]], np.uint8))
    assert thresholds.values() == pytest.approx([0.8, 0.7, np.inf]), "over all images, each pixel once"


def test_a_pixel_is_counted_as_the_surest_class_that_reaches_its_threshold() -> None:
    """The definition of the confident joint (Northcutt et al. 2021, equation 1), one pixel at a time."""
    probabilities, labels = random_image(1)
    thresholds = Thresholds(4)
    thresholds.update(probabilities, labels)
    values = thresholds.values()
    found = confident_classes(probabilities, values)
    for row, column in np.ndindex(labels.shape):
        pixel = probabilities[:, row, column]
        confident = [channel for channel in range(4) if pixel[channel] >= values[channel]]
        assert found[row, column] == (max(confident, key=lambda c: pixel[c]) if confident else IGNORED)
    assert len(np.unique(found)) > 3


def test_self_confidence_is_the_labels_probability_and_1_where_ignored() -> None:
    probabilities, labels = random_image(2)
    own = self_confidence(probabilities, labels)
    for row, column in np.ndindex(labels.shape):
        label = labels[row, column]
        assert own[row, column] == (1 if label == IGNORED else probabilities[label, row, column])


def test_the_band_lies_on_both_sides_of_a_boundary_and_not_around_ignored_pixels() -> None:
    labels = np.zeros((9, 20), np.uint8)
    labels[:, 10:] = 1
    assert np.flatnonzero(~outside_band(labels)[4]).tolist() == [7, 8, 9, 10, 11, 12]
    labels[:, 10:] = IGNORED
    assert np.flatnonzero(~outside_band(labels)[4]).tolist() == list(range(10, 20)), "the ignored pixels alone"


def test_pieces_have_one_label_and_one_other_class_and_the_larger_margin_comes_first() -> None:
    labels = np.ones((60, 80), np.uint8)
    labels[:, 40:] = 2
    probabilities = np.full((3, 60, 80), 0.05, np.float32)
    np.put_along_axis(probabilities, labels[None].astype(int), 0.9, axis=0)
    probabilities[:, 10:30, 5:25] = np.array([0.02, 0.03, 0.95], np.float32)[:, None, None]
    probabilities[:, 35:55, 50:70] = np.array([0.9, 0.05, 0.05], np.float32)[:, None, None]  # channel 0 has no label
    probabilities[:, 5:25, 55:75] = np.array([0.0, 0.93, 0.07], np.float32)[:, None, None]
    probabilities[:, 58, 1] = (0.0, 0.0, 1.0)  # a speck
    thresholds = Thresholds(3)
    thresholds.update(probabilities, labels)
    first, second = suspected_pieces(probabilities, labels, thresholds.values())
    assert (first.labelled, first.seen, first.box) == (1, 2, (5, 10, 20, 20))
    assert (second.labelled, second.seen, second.box) == (2, 1, (55, 5, 20, 20))
    assert (first.area, first.margin) == pytest.approx((400 / 4800, 0.92))
    assert first.score == pytest.approx((400 / 4800) ** 0.25 * 0.92)
    labels[10:30, 5:25] = IGNORED
    assert [one.box for one in suspected_pieces(probabilities, labels, thresholds.values())] == [second.box]


def test_each_further_piece_of_an_image_counts_less() -> None:
    def piece(margin: float) -> PieceOfPixels:
        return PieceOfPixels(1, 2, (0, 0, 1, 1), np.ones((1, 1), np.bool_), 1.0, margin)

    found = ranked([piece(0.7), piece(0.9), piece(0.8)])
    assert [one.margin for one in found] == [0.9, 0.8, 0.7]
    assert [one.score for one in found] == pytest.approx([0.9, 0.8 * REPEATED, 0.7 * REPEATED**2])
    # the worst of one image, then that of another before the second worst of the first
    assert found[1].score < piece(0.75).score < found[0].score


def test_what_is_contradicted_in_many_images_is_not_rare() -> None:
    def piece(labelled: int, seen: int) -> PieceOfPixels:
        return PieceOfPixels(labelled, seen, (0, 0, 1, 1), np.ones((1, 1), np.bool_), 0.1, 0.5)

    images = [[piece(1, 2), piece(1, 2)], [piece(1, 2), piece(2, 1)], [piece(1, 2), piece(1, 0)], []]
    found = rarities(images, shown=[0, 5, 1])
    assert found == {(1, 2): 0.25, (2, 1): 1.0, (1, 0): 1.0}
    assert replace(piece(1, 2), rarity=0.25).score == pytest.approx(piece(1, 2).score / 4)


def test_the_soft_minimum_is_that_of_lad_and_mueller() -> None:
    scores = np.array([0.9, 0.2, 0.7, 1.0], np.float32)
    weights = [math.exp((1 - score) / 0.1) for score in scores.tolist()]
    by_hand = sum(score * weight for score, weight in zip(scores.tolist(), weights, strict=True)) / sum(weights)
    assert soft_minimum(scores) == pytest.approx(by_hand, rel=1e-6)
    assert 0.2 < soft_minimum(scores) < 0.21
    assert soft_minimum(np.array([], np.float32)) == 1.0


def test_an_image_is_as_good_as_its_pixels_outside_the_band() -> None:
    probabilities, labels = random_image(3)
    own = self_confidence(probabilities, labels)
    assert label_quality(probabilities, labels) == soft_minimum(own[outside_band(labels)])
