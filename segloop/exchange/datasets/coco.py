"""COCO: one JSON file of instances, as polygons or run-length codes. Later instances lie over earlier ones."""

from __future__ import annotations

import json
import math
import os
from collections import defaultdict
from collections.abc import Mapping, Sequence
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

import numpy as np

from segloop.errors import DatasetError
from segloop.exchange.datasets.base import Dataset, Example, UInt8
from segloop.formats import BACKGROUND, IGNORED

Json = Mapping[str, Any]
#: Numbers of the shortest polygon: pycocotools takes four for a box.
_SHORTEST: Final = 6
#: Pixels that the outlines of an instance pass, at most: pycocotools has some 80 bytes for each, and dies of billions.
_MOST_STEPS: Final = 4_000_000


def read_coco(file: Path, images: Path, max_pixels: int) -> Dataset:
    """The data set of an instances file; `images` is the folder that its file names are in.

    An image without its file is left out. Crowds count as their class. Of an instance that has a box alone (a set for
    detection, points too few for a polygon) the pixels are not known: what lies in its box and in no other is ignored.

    Raises:
        DatasetError: it is no such file, or pycocotools, of the extra `coco`, is not installed.
    """
    if find_spec("pycocotools") is None:
        raise DatasetError("COCO's masks are read by pycocotools, which is not here: run pip install 'segloop[coco]'")
    try:
        # many tools write NaN, for an area that nobody reads: stricter readers refuse the whole file
        content = json.loads(file.read_bytes())
        names = {int(one["id"]): str(one["name"]) for one in content["categories"]}
        regions: dict[int, list[Json]] = defaultdict(list)
        for annotation in content.get("annotations", []):
            regions[int(annotation["image_id"])].append(annotation)
        known = [
            (int(one["id"]), str(one["file_name"]), int(one["height"]), int(one["width"])) for one in content["images"]
        ]
    except OSError as error:
        raise DatasetError(f"{file} cannot be read: {error.strerror}") from error
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise DatasetError(f"{file} is no COCO file of instances: {type(error).__name__} {error}") from error
    values = {category: number for number, category in enumerate(sorted(names), start=1)}
    examples, problems = [], []
    for ident, name, height, width in known:
        path = images / name
        try:
            is_inside, is_there = path.resolve().is_relative_to(images.resolve()), path.is_file()
        except (OSError, ValueError) as error:
            problems.append(f"{name[:100]!r} is no name of a file: {getattr(error, 'strerror', None) or error}")
            continue
        if not is_inside:
            problems.append(f"{name} lies outside {images}")
        elif not is_there:
            problems.append(f"{name} is not in {images}")
        elif not 0 < height * width <= max_pixels:
            problems.append(f"{name} claims {width} x {height} pixels")
        else:
            draw = partial(_draw, regions[ident], (height, width), values, name)
            examples.append(Example(_name(path, images), path, draw))
    return Dataset(tuple(names[category] for category in sorted(names)), examples, tuple(problems))


def _name(path: Path, images: Path) -> str:
    """The path of an image below their folder, however the file writes it: whole, or with a dot before it."""
    below = Path(os.path.relpath(path, images))
    return below.as_posix() if below.parts[0] != os.pardir else path.as_posix()


def _draw(regions: Sequence[Json], size: tuple[int, int], values: Mapping[int, int], name: str) -> UInt8:
    class_map = np.zeros(size, np.uint8)
    in_boxes = np.zeros(size, np.bool_)
    for region in sorted(regions, key=lambda one: not one.get("iscrowd")):
        try:
            mask = _mask(region.get("segmentation"), *size)
            if mask is None:
                in_boxes[_box(region.get("bbox"))] = True
            else:
                class_map[mask] = values[int(region["category_id"])]
        except (ValueError, TypeError, KeyError, IndexError, OverflowError) as error:
            what = f"annotation {region.get('id')} of {name} cannot be drawn"
            raise DatasetError(f"{what}: {type(error).__name__} {error}") from error
    class_map[in_boxes & (class_map == BACKGROUND)] = IGNORED
    return class_map


def _box(box: Any) -> tuple[slice, slice]:
    """The rows and columns of a box: left, top, width, height."""
    left, top, across, down = (float(number) for number in box or (0, 0, 0, 0))
    rows = slice(max(0, math.floor(top)), max(0, math.ceil(top + down)))
    return rows, slice(max(0, math.floor(left)), max(0, math.ceil(left + across)))


def _mask(shape: Any, height: int, width: int) -> np.ndarray[Any, np.dtype[np.bool_]] | None:
    """The pixels of a segmentation; None where it has none."""
    from pycocotools import mask as coco

    if not shape:
        return None
    if isinstance(shape, Mapping):
        if [int(side) for side in shape["size"]] != [height, width]:
            raise ValueError(f"its code is of {shape['size']}, the image of {[height, width]}")
        counts = shape["counts"]
        # pycocotools decodes what is no code without a word
        runs = counts if isinstance(counts, list) else _runs(counts if isinstance(counts, bytes) else counts.encode())
        if sum(runs) != height * width or min(runs) < 0:
            raise ValueError("its counts do not cover the image")
        code = coco.frPyObjects({"size": [height, width], "counts": runs}, height, width)
    else:
        polygons = [[float(number) for number in one] for one in shape if len(one) >= _SHORTEST and len(one) % 2 == 0]
        if not polygons:
            return None
        if not sum(map(_steps, polygons)) <= _MOST_STEPS:
            raise ValueError("its outline leaves the image too far")
        code = coco.merge(coco.frPyObjects(polygons, height, width))
    return np.asarray(coco.decode(code), dtype=bool)


def _steps(polygon: Sequence[float]) -> float:
    """How many pixels an outline passes; no number where a coordinate is none."""
    corners = np.array(polygon).reshape(-1, 2)
    with np.errstate(invalid="ignore", over="ignore"):
        return float(np.abs(np.roll(corners, -1, axis=0) - corners).max(axis=1).sum())


def _runs(code: bytes) -> list[int]:
    """The run lengths of COCO's compressed code: five bits a character, each run from the third on as a difference."""
    runs: list[int] = []
    place = 0
    while place < len(code):
        value = shift = 0
        more = True
        while more:
            bits = code[place] - 48
            value |= (bits & 31) << shift
            more, place, shift = bool(bits & 32), place + 1, shift + 5
        value -= (bits & 16) << 1 << (shift - 5)
        runs.append(value + runs[-2] if len(runs) > 2 else value)
    return runs
