"""Photos of drawn scenes, in the sizes that benchmarks ask for."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any
from urllib.parse import quote

import cv2
import numpy as np
from PIL import Image as Pillow

from benchmarks.versions import PROJECT
from demo.scenes import CLASSES, NO_LABEL, draw_scene

QUALITY = 90
#: Scenes are drawn up to this long side, in pixels, and enlarged beyond it: drawing takes seconds.
_DRAWN_SIDE = 1600
_NOISE = 3.0


def photo(width: int, height: int, seed: int = 0) -> np.ndarray:
    """RGB, uint8 (height, width, 3)."""
    rng = np.random.default_rng(seed)
    scale = min(1.0, _DRAWN_SIDE / max(width, height))
    image, _ = draw_scene(rng, round(width * scale), round(height * scale))
    if scale < 1:
        large = cv2.resize(image, (width, height), interpolation=cv2.INTER_CUBIC).astype(np.float32)
        image = np.clip(large + rng.normal(0, _NOISE, large.shape[:2])[..., None], 0, 255).astype(np.uint8)
    return image


def write_photos(folder: Path, width: int, height: int, count: int) -> list[str]:
    """Write JPEG files, each of other content; their names."""
    folder.mkdir(parents=True, exist_ok=True)
    image = photo(width, height)
    names = []
    for index in range(count):
        buffer = io.BytesIO()
        # the same scene turned: as much work, another file
        Pillow.fromarray(np.roll(image, index * width // count, axis=1)).save(buffer, "JPEG", quality=QUALITY)
        names.append(f"{width}x{height}-{index}.jpg")
        (folder / names[-1]).write_bytes(buffer.getvalue())
    return names


def scene_logits(width: int, height: int, rows: int, columns: int, gain: float = 8.0) -> np.ndarray:
    """Logits float32 (classes + 1, rows, columns) of a network that knows a scene: sure but at its edges."""
    rng = np.random.default_rng(0)
    _, mask = draw_scene(rng, width, height)
    share = [
        cv2.resize((mask == value).astype(np.float32), (columns, rows), interpolation=cv2.INTER_AREA)
        for value in (NO_LABEL, *range(len(CLASSES)))
    ]
    logits = gain * np.stack(share) + rng.normal(0, 0.3, (len(share), rows, columns))
    return logits.astype(np.float32)


def task(name: str, number: int = 1) -> dict[str, Any]:
    """A task whose image is a file of Label Studio's local files."""
    return {
        "id": number,
        "data": {"image": f"/data/local-files/?d={quote(name)}"},
        "project": int(PROJECT.split(".")[0]),
    }


def predict_body(
    tasks: list[dict[str, Any]], label_config: str, context: dict[str, Any] | None = None
) -> dict[str, Any]:
    """The body of `/predict`, as Label Studio sends it."""
    params = {"login": None, "password": None, "context": context}
    return {"tasks": tasks, "project": PROJECT, "label_config": label_config, "params": params}
