"""Training examples: decoded once, kept at the network's size, and the random views of them that a run sees."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeVar

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from segloop.dataset import Item
from segloop.errors import TrainingError
from segloop.formats import IGNORED
from segloop.images import decode
from segloop.network.transforms import (
    STRIDE_PX,
    UInt8,
    augment,
    network_size,
    normalise,
    resize_image,
    resize_mask,
)
from segloop.network.windows import seen_size, window_of, window_side
from segloop.settings import Settings

Kind = TypeVar("Kind")

#: Long side of the crops that a network is trained on, in pixels, by the kind of device.
CROP_PX: Final = {"cpu": 320, "cuda": 512}
#: Long side, in pixels, at which random weights first see whole images, and for what share of a run.
FIRST_PX: Final = 192
FIRST_SHARE: Final = 0.5


def read_example(folder: Path, item: Item) -> tuple[UInt8, UInt8]:
    """An image, RGB uint8 (H, W, 3), and its class map uint8 (H, W), of a snapshot folder.

    Raises:
        ImageError: the image cannot be decoded.
        TrainingError: the mask cannot be read, or its size is not the image's.
    """
    # What a snapshot holds has passed the limit on pixels. An image may have more of them than it is shown with.
    image = decode((folder / item.image).read_bytes(), max_pixels=sys.maxsize)
    mask = cv2.imread(str(folder / item.mask), cv2.IMREAD_UNCHANGED)
    if mask is None or mask.dtype != np.uint8 or mask.shape != image.shape[:2]:
        raise TrainingError(f"the mask {item.mask} of task {item.task} is not an 8-bit class map of its image's size")
    return image, np.asarray(mask, dtype=np.uint8)


class Examples:
    """The images and class maps of some items at the size at which the network sees them.

    Each is decoded once and then kept in `cache`, one array file per item: memory stays small however many there
    are, and what fits into it the operating system keeps there.
    """

    def __init__(self, folder: Path, items: Sequence[Item], settings: Settings, cache: Path, channels: int) -> None:
        self._files = [cache / f"{index}.npy" for index in range(len(items))]
        self.pixels: NDArray[np.int64] = np.zeros(256, dtype=np.int64)
        sizes = []
        cache.mkdir(exist_ok=True)
        for item, file in zip(items, self._files, strict=True):
            image, mask = read_example(folder, item)
            size = network_size(
                item.height, item.width, seen_size(item.height, item.width, settings.input_size, settings.long_side)
            )
            mask = resize_mask(mask, *size)
            np.save(file, np.dstack([resize_image(image, *size), mask]))
            self.pixels += np.bincount(mask.ravel(), minlength=256)
            sizes.append(size)
        if self.pixels[channels:IGNORED].any():
            value = channels + int(np.flatnonzero(self.pixels[channels:IGNORED])[0])
            raise TrainingError(f"a mask has the value {value}, but there are {channels - 1} classes")
        #: Height and width of what the network is served, in pixels: the median, so that most images fit, or a window.
        height, width = (
            min(int(np.median(side)), window_side(settings.input_size)) // STRIDE_PX * STRIDE_PX
            for side in zip(*sizes, strict=True)
        )
        self.served_size = height, width
        self._input_size = settings.input_size

    def __len__(self) -> int:
        return len(self._files)

    def __getitem__(self, index: int) -> tuple[UInt8, UInt8]:
        stacked = np.load(self._files[index], mmap_mode="r")
        return np.ascontiguousarray(stacked[:, :, :3]), np.ascontiguousarray(stacked[:, :, 3])

    def served_view(self, index: int, number: int) -> tuple[UInt8, UInt8]:
        """What the network sees of an example when it is served, RGB uint8 (h, w, 3), and its class map uint8 (h, w): all
        of it, or one of its windows, which are counted round and round."""
        image, mask = self[index]
        return window_of(image, self._input_size, number), window_of(mask, self._input_size, number)

    def class_weights(self, channels: int) -> Tensor:
        """Weights of the loss, float32 (channels,): rarer classes weigh more, by the square root of their share.

        The mean over the labelled pixels is 1; a class that never occurs has 1; none is beyond 1/5 to 5.
        """
        counts = self.pixels[:channels].astype(np.float64)
        present = counts > 0
        weights = np.ones(channels)
        weights[present] = 1 / np.sqrt(counts[present])
        weights[present] /= (weights * counts)[present].sum() / counts.sum()
        return torch.from_numpy(np.clip(weights, 0.2, 5)).float()


@dataclass(frozen=True)
class Stage:
    """What views are until a share `until` of a run is done: of one size (h, w) in pixels, cut from images that are
    reduced by `factor`."""

    size: tuple[int, int]
    factor: float = 1.0
    until: float = 1.0


def stages(height: int, width: int, device: torch.device, *, from_scratch: bool) -> list[Stage]:
    """The stages of a run whose network is served (height, width) pixels at a time.

    Where that is large, views are crops of it. Random weights first learn from small images: from scratch more steps
    teach more than more pixels.
    """
    long_side = max(height, width)
    last = Stage(network_size(height, width, min(long_side, CROP_PX[device.type])))
    small = network_size(height, width, FIRST_PX)
    if not from_scratch or max(small) >= max(last.size):
        return [last]
    return [Stage(small, FIRST_PX / long_side, FIRST_SHARE), last]


class Views(Dataset[tuple[Tensor, Tensor]]):
    """The views that a run sees in a stage, by their position in the run: image float32 (3, h, w), class map int64 (h, w).

    A pass over the examples is a permutation; passes follow each other without a gap, so that no batch is short.
    What a position gives depends on the seed alone: a resumed run and one with other workers see the same.
    """

    def __init__(self, examples: Examples, seed: int, stage: Stage) -> None:
        self.examples = examples
        self._seed = seed
        self.stage = stage

    def __getitem__(self, position: int) -> tuple[Tensor, Tensor]:
        index = index_of(position, len(self.examples), (self._seed, 0))
        image, mask = reduced(*self.examples[index], self.stage.factor)
        random = np.random.default_rng((self._seed, 1, position))
        image, mask = augment(image, mask, self.stage.size, random)
        return torch.from_numpy(normalise(image)), torch.from_numpy(mask.astype(np.int64))

    def as_served(self, count: int, batch_size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Batches of `count` views as they are served, each of one size: images float32 (B, 3, h, w) and class maps int64
        (B, h, w); B is at least 2."""
        waiting: dict[tuple[int, ...], list[tuple[Tensor, Tensor]]] = {}
        for position in range(count):
            index = index_of(position, len(self.examples), (self._seed, 0))
            image, mask = self.examples.served_view(index, position)
            alike = waiting.setdefault(mask.shape, [])
            alike.append((torch.from_numpy(normalise(image)), torch.from_numpy(mask.astype(np.int64))))
            if len(alike) == batch_size:
                yield _stacked(waiting.pop(mask.shape))
        for alike in waiting.values():
            # a batch of one image has a channel with a single value, which cannot be normalised
            yield _stacked(alike * 2 if len(alike) == 1 else alike)


def _stacked(pairs: Sequence[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    images, masks = zip(*pairs, strict=True)
    return torch.stack(images), torch.stack(masks)


def index_of(position: int, count: int, seed: tuple[int, int]) -> int:
    """Which of `count` examples a run sees at a position: each pass over them is a permutation of its own."""
    turn, place = divmod(position, count)
    return int(np.random.default_rng((*seed, turn)).permutation(count)[place])


def reduced(image: UInt8, mask: UInt8, factor: float) -> tuple[UInt8, UInt8]:
    """An image uint8 (H, W, 3) and its class map uint8 (H, W), reduced by a factor of at most 1."""
    if factor == 1:
        return image, mask
    size = round(mask.shape[0] * factor), round(mask.shape[1] * factor)
    return resize_image(image, *size), resize_mask(mask, *size)


def steps_per_pass(examples: int, batch_size: int) -> int:
    """Optimizer steps in which every example is seen once."""
    return math.ceil(examples / batch_size)


def evenly(items: Sequence[Kind], most: int) -> list[Kind]:
    """At most so many items, evenly spread."""
    return [items[index] for index in np.unique(np.linspace(0, len(items) - 1, min(most, len(items))).astype(int))]
