"""Cityscapes: leftImg8bit and gtFine (or gtCoarse), with its 19 classes; all other labels are ignored."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Final

from segloop.errors import DatasetError
from segloop.exchange.datasets.base import Dataset, Example, images_in, read_indices

#: The labels that are evaluated, by their ids (cityscapesscripts/helpers/labels.py); a train id is the place in this order.
CLASSES: Final = {
    7: "road", 8: "sidewalk", 11: "building", 12: "wall", 13: "fence", 17: "pole", 19: "traffic light", 20: "traffic sign",
    21: "vegetation", 22: "terrain", 23: "sky", 24: "person", 25: "rider", 26: "car", 27: "truck", 28: "bus", 31: "train",
    32: "motorcycle", 33: "bicycle",
}  # fmt: skip
_IMAGE: Final = "_leftImg8bit"
_BY_ID: Final = {label: value for value, label in enumerate(CLASSES, start=1)}
_BY_TRAIN_ID: Final = {train_id: train_id + 1 for train_id in range(len(CLASSES))}


def read_cityscapes(root: Path, split: str = "") -> Dataset:
    """The images below `leftImg8bit` that have labels; with a split, those of its folder.

    Labels are `_labelTrainIds.png` or `_labelIds.png`.

    Raises:
        DatasetError: it is no such folder.
    """
    folder = root / "leftImg8bit"
    truths = next((root / name for name in ("gtFine", "gtCoarse") if (root / name).is_dir()), None)
    if truths is None:
        raise DatasetError(f"{root} has no folder gtFine or gtCoarse")
    examples, problems = [], []
    for file in images_in(folder / Path(split).name if split else folder):
        name = file.relative_to(folder)
        stem = truths / name.parent / f"{file.stem.removesuffix(_IMAGE)}_{truths.name}"
        for ending, values in (("_labelTrainIds.png", _BY_TRAIN_ID), ("_labelIds.png", _BY_ID)):
            labels = stem.with_name(stem.name + ending)
            if labels.is_file():
                examples.append(Example(f"leftImg8bit/{name.as_posix()}", file, partial(read_indices, labels, values)))
                break
        else:
            problems.append(f"{name} has no labels in {truths.name}")
    return Dataset(tuple(CLASSES.values()), examples, tuple(problems))
