"""Snapshot folders to train on, made of arrays."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from segloop.dataset import AnnotationRef, Item, Manifest, Split, write_manifest

Example = tuple[NDArray[np.uint8], NDArray[np.uint8], Split]


def write_snapshot(
    folder: Path, classes: Sequence[str], examples: Sequence[Example], *, project: str = "7.1795383040"
) -> Manifest:
    """Write (image uint8 (H, W, 3), class map uint8 (H, W), split) triples as a snapshot; task ids count from 1."""
    items = []
    for task, (image, class_map, split) in enumerate(examples, start=1):
        names = {}
        for kind, pixels in (("images", image), ("masks", class_map)):
            buffer = io.BytesIO()
            Image.fromarray(pixels).save(buffer, "PNG")
            names[kind] = f"{kind}/{hashlib.sha256(buffer.getvalue()).hexdigest()}.png"
            (folder / kind).mkdir(parents=True, exist_ok=True)
            (folder / names[kind]).write_bytes(buffer.getvalue())
        height, width = class_map.shape
        reference = AnnotationRef(id=task, updated_at="2026-11-22T00:00:00Z")
        items.append(
            Item(
                task=task,
                image_tag="image",
                annotations=(reference,),
                image=names["images"],
                mask=names["masks"],
                width=width,
                height=height,
                split=split,
            )
        )
    manifest = Manifest(
        project=project,
        created_at="2026-11-22T00:00:00+00:00",
        label_config=label_config(classes),
        classes=tuple(classes),
        unlabelled="background",
        items=tuple(items),
    ).sealed()
    write_manifest(folder, manifest)
    return manifest


def label_config(classes: Sequence[str]) -> str:
    """Brush labels for these classes."""
    labels = "".join(f'<Label value="{name}"/>' for name in classes)
    brush = f'<BrushLabels name="tag" toName="image">{labels}</BrushLabels>'
    return f'<View><Image name="image" value="$image"/>{brush}</View>'


def write_base(base: Path, **hyperparameters: object) -> Path:
    """The rest of the training contract's input: hyperparameters, as the strings that SageMaker makes of them."""
    config = base / "input" / "config"
    config.mkdir(parents=True, exist_ok=True)
    text = json.dumps({name: str(value) for name, value in hyperparameters.items()})
    (config / "hyperparameters.json").write_text(text, "utf-8")
    return base
