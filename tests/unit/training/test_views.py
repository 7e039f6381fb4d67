"""What a training sees of its images: the views of each pass, images as they are served, and the weights of classes."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from segloop.errors import TrainingError
from segloop.formats import IGNORED
from segloop.network.windows import windowed_logits
from segloop.settings import Settings
from segloop.training.examples import Examples, Stage, Views, stages, steps_per_pass
from tests.painted import CLASSES, examples, painted
from tests.snapshots import write_snapshot

pytestmark = pytest.mark.slow

CPU = torch.device("cpu")


def seen(tmp_path, items=examples, channels=3, input_size=64, long_side=0):
    manifest = write_snapshot(tmp_path / "snapshot", CLASSES, items() if callable(items) else items)
    cache = tmp_path / "cache"
    cache.mkdir()
    # without its validation: images of a few pixels are easier to follow
    settings = Settings().model_copy(update={"input_size": input_size, "long_side": long_side})
    return Examples(tmp_path / "snapshot", manifest.part("train"), settings, cache, channels)


def test_every_pass_sees_every_example_and_positions_alone_decide(tmp_path):
    loaded = seen(tmp_path)
    views = Views(loaded, 3, Stage(loaded.served_size))
    shown = [image.sum().item() for images, _ in views.as_served(18, 2) for image in images]
    passes = [shown[:6], shown[6:12], shown[12:]]
    assert passes[0] != passes[1]
    assert sorted(passes[0]) == sorted(passes[1]) == sorted(passes[2])
    first, again = Views(loaded, 3, Stage(loaded.served_size))[17], Views(loaded, 3, Stage(loaded.served_size))[17]
    assert all(torch.equal(*pair) for pair in zip(first, again, strict=True))
    assert not torch.equal(first[0], Views(loaded, 4, Stage(loaded.served_size))[17][0])
    assert (first[0].dtype, first[1].dtype) == (torch.float32, torch.int64)


def test_views_have_one_size_whatever_the_images_are(tmp_path):
    sizes = [(64, 64), (48, 96), (96, 48), (60, 80)]
    loaded = seen(tmp_path, [(*painted(seed, *size), "train") for seed, size in enumerate(sizes)])
    height, width = loaded.served_size
    assert height % 32 == width % 32 == 0
    views = Views(loaded, 0, Stage(loaded.served_size))
    assert {views[position][0].shape for position in range(4)} == {(3, height, width)}
    assert {views[position][1].shape for position in range(4)} == {(height, width)}


@pytest.mark.parametrize(
    ("size", "device", "expected"),
    [
        ((96, 128), "cpu", (96, 128)),
        ((384, 512), "cpu", (256, 320)),
        ((512, 384), "cpu", (320, 256)),
        ((768, 1024), "cuda", (384, 512)),
    ],
)
def test_views_of_large_images_are_crops(tmp_path, size, device, expected):
    [stage] = stages(*size, torch.device(device), from_scratch=False)
    assert stage == Stage(expected)
    image, class_map = painted(0, *size)
    loaded = seen(tmp_path, [(image, class_map, "train")], input_size=max(size))
    assert loaded[0][0].shape[:2] == size, "at the size at which it is served"
    assert Views(loaded, 0, stage)[0][0].shape == (3, *expected)


def test_random_weights_first_see_small_images(tmp_path):
    first, last = stages(384, 512, CPU, from_scratch=True)
    assert (first.size, first.until) == ((128, 192), 0.5)
    assert last == Stage((256, 320))
    assert stages(160, 192, CPU, from_scratch=True) == [Stage((160, 192))], "as it is served"
    # a checkerboard of squares of 32 pixels is one of 12 pixels there, give or take the view's own scale
    board = np.kron(np.indices((12, 16)).sum(axis=0) % 2, np.ones((32, 32))).astype(np.uint8)
    loaded = seen(tmp_path, [(np.dstack([255 * board] * 3), board, "train")], input_size=512)
    _, shown = Views(loaded, 0, first)[0]
    edges = (shown[:, 1:] != shown[:, :-1]).float().mean().item()
    assert edges == pytest.approx(1 / 12, rel=0.5)


def test_an_image_is_served_whole_where_the_network_sees_it_whole(tmp_path):
    sizes = [(64, 64), (48, 96), (96, 48), (60, 80)]
    loaded = seen(tmp_path, [(*painted(seed, *size), "train") for seed, size in enumerate(sizes)])
    batches = list(Views(loaded, 0, Stage(loaded.served_size)).as_served(4, 4))
    shown = {tuple(images.shape) for images, _ in batches}
    assert [images.shape[2:] for images, _ in batches] == [masks.shape[1:] for _, masks in batches]
    # each of its own size, none squeezed to another's; a batch of one image has it twice
    assert shown == {(2, 3, *loaded[index][0].shape[:2]) for index in range(4)}


def test_a_large_image_is_served_in_windows(tmp_path):
    """Statistics and int8 ranges are of what the network is served, not of the image squeezed into one window."""
    image, class_map = painted(0, 120, 192)
    loaded = seen(tmp_path, [(image, class_map, "train")], input_size=64, long_side=192)
    pixels = loaded[0][0]
    assert pixels.shape[:2] == (128, 192)
    given: list[np.ndarray] = []

    def forward(windows):
        given.extend(windows)
        return [window[:1, ::8, ::8] for window in windows]

    windowed_logits(forward, image, 64, 192)
    assert len(given) > 4
    batches = list(Views(loaded, 0, Stage(loaded.served_size)).as_served(len(given), 4))
    assert {tuple(images.shape[1:]) for images, _ in batches} == {(3, 64, 64)}
    shown = {image.numpy().tobytes() for images, _ in batches for image in images}
    assert shown == {window.tobytes() for window in given}


def test_class_weights_by_hand(tmp_path):
    image, class_map = np.zeros((32, 32, 3), np.uint8), np.full((32, 32), IGNORED, np.uint8)
    class_map[:4, :20] = 0  # 80 pixels
    class_map[8, :20] = 1  # 20 pixels: twice the weight; class 2 never occurs
    weights = seen(tmp_path, [(image, class_map, "train")], input_size=32).class_weights(3)
    # w and 2w with 80 w + 20 * 2w = 100
    np.testing.assert_allclose(weights, [100 / 120, 200 / 120, 1], rtol=1e-6)


def test_a_mask_with_a_class_that_is_none_is_refused(tmp_path):
    with pytest.raises(TrainingError, match="value 2, but there are 1 classes"):
        seen(tmp_path, channels=2)


@pytest.mark.parametrize(("count", "batch", "steps"), [(1, 4, 1), (4, 4, 1), (5, 4, 2)])
def test_steps_per_pass(count, batch, steps):
    assert steps_per_pass(count, batch) == steps
