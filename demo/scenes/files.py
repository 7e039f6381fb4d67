"""Scenes as files: folders that `demo.data.from_folder` reads."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path

import cv2
import numpy as np

from demo.scenes.place import Place
from demo.scenes.scene import CLASSES, STREET_CLASSES, Image, draw_scene


def write_scenes(
    dest: Path, *, train: int = 32, val: int = 12, size: tuple[int, int] = (320, 240), seed: int = 0
) -> None:
    """Write the demo's scenes: `train`/ and `val`/ with images/*.jpg and masks/*.png (class index, NO_LABEL for none),
    and classes.json.

    `size` is (width, height) in pixels. The same seed draws the same scenes.
    """
    for part, (name, count) in enumerate({"train": train, "val": val}.items()):
        drawn = (draw_scene(np.random.default_rng((seed, part, index)), *size) for index in range(count))
        _write(dest / name, "scene", drawn)
    (dest / "classes.json").write_text(json.dumps(CLASSES), "utf-8")


def write_streets(
    dest: Path, *, train: Sequence[int], val: Sequence[int], each: int, size: tuple[int, int] = (640, 480)
) -> None:
    """Write street scenes as `write_scenes` does, `each` of every place: names begin with `place` and its seed.

    `train` and `val` are the seeds of places; `size` is (width, height) in pixels.
    """
    for name, places in {"train": train, "val": val}.items():
        for place in places:
            drawn = (draw_street(place, index, size) for index in range(each))
            _write(dest / name, f"place{place:03}", drawn)
    (dest / "classes.json").write_text(json.dumps(STREET_CLASSES), "utf-8")


def draw_street(place: int, index: int, size: tuple[int, int] = (640, 480)) -> tuple[Image, Image]:
    """The street scene of this index of a place, as `draw_scene` gives it, with STREET_CLASSES."""
    return draw_scene(np.random.default_rng((place, index)), *size, Place.of(place), STREET_CLASSES)


def _write(folder: Path, stem: str, drawn: Iterable[tuple[Image, Image]]) -> None:
    images, masks = (folder / name for name in ("images", "masks"))
    for made in (images, masks):
        made.mkdir(parents=True, exist_ok=True)
    for index, (image, mask) in enumerate(drawn):
        cv2.imwrite(str(images / f"{stem}_{index:04d}.jpg"), image[:, :, ::-1], [cv2.IMWRITE_JPEG_QUALITY, 92])
        cv2.imwrite(str(masks / f"{stem}_{index:04d}.png"), mask)
