"""What an evaluation keeps of its images: places for the temperature."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest

from segloop.training import evaluation
from segloop.training.evaluation import Places


def temperature_of(images: int, channels: int) -> float:
    """The temperature of a network that is three times too sure, from so many images."""
    rng = np.random.default_rng(0)
    places = Places(np.arange(channels, dtype=np.uint8))
    for _ in range(images):
        honest = 2 * rng.normal(size=(channels, 24, 24)).astype(np.float32)
        shares = np.exp(honest) / np.exp(honest).sum(axis=0)
        truth = (shares.cumsum(axis=0) < rng.random((24, 24))).sum(axis=0).astype(np.uint8)
        places.add(3 * honest, np.minimum(truth, channels - 1))
    return places.temperature()


def test_the_temperature_of_many_images_fits_into_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = temperature_of(24, 12)
    assert wanted == pytest.approx(3, rel=0.05)
    monkeypatch.setattr(evaluation, "_MOST_LOGITS", 2**15)
    peaks = []
    for images in (8, 24):
        tracemalloc.start()
        found = temperature_of(images, 12)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert found == pytest.approx(wanted, rel=0.05), "of some places of each image"
    assert peaks[1] < 1.3 * peaks[0]
