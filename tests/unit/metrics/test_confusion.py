from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from segloop.errors import MaskError
from segloop.metrics import ConfusionMatrix, confusion
from segloop.versions import Metrics

TRUTH = np.array([[0, 1, 1, 2], [0, 1, 255, 2]], np.uint8)
PREDICTION = np.array([[0, 1, 2, 2], [1, 1, 1, 0]], np.uint8)


def test_counts_and_summary_by_hand() -> None:
    matrix = ConfusionMatrix(["Sky", "Road", "Tree"])
    matrix.update(TRUTH, PREDICTION)
    #                              background, Sky, Road, Tree
    assert matrix.counts.tolist() == [[1, 1, 0, 0], [0, 2, 1, 0], [1, 0, 1, 0], [0, 0, 0, 0]]
    assert matrix.counts.dtype == np.int64
    # Sky: 2 hits, 1 missed, 1 false: 2/4. Road: 1 hit, 1 missed, 1 false: 1/3. Tree occurs nowhere.
    assert matrix.summary(tasks=1) == Metrics(
        miou=(1 / 2 + 1 / 3) / 2,
        pixel_accuracy=4 / 7,
        iou={"Sky": 1 / 2, "Road": 1 / 3, "Tree": None},
        absent_false_positives={},
        tasks=1,
        pixels=7,
    )


def test_a_class_that_is_only_predicted_is_reported_apart() -> None:
    matrix = ConfusionMatrix(["Sky", "Road", "Tree"])
    matrix.update(np.array([[2, 2, 2, 0, 0, 255]], np.uint8), np.array([[2, 2, 1, 1, 3, 1]], np.uint8))
    # Road: 2 hits, 1 missed, which was predicted as Sky; a pixel without truth counts for nothing
    summary = matrix.summary(1)
    assert summary.iou == {"Sky": None, "Road": 2 / 3, "Tree": None}
    assert summary.miou == 2 / 3
    assert summary.absent_false_positives == {"Sky": 2, "Tree": 1}
    only = ConfusionMatrix(["Sky"])
    only.update(np.zeros((1, 2), np.uint8), np.array([[0, 1]], np.uint8))
    assert (only.summary(1).miou, only.summary(1).absent_false_positives) == (None, {"Sky": 1})


@pytest.mark.parametrize("value", [0, 255])
def test_without_labels_there_is_no_miou(value: int) -> None:
    matrix = ConfusionMatrix(["Sky"])
    matrix.update(np.full((2, 3), value, np.uint8), np.zeros((2, 3), np.uint8))
    summary = matrix.summary(1)
    assert summary.miou is None
    assert summary.pixel_accuracy == (None if value == 255 else 1.0)
    assert summary.pixels == (0 if value == 255 else 6)


def test_nothing_counted_is_json_without_nan() -> None:
    assert json.dumps(ConfusionMatrix(()).summary(0).model_dump(), allow_nan=False)


def test_merge_adds_and_refuses_other_classes() -> None:
    first, second, both = (ConfusionMatrix(["Sky", "Road"]) for _ in range(3))
    first.update(TRUTH, PREDICTION)
    second.update(PREDICTION, PREDICTION)
    both.update(TRUTH, PREDICTION)
    both.update(PREDICTION, PREDICTION)
    first.merge(second)
    assert (first.counts == both.counts).all()
    with pytest.raises(ValueError, match="Road"):
        first.merge(ConfusionMatrix(["Road", "Sky"]))


@pytest.mark.parametrize(
    ("truth", "prediction"), [([[3]], [[0]]), ([[0]], [[3]]), ([[0]], [[255]]), ([[254]], [[0]]), ([[0]], [[0, 0]])]
)
def test_values_and_shapes_that_cannot_be_are_refused_and_count_nothing(
    truth: list[list[int]], prediction: list[list[int]]
) -> None:
    matrix = ConfusionMatrix(["Sky", "Road"])
    with pytest.raises(MaskError):
        matrix.update(np.array(truth, np.uint8), np.array(prediction, np.uint8))
    assert matrix.counts.sum() == 0


def test_254_classes_fit() -> None:
    matrix = ConfusionMatrix([str(number) for number in range(254)])
    matrix.update(np.array([[254, 255]], np.uint8), np.array([[254, 1]], np.uint8))
    assert matrix.counts[254, 254] == 1
    assert matrix.summary(1).iou["253"] == 1.0


def test_large_maps_go_through_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    whole, pieces = ConfusionMatrix(["Sky", "Road"]), ConfusionMatrix(["Sky", "Road"])
    whole.update(TRUTH, PREDICTION)
    monkeypatch.setattr(confusion, "_CHUNK_PIXELS", 3)
    pieces.update(TRUTH, PREDICTION)
    assert (whole.counts == pieces.counts).all()


MAPS = hnp.arrays(np.uint8, (2, 5, 7), elements=st.sampled_from([0, 1, 2, 3]))


@given(maps=MAPS)
def test_counts_agree_with_a_loop(maps: np.ndarray) -> None:
    truth, prediction = maps
    matrix = ConfusionMatrix(["a", "b", "c"])
    matrix.update(truth, prediction)
    for true in range(4):
        for predicted in range(4):
            assert matrix.counts[true, predicted] == int(((truth == true) & (prediction == predicted)).sum())
    perfect = ConfusionMatrix(["a", "b", "c"])
    perfect.update(truth, truth)
    assert perfect.summary(1).miou in (1.0, None)
