"""Predictions as a COCO file: an image's pixels of a class as one annotation, in a compressed run-length code."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segloop.errors import DatasetError


class CocoResults:
    """Gathers class maps; `content` is the file's JSON. `iscrowd` is 1, as of every region that is a code.

    Raises:
        DatasetError: pycocotools, of the extra `coco`, is not installed.
    """

    def __init__(self, classes: Sequence[str]) -> None:
        if find_spec("pycocotools") is None:
            raise DatasetError(
                "COCO files are written by pycocotools, which is not here: run pip install 'segloop[coco]'"
            )
        self._categories = [{"id": number, "name": name} for number, name in enumerate(classes, start=1)]
        self._images: list[dict[str, Any]] = []
        self._annotations: list[dict[str, Any]] = []

    def add(self, file_name: str, class_map: NDArray[np.uint8]) -> None:
        """Add an image with its class map uint8 (H, W): 0 background, i + 1 the class i."""
        from pycocotools import mask as coco

        height, width = class_map.shape
        image = len(self._images) + 1
        self._images.append({"id": image, "file_name": file_name, "width": width, "height": height})
        for category in self._categories:
            mask = class_map == category["id"]
            if not mask.any():
                continue
            code = coco.encode(np.asfortranarray(mask, dtype=np.uint8))
            rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
            top, left = int(rows[0]), int(columns[0])
            self._annotations.append(
                {
                    "id": len(self._annotations) + 1,
                    "image_id": image,
                    "category_id": category["id"],
                    "segmentation": {"size": [height, width], "counts": code["counts"].decode("ascii")},
                    "area": int(mask.sum()),
                    "bbox": [left, top, int(columns[-1]) + 1 - left, int(rows[-1]) + 1 - top],
                    "iscrowd": 1,
                }
            )

    def content(self) -> dict[str, Any]:
        """The content of the file."""
        return {"images": self._images, "annotations": self._annotations, "categories": self._categories}
