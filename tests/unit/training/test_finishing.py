"""What a trained network gets before it is served: statistics, and biases that bring areas nearer to the truth's."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from segloop.formats import IGNORED
from segloop.network.network import build_network
from segloop.settings import Settings
from segloop.training.examples import Examples, Stage, Views
from segloop.training.finishing import (
    AREA_BATCHES,
    STATISTICS_BATCHES,
    TAKEN_BACK,
    estimate_statistics,
    finish,
    match_areas,
    served_batches,
    steps_to_finish,
    take_back_preference,
)
from segloop.training.run import Run
from tests.painted import CLASSES, examples, painted
from tests.snapshots import write_snapshot

CPU = torch.device("cpu")


@pytest.fixture
def views(tmp_path):
    manifest = write_snapshot(tmp_path / "snapshot", CLASSES, examples())
    (tmp_path / "cache").mkdir()
    settings = Settings().model_copy(update={"input_size": 64, "long_side": 0})
    loaded = Examples(tmp_path / "snapshot", manifest.part("train"), settings, tmp_path / "cache", 3)
    return Views(loaded, 0, Stage(loaded.served_size))


def drawn(head: nn.Module, logits: torch.Tensor, size: tuple[int, int]) -> list[int]:
    """In how many pixels each class wins."""
    with torch.no_grad():
        resized = F.interpolate(head(logits), size, mode="bilinear", align_corners=False)
    return torch.bincount(resized.argmax(1).flatten(), minlength=logits.shape[1]).tolist()


def identity(channels: int) -> nn.Conv2d:
    """A last layer that gives what it takes."""
    head = nn.Conv2d(channels, channels, 1)
    with torch.no_grad():
        head.weight.copy_(torch.eye(channels)[:, :, None, None])
        head.bias.zero_()
    return head


def seen(head: nn.Module, logits: torch.Tensor, truth: torch.Tensor) -> list[tuple[torch.Tensor, torch.Tensor]]:
    with torch.no_grad():
        return [(head(logits), truth)]


def wide_poles() -> tuple[torch.Tensor, torch.Tensor]:
    """Logits (B, 3, h, w) of a network that draws poles of 8 pixels where the truth (B, 2 h, 2 w) has poles of 4, on a
    background without class 1."""
    across = torch.arange(64)
    from_pole = (across % 16 - 7.5).abs()
    row = torch.stack([torch.full((64,), 1.0), torch.full((64,), -9.0), 3.0 - from_pole])
    truth = torch.where((torch.arange(128) % 32 - 15.5).abs() < 2, 2, 0)
    return row[None, :, None, :].repeat(4, 1, 48, 1), truth[None, None, :].repeat(4, 96, 1).squeeze(1)


@pytest.mark.slow
@pytest.mark.parametrize(("arch", "stride"), [("fpn_resnet50", 4), ("deeplabv3_resnet50", 16), ("fcn_resnet50", 16)])
def test_what_the_weights_of_rare_classes_taught_is_taken_back_in_part(arch, stride):
    head = build_network(arch, 3, stride).classifier
    last = list(head.modules())[-1]
    before = last.bias.detach().clone()
    take_back_preference(head, torch.tensor([1.0, 0.5, 4.0]))
    moved = (last.bias - before).tolist()
    assert moved == pytest.approx([0, TAKEN_BACK * math.log(2), -TAKEN_BACK * math.log(4)], abs=1e-6)


def test_what_is_drawn_too_wide_gets_narrower():
    logits, truth = wide_poles()
    head = identity(3)
    before, wanted = drawn(head, logits, (96, 128)), (truth == 2).sum().item()
    assert before[2] > 1.5 * wanted
    match_areas(head, seen(head, logits, truth))
    assert head.bias[1] == 0, "the truth has none of it"
    assert head.bias[2] < 0 < head.bias[0]
    assert drawn(head, logits, (96, 128))[2] == pytest.approx(wanted, rel=0.1)


def test_half_of_the_way_moves_biases_half_as_far():
    logits, truth = wide_poles()
    whole, half = identity(3), identity(3)
    match_areas(whole, seen(whole, logits, truth))
    match_areas(half, seen(half, logits, truth), 0.5)
    assert half.bias.tolist() == pytest.approx((whole.bias / 2).tolist())


def test_what_is_as_large_as_it_should_be_stays():
    truth = torch.zeros(2, 64, 64, dtype=torch.int64)
    truth[:, 20:40, 10:30] = 1
    logits = 8.0 * F.one_hot(truth, 2).permute(0, 3, 1, 2).float()
    head = identity(2)
    match_areas(head, seen(head, logits, truth))
    assert head.bias.tolist() == [0, 0]


def test_places_that_are_ignored_do_not_count():
    logits, truth = wide_poles()
    head = identity(3)
    hidden = truth.clone()
    hidden[:, :, :64] = IGNORED
    flooded = logits.clone()
    flooded[:, 2, :, :32] = 9.0  # half of the image would be a pole
    match_areas(head, seen(head, flooded, hidden))
    half = drawn(head, logits[..., 32:], (96, 64))
    assert half[2] == pytest.approx((hidden == 2).sum().item(), rel=0.15)


def test_a_class_of_a_few_places_moves_little():
    """A class of 3 of the 2,000 pixels that are looked at counts for less than one of 300."""
    moved = []
    for rows in (1, 10):
        truth = torch.zeros(2, 100, 100, dtype=torch.int64)
        truth[:, :rows, : 15 * rows] = 1
        logits = torch.stack(
            [torch.zeros(2, 100, 100), torch.linspace(-9, -1, 10_000).reshape(100, 100).repeat(2, 1, 1)], 1
        )
        head = identity(2)
        match_areas(head, seen(head, logits, truth))  # it is never drawn
        moved.append((head.bias[1] - head.bias[0]).item())
    assert 0 < moved[0] < moved[1]


def test_an_image_without_a_labelled_pixel_changes_nothing():
    head = identity(2)
    match_areas(head, seen(head, torch.rand(2, 2, 8, 8), torch.full((2, 16, 16), IGNORED)))
    assert head.bias.tolist() == [0, 0]


def test_the_same_network_gets_the_same_biases():
    logits, truth = wide_poles()
    one, other = identity(3), identity(3)
    for head in (one, other):
        match_areas(head, seen(head, logits + torch.linspace(0, 1, 64), truth))
    assert torch.equal(one.bias, other.bias)


@pytest.mark.slow
def test_statistics_are_those_of_the_images_as_served(views):
    network = nn.Sequential(nn.BatchNorm2d(3)).train()
    network(torch.full((2, 3, 4, 4), 1e4))  # a running average far off
    estimate_statistics(network, served_batches(views, 3), CPU)
    pixels = torch.cat([images for images, _ in views.as_served(12, 4)])
    torch.testing.assert_close(network[0].running_mean, pixels.mean(dim=(0, 2, 3)), rtol=1e-4, atol=1e-4)
    assert not network.training
    assert network(pixels).std().item() == pytest.approx(1, abs=0.05)


def test_images_of_which_no_two_have_one_size_all_count(tmp_path):
    """Eight images are two batches of four; where each has a size of its own they are eight batches."""
    sizes = [(64, 32 * across) for across in range(1, 9)]
    shown = [(*painted(seed, *size), "train") for seed, size in enumerate(sizes)]
    manifest = write_snapshot(tmp_path / "snapshot", CLASSES, shown)
    settings = Settings().model_copy(update={"input_size": 256, "long_side": 0})
    loaded = Examples(tmp_path / "snapshot", manifest.part("train"), settings, tmp_path / "cache", 3)
    batches = served_batches(Views(loaded, 0, Stage(loaded.served_size)), 2)
    assert {images.shape[2:] for images, _ in batches} == {loaded[index][1].shape for index in range(8)}


@pytest.mark.slow
def test_a_finished_network_draws_its_training_images_more_like_they_are(views):
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 3, 1))
    run = Run(network, torch.optim.SGD(network.parameters()), CPU, 1, 1, 0, 0, torch.ones(3))
    estimate_statistics(network, served_batches(views, 3), CPU)
    before = amiss(network, views)
    finish(network.train(), network, views, run)
    assert not network.training
    assert amiss(network, views) < 0.8 * before


def amiss(network: nn.Module, views: Views) -> float:
    """The logarithm of how many times too large or too small a class is drawn, the worst one's."""
    [(images, truth)] = [*views.as_served(6, 6)]
    with torch.no_grad():
        found = np.bincount(network(images).argmax(1).numpy().ravel(), minlength=3)
    return float(np.abs(np.log(found / np.bincount(truth.numpy().ravel(), minlength=3))).max())


def test_finishing_takes_forward_passes_of_some_images_at_most():
    assert steps_to_finish(8, 4) == (2 + 2) / 2
    assert steps_to_finish(8, 2) == 2 * steps_to_finish(8, 4)
    assert steps_to_finish(10**6, 4) == (STATISTICS_BATCHES + AREA_BATCHES) / 2
