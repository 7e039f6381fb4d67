"""Sliding windows: they cover an image, overlap, blend without a seam, and never come many at a time."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from segloop.network.transforms import STRIDE_PX, network_size, normalise, resize_image
from segloop.network.windows import _starts, seen_size, window_side, windowed_logits

SIDES = st.integers(1, 700)
INPUT_SIZES = st.integers(64, 260)
LONG_SIDES = st.one_of(st.just(0), st.integers(1, 1200))


class Pooling:
    """A network without context: each cell of its logits is the mean of the pixels below it."""

    def __init__(self, stride: int = 16) -> None:
        self.stride = stride
        self.calls: list[list[tuple[int, int]]] = []

    def __call__(self, windows):
        self.calls.append([window.shape[1:] for window in windows])
        return [self.pool(window) for window in windows]

    def pool(self, window: np.ndarray) -> np.ndarray:
        channels, height, width = window.shape
        cells = window.reshape(channels, height // self.stride, self.stride, width // self.stride, self.stride)
        return cells.mean(axis=(2, 4))


class Vignette(Pooling):
    """A network that sees nothing but how far a place lies from its window's left and upper edge, 0 to 1 each."""

    def pool(self, window: np.ndarray) -> np.ndarray:
        rows, columns = window.shape[1] // self.stride, window.shape[2] // self.stride
        return np.add.outer(np.linspace(0, 1, rows), np.linspace(0, 1, columns))[None].astype(np.float32)


def photo(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def whole(image: np.ndarray, input_size: int, long_side: int, stride: int) -> np.ndarray:
    """What the pooling network says of the image as it is seen, all at once."""
    height, width = image.shape[:2]
    size = network_size(height, width, seen_size(height, width, input_size, long_side))
    return Pooling(stride).pool(normalise(resize_image(image, *size)))


@settings(max_examples=60)
@given(SIDES, SIDES, INPUT_SIZES, LONG_SIDES, st.sampled_from([8, 16]))
@example(1, 1, 64, 1000, 16)
@example(1, 700, 64, 1000, 16)
@example(700, 40, 64, 1000, 8)
@example(480, 640, 100, 0, 16)
@example(480, 640, 100, 300, 16)
@example(480, 640, 100, 5000, 16)
@example(160, 160, 64, 160, 16)
def test_a_network_without_context_sees_no_windows(height, width, input_size, long_side, stride):
    image = photo(height, width)
    forward = Pooling(stride)
    seen = windowed_logits(forward, image, input_size, long_side)
    assert seen.dtype == np.float32
    np.testing.assert_allclose(seen, whole(image, input_size, long_side, stride), rtol=0, atol=1e-4)
    side = window_side(input_size)
    sizes = {size for call in forward.calls for size in call}
    assert len(sizes) == 1, "windows of one image have one size"
    assert all(max(size) <= side and size[0] % STRIDE_PX == size[1] % STRIDE_PX == 0 for size in sizes)
    assert max(len(call) for call in forward.calls) <= 8


@pytest.mark.parametrize(("height", "width"), [(300, 400), (400, 300), (40, 400), (20, 20)])
@pytest.mark.parametrize("input_size", [64, 96, 100, 256])
def test_without_a_long_side_the_network_runs_once_on_the_whole_image(height, width, input_size):
    for long_side in (0, 1, input_size):
        forward = Pooling()
        windowed_logits(forward, photo(height, width), input_size, long_side)
        assert forward.calls == [[network_size(height, width, input_size)]]


@given(SIDES, SIDES, INPUT_SIZES, LONG_SIDES)
def test_an_image_is_enlarged_to_the_input_size_and_never_beyond(height, width, input_size, long_side):
    seen = seen_size(height, width, input_size, long_side)
    assert seen >= input_size
    assert seen <= max(input_size, height, width)
    assert seen <= max(input_size, long_side)


@given(st.integers(1, 300), st.integers(2, 32))
@example(5, 2)  # 160 pixels through windows of 64
@example(7, 3)
def test_windows_cover_an_axis_and_overlap(cells, side_cells):
    length, side = cells * STRIDE_PX, side_cells * STRIDE_PX
    starts = _starts(length, side)
    assert starts[0] == 0
    if length <= side:
        assert starts == [0]
        return
    assert starts[-1] == length - side, "the last window ends where the image does"
    assert all(start % STRIDE_PX == 0 for start in starts)
    steps = np.diff(starts)
    assert steps.min() > 0
    assert (side - steps.max()) / side >= 0.25
    # an overlap of a quarter costs a third more windows than none; a coarse grid, at most one more in two
    assert len(starts) <= 2 + 2 * length / side


@pytest.mark.parametrize("input_size", [64, 96, 128, 160, 224, 256])
@pytest.mark.parametrize("stride", [8, 16])
@pytest.mark.parametrize(("height", "width"), [(640, 864), (864, 640), (160, 864)])
def test_what_a_window_says_fades_into_what_the_next_one_says(input_size, stride, height, width):
    image = np.zeros((height, width, 3), np.uint8)
    blended = windowed_logits(Vignette(stride), image, input_size, 2000)[0]
    cells = window_side(input_size) // stride
    # Hard borders would step by 1 and more. Blended over an overlap of at least a quarter of a window, the step from a
    # cell to the next is at most what the cells of the overlap share out, and a window's own slope.
    overlap = max(cells // 4, STRIDE_PX // stride)
    bound = 1.25 / overlap + 1 / (cells - 1)
    for axis in (0, 1):
        assert np.abs(np.diff(blended, axis=axis)).max() <= bound


def test_the_middle_of_a_window_counts_more_than_its_edge():
    class Numbered(Pooling):
        def pool(self, window):
            return np.full((1, 8, 8), float(window[0, 0, 0] > 0), np.float32)

    image = np.zeros((128, 224, 3), np.uint8)
    image[:, 96:] = 255
    [blended] = windowed_logits(Numbered(), image, 128, 224)
    # the windows begin at 0 and at 96 pixels (cells 0 and 6), and share cells 6 and 7
    np.testing.assert_allclose(blended[3, :6], 0)
    np.testing.assert_allclose(blended[3, 6:8], [0.25, 0.75])
    np.testing.assert_allclose(blended[3, 8:], 1)


@pytest.mark.slow
@settings(max_examples=20)
@given(st.integers(64, 130), st.integers(500, 1500))
def test_the_number_of_windows_is_bounded_by_the_area(input_size, long_side):
    forward = Pooling()
    windowed_logits(forward, photo(1500, 1500), input_size, long_side)
    most = 2 + 2 * (long_side + STRIDE_PX) / window_side(input_size)
    assert sum(map(len, forward.calls)) <= most**2
    assert max(map(len, forward.calls)) <= 8


def test_an_error_of_the_network_is_not_swallowed():
    def fails(windows):
        raise RuntimeError("out of memory")

    with pytest.raises(RuntimeError, match="out of memory"):
        windowed_logits(fails, photo(300, 300), 64, 300)


def test_a_network_that_loses_a_window_is_noticed():
    def loses(windows):
        return Pooling()(windows)[:-1]

    with pytest.raises(ValueError, match="argument"):
        windowed_logits(loses, photo(300, 300), 64, 300)
