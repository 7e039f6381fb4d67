"""The demo's images and true masks: generated scenes, or a folder given by DEMO_DATA."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np

from demo.scenes import write_scenes

#: Classes of the CamVid masks that SegNet's tutorial publishes; their README names them, no file lists them.
CAMVID = (
    "Sky",
    "Building",
    "Pole",
    "Road",
    "Pavement",
    "Tree",
    "SignSymbol",
    "Fence",
    "Car",
    "Pedestrian",
    "Bicyclist",
)

COLOURS = (
    "#1f77b4",
    "#d62728",
    "#ff7f0e",
    "#2ca02c",
    "#9467bd",
    "#8c564b",
    "#e377c2",
    "#bcbd22",
    "#17becf",
    "#7f7f7f",
    "#aec7e8",
    "#ffbb78",
)

IMAGES = (".jpg", ".jpeg", ".png")


#: What is above the two rows of labels.
DRAW = "Draw with the brush:"
CLICK = "Click, and segloop finds the region:"


@dataclass(frozen=True)
class Example:
    """An image file and its true mask."""

    image: Path
    mask: Path

    @property
    def group(self) -> str:
        """What the file's name begins with, up to the first `_`: CamVid's drive, or the place of a drawn scene."""
        return self.image.stem.partition("_")[0]

    def pixels(self) -> np.ndarray:
        """The image, RGB uint8 (H, W, 3)."""
        return np.ascontiguousarray(cv2.imread(str(self.image))[:, :, ::-1])

    def truth(self, classes: int) -> np.ndarray:
        """The class map uint8 (H, W): 0 where no class is, i + 1 for class i."""
        indices = cv2.imread(str(self.mask), cv2.IMREAD_UNCHANGED)
        if indices is None or indices.ndim != 2 or indices.dtype != np.uint8:
            raise SystemExit(f"{self.mask} is not an 8-bit mask with one channel (a class index a pixel).")
        return np.where(indices < classes, indices + 1, 0).astype(np.uint8)


@dataclass(frozen=True)
class DemoData:
    """What is labelled in the demo, what is held out from it, and the names of the mask's values.

    `unlabelled` says what a pixel without a class means: in the drawn scenes it is ground, which is none of the
    classes; in a folder it may be anything. `input_size` is the long side, in pixels, at which the network sees the
    images; 0: as segloop chooses.
    """

    classes: tuple[str, ...]
    train: tuple[Example, ...]
    val: tuple[Example, ...]
    unlabelled: str = "ignore"
    input_size: int = 0

    @property
    def label_config(self) -> str:
        """A label config with one brush label per class."""
        labels = "".join(
            f'<Label value="{name}" background="{COLOURS[index % len(COLOURS)]}"/>'
            for index, name in enumerate(self.classes)
        )
        keypoints = "".join(
            f'<Label value="{name}" background="{COLOURS[index % len(COLOURS)]}" showInline="false"/>'
            for index, name in enumerate(self.classes)
        )
        return (
            '<View><Image name="image" value="$image" zoom="true"/>'
            f'<Header value="{DRAW}" size="6"/>'
            f'<BrushLabels name="tag" toName="image" smart="false">{labels}</BrushLabels>'
            f'<Header value="{CLICK}" size="6"/>'
            f'<KeyPointLabels name="click" toName="image" smart="true" smartOnly="true">{keypoints}</KeyPointLabels></View>'
        )


def generated(folder: Path, train: int, val: int) -> DemoData:
    """Scenes drawn into `folder`; their poles and wires are too thin to be seen smaller."""
    write_scenes(folder, train=train, val=val)
    return replace(from_folder(folder, train, val), unlabelled="background", input_size=320)


def from_folder(folder: Path, train: int, val: int) -> DemoData:
    """At most `train` and `val` examples, evenly spread, of a folder with train/images, train/masks, val/images, val/masks.

    A mask holds a class index a pixel; indices that no class has are unlabelled. Class names come from classes.json
    (a list) or, for CamVid, are known; otherwise they are numbers.
    """
    parts = {}
    for part, limit in (("train", train), ("val", val)):
        found = [path for path in sorted((folder / part / "images").glob("*")) if path.suffix.lower() in IMAGES]
        if not found:
            raise SystemExit(f"DEMO_DATA: there are no images in {folder / part / 'images'}.")
        examples = [Example(image, folder / part / "masks" / f"{image.stem}.png") for image in found]
        missing = [example.mask for example in examples if not example.mask.exists()]
        if missing:
            raise SystemExit(f"DEMO_DATA: {missing[0]} is missing.")
        picks = np.unique(np.linspace(0, len(examples) - 1, min(limit, len(examples))).round().astype(int))
        parts[part] = tuple(examples[index] for index in picks)
    return DemoData(_class_names(folder, parts["train"]), parts["train"], parts["val"])


def _class_names(folder: Path, examples: tuple[Example, ...]) -> tuple[str, ...]:
    listed = folder / "classes.json"
    if listed.exists():
        return tuple(str(name) for name in json.loads(listed.read_text(encoding="utf-8")))
    readme = folder / "README.md"
    if readme.exists() and readme.read_text(encoding="utf-8").startswith("CamVid"):
        return CAMVID
    values = np.unique(
        np.concatenate([np.unique(cv2.imread(str(example.mask), cv2.IMREAD_UNCHANGED)) for example in examples])
    )
    return tuple(f"Class {value}" for value in range(int(values[values < 255].max()) + 1))
