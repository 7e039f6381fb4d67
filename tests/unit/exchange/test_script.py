"""predict.py sees windows of an image, and resizes logits, exactly as segloop does: with a network whose arithmetic is known."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from segloop.exchange.script import predict_script
from segloop.network.transforms import MEAN, STD, STRIDE_PX, class_map_of
from segloop.network.windows import windowed_logits

CHANNELS = np.random.default_rng(7).normal(size=(4, 3)).astype(np.float32)


def network(window: np.ndarray) -> np.ndarray:
    """Logits float32 (4, h / 4, w / 4) of a normalised window float32 (3, h, w), which differ with the place in the window."""
    _, height, width = window.shape
    cells = window.reshape(3, height // 4, 4, width // 4, 4).mean(axis=(2, 4), dtype=np.float32)
    logits = np.tensordot(CHANNELS, cells, axes=1)
    logits[0] += np.linspace(0, 1, width // 4, dtype=np.float32)
    return logits.astype(np.float32)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("long_side", "size"), [(0, (97, 211)), (320, (97, 211)), (320, (400, 300)), (320, (60, 90)), (500, (1000, 330))]
)
def test_class_maps_are_the_same(tmp_path: Path, long_side: int, size: tuple[int, int]) -> None:
    input_size = 128
    rng = np.random.default_rng(3)
    pixels = np.asarray(Image.fromarray(rng.integers(0, 256, (9, 7, 3), dtype=np.uint8)).resize(size[::-1]))
    Image.fromarray(pixels).save(tmp_path / "photo.png")
    description = {"input_size": input_size, "long_side": long_side, "stride": STRIDE_PX}
    description |= {"mean": [round(float(one), 3) for one in MEAN], "std": [round(float(one), 3) for one in STD]}
    (tmp_path / "model.json").write_text(json.dumps(description))
    script = predict_script("onnx", windows=long_side > input_size)
    head, _, rest = script.partition("RUNTIME = ")
    body = rest[rest.index("def logits_of" if "def starts" not in rest else "def starts") :]
    names: dict[str, Any] = {"__name__": "predict", "__file__": str(tmp_path / "predict.py")}
    exec(compile(head, "predict.py", "exec"), names)
    names["network"] = lambda window: network(window[0])
    exec(compile(body, "predict.py", "exec"), names)
    logits = windowed_logits(lambda windows: [network(window) for window in windows], pixels, input_size, long_side)
    expected = class_map_of(logits, *size)
    assert len(np.unique(expected)) > 1
    assert np.array_equal(names["class_map"](tmp_path / "photo.png"), expected)
