"""A network of another library is trained as segloop's own are, and measured image by image."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from benchmarks.held_out import Effort
from benchmarks.held_out_training import measure, train_peer
from segloop.metrics import BoundaryScore
from segloop.network.transforms import class_map_of
from segloop.training import Container
from segloop.training.evaluation import Network
from segloop.training.finishing import steps_to_finish
from tests.painted import CLASSES, examples, hyperparameters, painted
from tests.snapshots import write_base, write_snapshot


@pytest.fixture
def network():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.AvgPool2d(4), nn.Conv2d(8, 3, 1)
    )


def container(folder, **values):
    write_snapshot(folder / "input/data/snapshot", CLASSES, examples(6, 0))
    return Container(write_base(folder, **hyperparameters(**values)))


def held_out(folder):
    write_snapshot(folder, CLASSES, examples(0, 4))
    return folder


@pytest.mark.slow
def test_it_learns_by_steps(network, tmp_path):
    before = measure(Network(network.eval(), CLASSES, 64, torch.device("cpu")), held_out(tmp_path / "held"), None)
    peer, effort = train_peer(network, container(tmp_path, train_min_steps=30, train_lr=0.05), lambda: 0.0)
    after = measure(peer, tmp_path / "held", effort)
    assert (after.effort.steps, after.effort.batch_size) == (30, 2)
    hits = [np.trace(one.counts.sum(axis=0)) / one.counts.sum() for one in (before, after)]
    assert hits[1] > hits[0] + 0.2


@pytest.mark.slow
def test_it_keeps_to_the_time_of_the_clock_that_it_is_given(network, tmp_path):
    times = iter(range(10**6))  # each look at the clock takes a second
    peer, effort = train_peer(
        network, container(tmp_path, train_min_steps=10_000, train_minutes=2), lambda: next(times)
    )
    assert peer.module is network
    assert not network.training
    assert effort.steps < 120
    # the passes that finish a network have their time, and take none here
    assert effort.seconds == pytest.approx(120, abs=3 * (steps_to_finish(6, 2) + 1))


def test_each_image_is_measured_by_itself(network, tmp_path):
    found = measure(Network(network.eval(), CLASSES, 64, torch.device("cpu")), held_out(tmp_path), Effort(1, 2, 3.0))
    assert found.counts.shape == (4, 3, 3)
    assert found.counts.sum(axis=(1, 2)).tolist() == [64 * 64] * 4
    assert found.boundary.shape == (4, 2)
    # all of them together give what the product reports
    together = BoundaryScore(CLASSES)
    served = Network(network, CLASSES, 64, torch.device("cpu"))
    for seed in range(4):
        image, truth = painted(seed)
        together.update(truth, class_map_of(served.logits(image), 64, 64))
    np.testing.assert_allclose(found.boundary.mean(axis=0), list(together.summary().values()))
