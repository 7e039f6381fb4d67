"""What `benchmarks.stand_in` keeps of a network, here one that is made up."""

from __future__ import annotations

import cv2
import numpy as np
import torch
from torch import Tensor, nn

from benchmarks import stand_in
from demo.data import Example


class Halving(nn.Module):
    """Sixteen blocks, of which some halve what they are given."""

    def __init__(self) -> None:
        super().__init__()
        strides = {0: 8, 5: 2, 11: 2}
        self._blocks = nn.ModuleList([nn.AvgPool2d(strides.get(block, 1)) for block in range(16)])

    def extract_features(self, pixels: Tensor) -> Tensor:
        for block in self._blocks:
            pixels = block(pixels)
        return pixels


def test_features_are_of_the_blocks_and_computed_once(tmp_path, monkeypatch):
    networks = []
    monkeypatch.setattr(stand_in, "cache_folder", lambda name: tmp_path)
    monkeypatch.setattr(stand_in, "load_network", lambda folder: networks.append(Halving()) or networks[-1])
    examples = []
    for blue in (10, 200):
        examples.append(Example(tmp_path / f"{blue}.png", tmp_path / "mask.png"))
        cv2.imwrite(str(examples[-1].image), np.full((96, 128, 3), (blue, 127, 255), np.uint8))
    layers = stand_in.features(examples)
    assert [layer.shape for layer in layers] == [(2, 3, 36, 48), (2, 3, 18, 24), (2, 3, 9, 12)]
    assert layers[0][0, :, 0, 0].float().tolist() == [1, 0, -117 / 128], "red, green, blue"
    assert [torch.equal(*pair) for pair in zip(layers, stand_in.features(examples), strict=True)] == [True] * 3
    assert len(networks) == 1
    stand_in.features(examples[:1])
    assert len(networks) == 2, "other images"
