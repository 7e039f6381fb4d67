"""The simulated annotators of `benchmarks.acquisition`: what is picked, and what is said of curves that are made up."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from benchmarks import acquisition
from benchmarks.acquisition import ACQUISITIONS, Images, Round
from segloop.formats import IGNORED

CLASSES = ("Road", "Pole")


def images(count: int) -> Images:
    """Images whose features are logits of their truth: the top rows are the road, the others poles or unlabelled."""
    truth = np.full((count, 16, 16), 2, np.uint8)
    for index in range(count):
        truth[index, : 2 + index % 12] = 1
    truth[:, :, :2] = IGNORED
    features = torch.from_numpy(np.stack([truth == 1, truth == 2], axis=-1)[:, ::2, ::2].astype(np.float32))
    angles = np.linspace(0, 2, count)
    pooled = np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)
    return Images(features, pooled, truth, CLASSES)


def known(pool: Images, labelled: list[int], count: int, *, first: bool = False) -> Round:
    return Round(pool, np.array(labelled), count, nn.Identity(), np.random.default_rng(0), first)


@pytest.mark.parametrize("name", ACQUISITIONS)
def test_what_is_picked_is_new(name):
    labelled = [0, 5, 9]
    for count in (1, 7, 17):
        found = acquisition.pick(name, known(images(20), labelled, count, first=True))
        assert len(set(found.tolist())) == len(found) == count
        assert not set(found) & set(labelled)


def test_k_center_goes_away_from_what_is_labelled():
    assert acquisition.pick("k-center", known(images(11), [0], 2)).tolist() == [10, 5]


def test_k_means_takes_one_of_each_cluster():
    vectors = np.array([[0, 0], [0.1, 0], [0.3, 0], [9, 9], [9, 9.1], [9, 9.3]], np.float32)
    found = acquisition.nearest_to_means(vectors, 2, np.random.default_rng(1))
    assert sorted(found.tolist()) == [1, 4]


def test_entropy_takes_the_least_sure():
    pool = images(6)
    pool.features[3] = 0.5
    assert acquisition.pick("entropy", known(pool, [0], 1)).tolist() == [3]


def test_the_entropy_of_a_small_class_counts_as_that_of_a_large_one():
    sure, unsure = [1.0, 0.0], [0.4, 0.6]
    cells = np.array([sure] * 8 + [unsure], np.float32).T.reshape(2, 3, 3)
    expected = -(0.4 * np.log(0.4) + 0.6 * np.log(0.6))
    assert acquisition.class_entropy(cells) == pytest.approx(expected, abs=1e-5)


def test_features_are_relative_to_the_pool_and_of_one_size():
    rng = np.random.default_rng(0)
    layers = [torch.from_numpy(rng.normal(5, 3, (6, 4, side, side)).astype(np.float16)) for side in (8, 4)]
    features, pooled = acquisition.combined(layers, 4)
    assert features.shape == (6, 8, 8, 8)
    assert np.allclose(features[:4, ..., :4].flatten(0, 2).mean(0), 0, atol=0.05)
    assert np.allclose(np.linalg.norm(pooled, axis=1), 1, atol=1e-5)
    again, _ = acquisition.combined([torch.cat([layer[:4], 9 + layer[4:]]) for layer in layers], 4)
    assert torch.equal(again[:4], features[:4]), "what is held out changes nothing"


@pytest.mark.slow
def test_annotators_begin_alike_and_a_head_learns():
    pool = images(20)
    found = dict(acquisition.simulate(["random", "entropy"], (pool, images(12)), [2, 4], 0, acquisition.learn_head))
    one, other = found["random"], found["entropy"]
    assert one[0, :2].tolist() == other[0, :2].tolist()
    assert one[1, 0] > 0.8
    assert np.isnan(one[0, 2]), "outlines are measured at the last number alone"
    assert one[1, 2] > 0.5


def test_the_summary_pairs_the_seeds():
    random = np.array([[[0.1, 0.1, np.nan], [0.2, 0.1, np.nan], [0.4, 0.1, 0.2]]] * 3)
    random[1] += 0.3
    line = acquisition.summary(random + np.array([0.02, 0, 0.1]), random, [5, 10, 20])
    assert line["mIoU"] == {5: 0.22, 10: 0.32, 20: 0.52}
    assert (line["mIoU to random"], line["boundary F1 to random"]) == (0.02, 0.1)
    assert line["mIoU to random, 95 %"] == [0.02, 0.02]
    assert line["mean mIoU"] == 0.42


def test_an_interval_by_hand():
    # the standard error of 1, 2, 3 is 1 / sqrt(3); the quantile of Student's t with 2 degrees of freedom 4.303
    assert acquisition.interval(np.array([1.0, 2.0, 3.0])) == pytest.approx(4.3027 / 3**0.5, abs=1e-3)
    assert acquisition.interval(np.array([1.0])) is None
