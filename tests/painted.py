"""Snapshots and hyperparameters that a real network learns from in seconds."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from segloop.dataset import Split

CLASSES = ("Red", "Blue")


def painted(seed: int, height: int = 64, width: int = 64) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """A noisy image with a red and a blue rectangle, and its class map uint8."""
    rng = np.random.default_rng(seed)
    image = rng.integers(90, 130, (height, width, 3))
    class_map = np.zeros((height, width), np.uint8)
    for value, channel in ((1, 0), (2, 2)):
        top, left = rng.integers(0, height // 2), rng.integers(0, width // 2)
        place = (slice(top, top + height // 2), slice(left, left + width // 2))
        image[place] = rng.integers(0, 60, (height // 2, width // 2, 3))
        image[(*place, channel)] += 180
        class_map[place] = value
    return image.astype(np.uint8), class_map


def examples(train: int = 6, val: int = 2) -> list[tuple[NDArray[np.uint8], NDArray[np.uint8], Split]]:
    """Examples to train on, and some held out."""
    return [(*painted(seed), "train" if seed < train else "val") for seed in range(train + val)]


def hyperparameters(**values: object) -> dict[str, object]:
    """Two steps of two small images each, on the CPU, from random weights."""
    few = {"train_epochs": 1, "train_min_steps": 2, "train_batch_size": 2, "input_size": 64, "device": "cpu"}
    return {"weights": "none", **few, **values}
