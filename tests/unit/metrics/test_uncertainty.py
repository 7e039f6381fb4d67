"""Acquisition functions: hand-computed scores, their ranges and order, embeddings, and the order of k-center."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from segloop.metrics.uncertainty import ORDER_LIMIT, certainty, embedding, k_center_greedy
from segloop.network.transforms import confidence_grid, probability_grid

ACQUISITIONS = ("confidence", "margin", "entropy", "entropy+diversity")


def grid(*cells: tuple[float, ...]) -> np.ndarray:
    """Probabilities float32 (C, 1, w) of the cells of a row."""
    return np.array(cells, dtype=np.float32).T[:, None, :]


def logits(classes: int = 5) -> st.SearchStrategy[np.ndarray]:
    sides = hnp.array_shapes(min_dims=2, max_dims=2, max_side=6)
    return sides.flatmap(lambda hw: hnp.arrays(np.float32, (classes, *hw), elements=st.floats(-40, 40, width=32)))


@pytest.mark.parametrize(
    ("cells", "confidence", "margin", "entropy"),
    [
        pytest.param([(1, 0, 0, 0)], 1.0, 1.0, 1.0, id="sure"),
        pytest.param([(0.25, 0.25, 0.25, 0.25)], 0.25, 0.0, 0.0, id="no idea"),
        # two of four classes are as likely: 1 bit of 2
        pytest.param([(0, 0.5, 0.5, 0)], 0.5, 0.0, 0.5, id="one of two"),
        # 0.5 log2 2 + 2 * 0.25 log2 4 = 1.5 bits of 2
        pytest.param([(0.25, 0.25, 0.5, 0)], 0.5, 0.25, 0.25, id="a lead"),
        pytest.param([(1, 0, 0, 0), (0.25, 0.25, 0.5, 0)], 0.75, 0.625, 0.625, id="the mean of two cells"),
    ],
)
def test_scores_by_hand(cells, confidence, margin, entropy):
    found = certainty(grid(*cells))
    assert (found.confidence, found.margin, found.entropy) == pytest.approx((confidence, margin, entropy), abs=1e-6)
    assert [found.score(name) for name in ACQUISITIONS] == pytest.approx(
        [confidence, margin, entropy, max(entropy, ORDER_LIMIT)], abs=1e-6
    )


def test_a_network_of_one_class_is_sure():
    found = certainty(np.ones((1, 2, 3), np.float32))
    assert (found.confidence, found.margin, found.entropy) == (1.0, 1.0, 1.0)


def test_what_is_not_finite_stays_so():
    found = certainty(np.full((3, 2, 2), np.nan, np.float32))
    assert all(math.isnan(found.score(name)) for name in ACQUISITIONS)


@given(logits(), st.floats(0.2, 5))
def test_scores_are_shares_and_grow_as_the_temperature_falls(values, temperature):
    height, width = (8 * side for side in values.shape[1:])
    warm, cool = (certainty(probability_grid(values, height, width, t)) for t in (temperature, temperature / 2))
    for name in ACQUISITIONS:
        assert -1e-5 <= warm.score(name) <= cool.score(name) + 1e-5 <= 1 + 2e-5


@pytest.mark.slow
@given(logits())
def test_probabilities_add_up_and_their_greatest_is_the_confidence(values):
    probabilities = probability_grid(values, 20, 30)
    assert np.allclose(probabilities.sum(axis=0), 1, atol=1e-5)
    assert np.array_equal(probabilities.max(axis=0), confidence_grid(values, 20, 30))


def test_an_embedding_is_a_unit_vector_of_shares_by_place():
    left = np.zeros((2, 8, 8), np.float32)
    left[0, :, :4] = left[1, :, 4:] = 1
    found = embedding(left)
    assert (found.shape, found.dtype) == ((2 * 21,), np.float16)
    assert np.linalg.norm(found.astype(np.float64)) == pytest.approx(1, abs=2e-3)
    # each of the pyramid's three levels has a third of the square: half of it in each class, all where that class is
    whole, quarters, cells = np.split(found.astype(np.float64) ** 2 * 3, [2, 10])
    assert whole == pytest.approx([0.5, 0.5], abs=5e-3)
    assert quarters == pytest.approx([0.25, 0.25, 0, 0, 0, 0, 0.25, 0.25], abs=5e-3), "column by column"
    assert cells.reshape(2, 4, 4).sum(axis=2)[0] == pytest.approx([0.25, 0.25, 0, 0], abs=5e-3)


@pytest.mark.slow
@given(logits(classes=3), logits(classes=3))
def test_images_of_any_size_have_embeddings_at_most_a_right_angle_apart(one, other):
    first, second = (embedding(probability_grid(values, 50, 50)).astype(np.float64) for values in (one, other))
    assert np.linalg.norm(first) == pytest.approx(1, abs=5e-3)
    assert 0 <= first @ second <= 1.01


def test_k_center_takes_the_farthest_by_hand():
    # on a line: from 0, then 10, then 5 (5 from both), then 2 (2 from 0) before 9 and 6 (1 from 10 and from 5)
    points = np.array([[0], [2], [9], [10], [5], [6]], np.float32)
    assert k_center_greedy(points, 4) == [0, 3, 4, 1]
    assert k_center_greedy(points, 99) == [0, 3, 4, 1, 2, 5]
    assert k_center_greedy(points, 2, picked=[0, 3]) == [4, 1]
    assert k_center_greedy(points, 0) == []


@given(
    hnp.arrays(np.float32, st.tuples(st.integers(1, 12), st.just(3)), elements=st.floats(-1, 1, width=32)), st.data()
)
def test_an_order_may_be_cut_anywhere_and_continued(points, data):
    order = k_center_greedy(points, len(points))
    assert sorted(order) == list(range(len(points)))
    cut = data.draw(st.integers(1, len(points)))
    assert k_center_greedy(points, cut) == order[:cut]
    assert k_center_greedy(points, len(points), picked=order[:cut]) == order[cut:]
