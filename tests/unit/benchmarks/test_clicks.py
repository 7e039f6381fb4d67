"""What `benchmarks.clicks` simulates, on pictures that are made up."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.clicks import LEAST_PX, METHODS, MOST_CLICKS, measured
from segloop.results.views import Place, Sight
from segloop.training.clicking import Piece, clicked, pieces


def scene() -> tuple[Sight, np.ndarray]:
    """A square of class 1 that the network takes for class 2 on its right half, on a ground of class 2."""
    truth = np.full((60, 80), 2, np.uint8)
    truth[15:45, 20:60] = 1
    seen = truth.copy()
    seen[:, 40:] = 2
    picture = np.where((truth == 1)[..., None], np.uint8(180), np.uint8(60)).repeat(3, axis=2)
    chances = np.stack([np.where(seen == value, 0.9, 0.05) for value in range(3)]).astype(np.float32)
    return Sight(picture, seen, chances), truth


def test_each_click_is_at_the_centre_of_the_largest_error() -> None:
    _, truth = scene()
    piece = Piece(1, truth == 1, truth > 0)
    nothing, half, too_much = np.zeros_like(truth, np.bool_), truth == 1, np.ones_like(truth, np.bool_)
    half[:, 40:] = False
    first = piece.next_click(nothing)
    assert first.positive
    assert truth[first.row, first.column] == 1
    assert piece.next_click(half) == Place(30, 49) or piece.next_click(half).column >= 40
    assert not piece.next_click(too_much).positive


def test_small_pieces_and_pixels_of_no_class_are_left_out() -> None:
    _, truth = scene()
    truth[0:3, 0:3] = 1
    truth[50:, :] = 0
    found = list(pieces(truth, truth > 0, LEAST_PX))
    assert [piece.value for piece in found] == [1, 2]
    assert not found[0].counted[55, 5]


# the random walker takes as long as all the others together
@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow) if name == "random-walker" else name for name in METHODS]
)
def test_every_method_answers_every_click(name: str) -> None:
    sight, truth = scene()
    found = clicked(METHODS[name], sight, Piece(1, truth == 1, truth > 0), MOST_CLICKS)
    assert len(found) == MOST_CLICKS
    assert all(0 <= one <= 1 for one in found)


def test_segloop_corrects_what_the_tool_of_before_could_not() -> None:
    seen = [scene()]
    ours, theirs = (measured(METHODS[name], seen, ("thing", "ground")) for name in ("segloop", "before"))
    assert ours["pieces"] == 2
    assert ours["iou_after"]["5"] > theirs["iou_after"]["5"]
    assert ours["clicks_to"]["0.85"] < theirs["clicks_to"]["0.85"]
