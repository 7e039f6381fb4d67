"""Calibration: whether a confidence of 0.8 is right 80 times in 100."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from segloop.formats import IGNORED

BINS = 15
#: Temperatures that are looked for.
COLDEST, HOTTEST = 0.05, 20.0


class CalibrationError:
    """Expected calibration error over pixels, streaming: the mean gap of confidence and accuracy over BINS equal bins,
    weighted by their pixels (Guo et al., "On Calibration of Modern Neural Networks", ICML 2017)."""

    def __init__(self) -> None:
        self._pixels = np.zeros(BINS, np.int64)
        self._right = np.zeros(BINS)
        self._confidence = np.zeros(BINS)

    def update(self, truth: NDArray[np.uint8], prediction: NDArray[np.uint8], confidence: NDArray[np.float32]) -> None:
        """Count one image: class maps uint8 (H, W), 255 in the truth is ignored; confidence float32 (H, W) in [0, 1]."""
        counted = truth != IGNORED
        certain = confidence[counted]
        right = (truth == prediction)[counted]
        place = np.clip((certain * BINS).astype(np.int64), 0, BINS - 1)
        self._pixels += np.bincount(place, minlength=BINS)
        self._right += np.bincount(place, weights=right, minlength=BINS)
        self._confidence += np.bincount(place, weights=certain, minlength=BINS)

    def summary(self) -> float | None:
        """The error in [0, 1]; None before any pixel counted."""
        pixels = self._pixels.sum()
        return float(np.abs(self._right - self._confidence).sum() / pixels) if pixels else None


def fit_temperature(logits: NDArray[np.float32], truth: NDArray[np.uint8]) -> float:
    """The temperature that makes a network's confidence most like its accuracy: of logits float32 (N, C) of pixels
    whose class is `truth`, uint8 (N,), the one with the least negative log-likelihood (Guo et al., 2017, section 4.2).

    1 where there is nothing to fit it on.
    """
    # a server, which imports this package, has no SciPy
    from scipy.optimize import minimize_scalar

    if not len(truth):
        return 1.0
    shifted = (logits - logits.max(axis=1, keepdims=True)).astype(np.float64)
    own = shifted[np.arange(len(truth)), truth]

    def loss(log_temperature: float) -> float:
        scaled = np.exp(-log_temperature)
        return float((np.log(np.exp(shifted * scaled).sum(axis=1)) - own * scaled).mean())

    found = minimize_scalar(loss, bounds=(np.log(COLDEST), np.log(HOTTEST)), method="bounded")
    return float(np.exp(found.x))
