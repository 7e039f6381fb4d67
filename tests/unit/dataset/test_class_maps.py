"""Several annotators of one image: which annotations count, and what the majority says, by hand."""

from __future__ import annotations

import numpy as np
import pytest

from segloop.dataset.class_maps import counting_annotations, majority
from tests.labelling import EARLIER, LATER, annotation

OLD = "2026-11-21T12:00:00Z"


@pytest.mark.parametrize(("annotators", "wanted"), [("ground-truth", [1]), ("latest", [3]), ("majority", [3, 2, 1])])
def test_annotations_that_count_by_setting(annotators: str, wanted: list[int]) -> None:
    annotations = [
        annotation(1, updated_at=OLD, ground_truth=True),
        annotation(2, updated_at=EARLIER),
        annotation(3, updated_at=LATER),
        annotation(4, updated_at=LATER, was_cancelled=True),
    ]
    assert [one["id"] for one in counting_annotations(annotations, annotators)] == wanted  # type: ignore[arg-type]
    assert counting_annotations(annotations[3:], annotators) == []  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("maps", "wanted"),
    [
        ([[0, 1, 2]], [0, 1, 2]),
        # Of two, the newest (the first) wins every tie; what one ignores, the other decides.
        ([[0, 1, 2, 255, 3, 255], [1, 1, 0, 2, 255, 255]], [0, 1, 2, 2, 3, 255]),
        # Background is an opinion as any other.
        ([[1, 1, 2, 1, 255], [0, 2, 2, 2, 1], [0, 2, 1, 3, 2]], [0, 2, 2, 1, 1]),
        # Two against two: the pair that the newest is in, or the newer of the pairs.
        ([[1, 3], [2, 1], [2, 2], [1, 1], [3, 2]], [1, 1]),
    ],
)
def test_majority_of_each_pixel(maps: list[list[int]], wanted: list[int]) -> None:
    assert majority([np.array([one], np.uint8) for one in maps]).tolist() == [wanted]


def test_majority_agrees_with_counting_each_pixel() -> None:
    maps = np.random.default_rng(1).choice(np.array([0, 1, 2, 255], np.uint8), (5, 16, 16))
    combined = majority(list(maps))
    for y, x in np.ndindex(16, 16):
        votes = [int(value) for value in maps[:, y, x] if value != 255]
        best = max(votes.count(value) for value in votes) if votes else 0
        first = next((value for value in votes if votes.count(value) == best), 255)
        assert combined[y, x] == first
