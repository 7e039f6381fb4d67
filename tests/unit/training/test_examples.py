"""Training examples as they are read from a snapshot folder."""

from __future__ import annotations

import hashlib
from pathlib import Path

import cv2
import numpy as np

from segloop.dataset import AnnotationRef, Item
from segloop.images import read_header
from segloop.training.examples import read_example
from tests.odd_images import EXIF, dense, jpeg_with


def test_an_image_may_have_more_pixels_than_it_is_shown_with(tmp_path: Path) -> None:
    data = jpeg_with(EXIF + dense((144, 144), (48, 32)))
    header = read_header(data)
    mask = np.arange(48 * 32, dtype=np.uint8).reshape(32, 48) % 3
    item = Item(
        task=1,
        image_tag="image",
        annotations=(AnnotationRef(id=1, updated_at="2026-01-01T00:00:00Z"),),
        image=f"images/{hashlib.sha256(data).hexdigest()}.jpg",
        mask=f"masks/{'0' * 64}.png",
        width=header.width,
        height=header.height,
        split="train",
    )
    (tmp_path / "images").mkdir()
    (tmp_path / "masks").mkdir()
    (tmp_path / item.image).write_bytes(data)
    cv2.imwrite(str(tmp_path / item.mask), mask)
    pixels, class_map = read_example(tmp_path, item)
    assert pixels.shape == (32, 48, 3)
    assert (class_map == mask).all()
