"""Brush codes against the SDK's `label_studio_sdk.converter.brush`, the same masks in one run: `python -m benchmarks.codec`.

Masks of 0 and 255: smooth random blobs and noise. One JSON line a figure; exit status 1 if a target is missed.
"""

from __future__ import annotations

import argparse
import sys
from functools import partial

import cv2
import numpy as np
from label_studio_sdk.converter import brush

from benchmarks.harness import compare
from segloop.masks import decode_rle, encode_class_rle, encode_rle, native

AGAINST = "label_studio_sdk.converter.brush"
#: Side in pixels of the masks of blobs.
SIDES = (512, 1024, 4096)
NOISE_SIDE = 1024
CLASSES = 8
ENCODE_BLOBS_TARGET, ENCODE_NOISE_TARGET, DECODE_TARGET = 20.0, 25.0, 100.0
ENCODE_CLASSES_TARGETS = {1024: 30.0, 4096: 80.0}


def main() -> int:
    """Measure every figure, and print one JSON line for each."""
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--seconds", type=float, default=1.5, help="length of each measurement")
    measure = partial(compare, "codec", against=AGAINST, seconds=arguments.parse_args().seconds)
    measure = partial(measure, compiled=native.library() is not None)
    masks = {f"blobs {side}²": as_mask(smooth_noise(side, seed=0) > 0) for side in SIDES}
    noise = np.random.default_rng(0).random((NOISE_SIDE, NOISE_SIDE)) < 0.5
    masks[f"noise {NOISE_SIDE}²"] = as_mask(noise)
    met = []
    for name, mask in masks.items():
        target = ENCODE_NOISE_TARGET if name.startswith("noise") else ENCODE_BLOBS_TARGET
        rle = encode_rle(mask)
        assert np.array_equal(decode_rle(rle, *mask.shape), mask)
        met += [
            measure(f"encode {name}", partial(encode_rle, mask), partial(brush.mask2rle, mask), target=target),
            measure(
                f"decode {name}",
                partial(decode_rle, rle, *mask.shape),
                partial(brush.decode_rle, rle),
                target=DECODE_TARGET,
            ),
        ]
    for side, target in ENCODE_CLASSES_TARGETS.items():
        class_map = class_map_of(side)
        met.append(
            measure(
                f"encode {CLASSES} classes of a {side}² map",
                partial(encode_class_rle, class_map, range(CLASSES)),
                partial(sdk_encode_classes, class_map),
                target=target,
            )
        )
    return 0 if all(met) else 1


def smooth_noise(side: int, seed: int) -> np.ndarray:
    """Gaussian noise blurred to features of about a tenth of the side: float32 (side, side)."""
    noise = np.random.default_rng(seed).standard_normal((256, 256)).astype(np.float32)
    return cv2.resize(cv2.GaussianBlur(noise, (0, 0), 256 / 20), (side, side), interpolation=cv2.INTER_CUBIC)


def as_mask(chosen: np.ndarray) -> np.ndarray:
    return np.where(chosen, 255, 0).astype(np.uint8)


def class_map_of(side: int) -> np.ndarray:
    """The class of the highest of one smooth noise a class: uint8 (side, side)."""
    return np.argmax([smooth_noise(side, seed) for seed in range(CLASSES)], axis=0).astype(np.uint8)


def sdk_encode_classes(class_map: np.ndarray) -> list[list[int]]:
    return [brush.mask2rle(as_mask(class_map == index)) for index in range(CLASSES)]


if __name__ == "__main__":
    sys.exit(main())
