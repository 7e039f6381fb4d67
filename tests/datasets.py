"""Small data sets in the layouts that `segloop import` reads, all of one truth."""

from __future__ import annotations

import json
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pycocotools import mask as coco_mask

WIDTH, HEIGHT = 48, 32
#: Class 1, road, at the bottom; class 2, sky, at the top; background between.
TRUTH = np.zeros((HEIGHT, WIDTH), np.uint8)
TRUTH[20:] = 1
TRUTH[:8] = 2
_COLOURS = np.array([(0, 0, 0), (128, 64, 128), (70, 130, 180), (1, 2, 3)], np.uint8)


def photo(seed: int = 0) -> NDArray[np.uint8]:
    """A photo on which road and sky look different, uint8 (H, W, 3)."""
    noise = np.random.default_rng(seed).integers(-12, 12, (HEIGHT, WIDTH, 3))
    base = np.array([(90, 140, 90), (120, 115, 118), (120, 170, 235)])[TRUTH]
    return np.clip(base + noise, 0, 255).astype(np.uint8)


def _save(file: Path, pixels: NDArray[np.uint8]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(file)


def _corners(rows: slice) -> list[list[float]]:
    return [[0, rows.start, WIDTH, rows.start, WIDTH, rows.stop, 0, rows.stop]]


def _counts(mask: NDArray[np.bool_]) -> list[int]:
    runs = [(value, len(list(run))) for value, run in groupby(mask.ravel(order="F").tolist())]
    return [*([0] if runs[0][0] else []), *(length for _, length in runs)]


def write_coco(folder: Path, images: int = 3) -> Path:
    """instances.json beside `photos`: polygons, uncompressed and compressed codes in turn, and an image that is gone."""
    names = ["a.png", "deep/b.png", "c.png", *(f"more-{number}.png" for number in range(3, images))][: max(images, 3)]
    content: dict[str, Any] = {
        "categories": [{"id": 9, "name": "sky"}, {"id": 3, "name": "road"}],
        "images": [],
        "annotations": [],
    }
    size = {"width": WIDTH, "height": HEIGHT}
    for number, name in enumerate(names):
        _save(folder / "photos" / name, photo(number))
        content["images"].append({"id": 100 + number, "file_name": name, **size})
        for category, value, rows in ((3, 1, slice(20, HEIGHT)), (9, 2, slice(0, 8))):
            mask = value == TRUTH
            packed = coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))
            shapes = [
                _corners(rows),
                {"size": [HEIGHT, WIDTH], "counts": _counts(mask)},
                {"size": [HEIGHT, WIDTH], "counts": packed["counts"].decode()},
            ]
            shape = {"id": len(content["annotations"]), "image_id": 100 + number, "category_id": category}
            content["annotations"].append({**shape, "segmentation": shapes[number % 3], "iscrowd": int(number % 3 > 0)})
    content["images"].append({"id": 999, "file_name": "gone.png", **size})
    (folder / "instances.json").write_text(json.dumps(content))
    return folder / "instances.json"


def write_masks(folder: Path, kind: str, images: int = 2) -> Path:
    """`photos` and `masks`: grey, palette or colours, with two unnamed columns on the right; the file of names."""
    values = TRUTH.copy()
    values[:, -2:] = 3
    for number in range(images):
        name = ["a", "deep/b", *(f"more-{other}" for other in range(2, images))][number]
        _save(folder / "photos" / f"{name}.png", photo(number))
        target = folder / "masks" / f"{name}{'_mask' if number % 2 else ''}.png"
        target.parent.mkdir(parents=True, exist_ok=True)
        if kind == "colours":
            Image.fromarray(_COLOURS[values]).save(target)
        elif kind == "palette":
            image = Image.fromarray(values, "P")
            image.putpalette(_COLOURS.tobytes())
            image.save(target)
        else:
            Image.fromarray(values).save(target)
    _save(folder / "photos" / "unlabelled.png", photo())
    lines = (
        ["0 0 0 background", "128 64 128 road", "70 130 180 sky"]
        if kind == "colours"
        else ["0 background", "1 road", "2 sky"]
    )
    (folder / "names.txt").write_text("\n".join(lines) + "\n")
    return folder / "names.txt"


def write_voc(folder: Path, *, labelmap: bool = False, images: int = 2) -> None:
    """JPEGImages and SegmentationClass of road as car and sky as person, with VOC's boundary; or with a labelmap.txt."""
    values = np.where(TRUTH == 1, 7, np.where(TRUTH == 2, 15, 0)).astype(np.uint8)
    values[:, -2:] = 255
    names = ["a", "b", *(f"more-{number}" for number in range(2, images))]
    for number, name in enumerate(names):
        _save(folder / "JPEGImages" / f"{name}.jpg", photo(number))
        target = folder / "SegmentationClass" / f"{name}.png"
        target.parent.mkdir(parents=True, exist_ok=True)
        if labelmap:
            Image.fromarray(_COLOURS[TRUTH]).save(target)
        else:
            image = Image.fromarray(values, "P")
            image.putpalette(np.arange(768).astype(np.uint8).tobytes())
            image.save(target)
    if labelmap:
        lines = ["# label:color_rgb:parts:actions", "background:0,0,0::", "road:128,64,128::", "sky:70,130,180::"]
        (folder / "labelmap.txt").write_text("\n".join(lines))
    lists = folder / "ImageSets" / "Segmentation"
    lists.mkdir(parents=True)
    (lists / "train.txt").write_text("a\n")
    (lists / "val.txt").write_text("b\n")


def write_cityscapes(folder: Path, images: int = 2) -> None:
    """A training and a validation image, one with ids and one with train ids; and one without labels."""
    cities = [("train", "bonn"), ("val", "ulm"), *[("train", "jena")] * (images - 2)]
    for number, (split, city) in enumerate(cities):
        stem = f"{city}_{number:06}_000019"
        _save(folder / "leftImg8bit" / split / city / f"{stem}_leftImg8bit.png", photo(number))
        by_train_id = number % 2 == 0
        road, sky, other = (0, 10, 255) if by_train_id else (7, 23, 1)
        labels = np.where(TRUTH == 1, road, np.where(TRUTH == 2, sky, other)).astype(np.uint8)
        ending = "labelTrainIds" if by_train_id else "labelIds"
        _save(folder / "gtFine" / split / city / f"{stem}_gtFine_{ending}.png", labels)
    _save(folder / "leftImg8bit" / "train" / "bonn" / "bonn_000009_000019_leftImg8bit.png", photo())
