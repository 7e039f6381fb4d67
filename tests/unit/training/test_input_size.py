"""The size at which the network sees images, by their own size and the time of a pass."""

from __future__ import annotations

import time

import pytest
from torch import nn

from segloop.dataset import AnnotationRef, Item
from segloop.network.network import SegmentationNetwork
from segloop.settings import Settings
from segloop.training import input_size as module
from segloop.training.input_size import choose_input_size, seconds_per_pixel

NETWORK = SegmentationNetwork(nn.Identity(), nn.Identity())


def items(*sizes: tuple[int, int]) -> list[Item]:
    def item(task: int, height: int, width: int) -> Item:
        drawn = AnnotationRef(id=task, updated_at="2026-11-22T00:00:00Z")
        return Item(
            task=task,
            image_tag="image",
            annotations=(drawn,),
            image=f"images/{task:064x}.png",
            mask=f"masks/{task:064x}.png",
            width=width,
            height=height,
            split="train",
        )

    return [item(task, *size) for task, size in enumerate(sizes, start=1)]


@pytest.fixture
def microseconds(monkeypatch: pytest.MonkeyPatch) -> None:
    """A pass takes a microsecond a pixel: 0.4 s are 400,000 pixels."""
    monkeypatch.setattr(module, "seconds_per_pixel", lambda network: 1e-6)


@pytest.mark.usefixtures("microseconds")
@pytest.mark.parametrize(
    ("sizes", "predict_seconds", "expected"),
    [
        ([(360, 480)], 0.4, 480),  # as large as they are
        ([(300, 500)], 0.4, 512),  # in steps of 32
        ([(1280, 1920)], 0.4, 768),  # sqrt(400000 * 1.5) = 774
        ([(1920, 1280)], 0.4, 768),
        ([(1000, 1000)], 0.4, 608),  # sqrt(400000) = 632
        ([(1280, 1920)], 0.001, 256),
        ([(3000, 4000)], 60.0, 1024),
        ([(90, 120)], 0.4, 256),
        ([(360, 480), (360, 480), (3000, 4000)], 0.4, 480),  # the median
    ],
)
def test_the_size_of_the_images_and_the_time_decide(
    sizes: list[tuple[int, int]], predict_seconds: float, expected: int
) -> None:
    settings = Settings(predict_seconds=predict_seconds)
    assert choose_input_size(settings, NETWORK, items(*sizes)) == expected


@pytest.mark.usefixtures("microseconds")
@pytest.mark.parametrize(("before", "expected"), [(640, 640), (1024, 1024), (320, 768), (None, 768)])
def test_a_version_keeps_the_size_of_the_one_before_it(before: int | None, expected: int) -> None:
    assert choose_input_size(Settings(), NETWORK, items((1280, 1920)), before) == expected


@pytest.mark.usefixtures("microseconds")
@pytest.mark.parametrize(
    ("minutes", "batch_size", "expected"),
    [
        (6.0, 4, 288),  # 500 steps of 0.72 s: four images of 60,000 pixels, three passes each
        (6.0, 2, 416),
        (2.0, 4, 256),  # never less
        (30.0, 4, 640),
        (600.0, 4, 768),  # more than a prediction may take
        (0.0, 4, 768),  # no budget
    ],
)
def test_random_weights_see_images_at_which_there_is_time_for_enough_steps(
    minutes: float, batch_size: int, expected: int
) -> None:
    settings = Settings(train_minutes=minutes, train_batch_size=batch_size)
    assert choose_input_size(settings, NETWORK, items((1280, 1920)), from_scratch=True) == expected
    assert choose_input_size(settings, NETWORK, items((1280, 1920))) == 768
    windows = settings.model_copy(update={"long_side": 1920})
    assert choose_input_size(windows, NETWORK, items((1280, 1920)), from_scratch=True) == 768


def test_the_setting_goes_before(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(module, "seconds_per_pixel")
    assert choose_input_size(Settings(input_size=320), NETWORK, items((1280, 1920)), 512) == 320


def test_a_pass_is_timed_in_evaluation_mode() -> None:
    modes = []

    class Pass(nn.Module):
        def forward(self, images):  # type: ignore[no-untyped-def]
            modes.append(self.training)
            return {"out": images}

    network = SegmentationNetwork(Pass(), nn.Conv2d(3, 2, 1)).train()
    assert 0 < seconds_per_pixel(network) < 1
    assert network.training
    assert set(modes) == {False}


@pytest.mark.slow
def test_what_else_the_machine_does_is_not_counted() -> None:
    class Waiting(nn.Module):
        def forward(self, images):  # type: ignore[no-untyped-def]
            time.sleep(0.2)  # as where other programs have the processor
            return {"out": images}

    network = SegmentationNetwork(Waiting(), nn.Conv2d(3, 2, 1))
    assert seconds_per_pixel(network) * 256**2 < 0.2
