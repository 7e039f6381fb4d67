"""Looks for suspected labels after a training: held-out tasks are judged by the candidate, training tasks by heads of
folds."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray

from segloop.dataset import Item, load_manifest
from segloop.masks import label_pieces, mask_polygons
from segloop.network.transforms import Float32, UInt8, resize_image
from segloop.settings import Settings
from segloop.suspects import BACKGROUND_NAME, Judged, Suspect, SuspectImage, Suspects, write_suspects
from segloop.suspects.confident import PieceOfPixels
from segloop.suspects.format import MOST_IMAGES, MOST_PIECES, MOST_POINTS, Outline
from segloop.training.evaluation import Network
from segloop.training.examples import read_example
from segloop.training.folds import FoldInputs, fold_logits
from segloop.training.panel import Panel, SeenImage, judged_size, room_in
from segloop.versions import read_version

log = logging.getLogger(__name__)

#: Share of a training's time in which training tasks are judged; held-out ones are all judged, whatever it takes.
BUDGET_SHARE: Final = 0.1
#: Outlines are simplified by so many pixels, and by more where they have too many points.
_TOLERANCES_PX: Final = (1.0, 2.0, 4.0, 8.0)


@dataclass(frozen=True)
class SuspectInputs:
    """What suspects are looked for in: a candidate's bundle, the snapshot's folder, and the project's settings."""

    bundle: Path
    snapshot: Path
    settings: Settings
    device: torch.device


def find_suspects(inputs: SuspectInputs) -> Suspects:
    """Look for suspected labels, and put them into the candidate's bundle; what was found.

    Training tasks are judged where the setting `suspects` is `all`, within BUDGET_SHARE of the training's time.

    Raises:
        RegistryError: the bundle cannot be loaded.
        TrainingError: the snapshot cannot be read.
    """
    info, manifest = read_version(inputs.bundle), load_manifest(inputs.snapshot)
    network = Network.load(inputs.bundle, inputs.device)
    held_out, trained = manifest.part("val"), manifest.part("train")
    with tempfile.TemporaryDirectory(prefix="segloop-suspects-") as folder:
        room = room_in(Path(folder))
        ours = Panel(room, len(manifest.classes) + 1)
        for item in held_out:
            image, truth = read_example(inputs.snapshot, item)
            ours.hear(item, truth, _in_order(network.logits(image), network.classes, manifest.classes))
        ours.calibrate(network.temperature)
        theirs = Panel(room, len(manifest.classes) + 1)
        if inputs.settings.suspects == "all" and network.classes == manifest.classes:
            budget_s = BUDGET_SHARE * (info.recipe.seconds or 0.0)
            for fold in fold_logits(FoldInputs(info, network, inputs.snapshot, trained, inputs.settings, budget_s)):
                for item, logits in zip(fold.items, fold.logits, strict=True):
                    _, truth = read_example(inputs.snapshot, item)
                    theirs.hear(item, truth, logits)
                theirs.calibrate(fold.temperature)
        judged = Judged(held_out=len(ours), held_out_of=len(held_out), training=len(theirs), training_of=len(trained))
        chosen = worst([*ours.look(held_out=True), *theirs.look(held_out=False)])
        suspects = as_file(chosen, manifest.classes, judged)
    photos = (_photo(inputs.snapshot, seen.item) for seen in chosen)
    write_suspects(inputs.bundle, suspects, photos)
    log.info("%d suspected labels on %d images (%s)", len(suspects.suspects), len(suspects.images), judged)
    return suspects


def worst(seen: Sequence[SeenImage]) -> list[SeenImage]:
    """The images of the most suspected pieces, with those pieces alone: at most MOST_IMAGES and MOST_PIECES."""
    order = sorted(
        ((piece.score, -place, piece) for place, image in enumerate(seen) for piece in image.pieces),
        key=lambda one: one[:2],
        reverse=True,
    )
    kept: dict[int, list[PieceOfPixels]] = {}
    for _, place, piece in order[:MOST_PIECES]:
        if -place in kept or len(kept) < MOST_IMAGES:
            kept.setdefault(-place, []).append(piece)
    return [
        replace(one, pieces=tuple(pieces)) for one, pieces in ((seen[place], pieces) for place, pieces in kept.items())
    ]


def as_file(chosen: Sequence[SeenImage], classes: Sequence[str], judged: Judged) -> Suspects:
    """What suspects.json says of images and their pieces."""
    names = (BACKGROUND_NAME, *classes)
    images, suspects = [], []
    for number, seen in enumerate(chosen):
        labels, found, item = seen.heard.labels, seen.heard.probabilities().argmax(axis=0).astype(np.uint8), seen.item
        height, width = labels.shape
        images.append(
            SuspectImage(
                task=item.task,
                image_tag=item.image_tag,
                item_index=item.item_index,
                annotations=tuple(one.id for one in item.annotations),
                mask=Path(item.mask).stem,
                width=width,
                height=height,
                full_width=item.width,
                full_height=item.height,
                held_out=seen.held_out,
                quality=round(seen.quality, 4),
            )
        )
        for piece in seen.pieces:
            whole = np.zeros((height, width), np.bool_)
            left, top, across, down = piece.box
            whole[top : top + down, left : left + across] = piece.pixels
            suspects.append(
                Suspect(
                    image=number,
                    labelled=names[piece.labelled],
                    seen=names[piece.seen],
                    area=round(piece.area, 6),
                    margin=round(min(piece.margin, 1.0), 4),
                    score=round(min(piece.score, 1.0), 6),
                    box=(left / width, top / height, across / width, down / height),
                    piece=outline(whole),
                    label=_around(labels, piece.labelled, whole),
                    network=_around(found, piece.seen, whole),
                )
            )
    ordered = tuple(sorted(suspects, key=lambda one: -one.score))
    return Suspects(judged=judged, images=tuple(images), suspects=ordered)


def outline(mask: NDArray[np.bool_]) -> Outline:
    """The outlines of a mask, bool (H, W), with at most MOST_POINTS points; small pieces are left out where there are more."""
    rings: list[tuple[int, ...]] = []
    for tolerance in _TOLERANCES_PX:
        rings = [tuple(np.rint(points).astype(int).ravel().tolist()) for points in mask_polygons(mask, tolerance)]
        if sum(map(len, rings)) <= 2 * MOST_POINTS:
            break
    kept: list[tuple[int, ...]] = []
    room = 2 * MOST_POINTS
    for ring in rings:  # the largest first
        if len(ring) <= room:
            kept.append(ring)
            room -= len(ring)
    return tuple(kept)


def _around(class_map: UInt8, value: int, piece: NDArray[np.bool_]) -> Outline:
    """The outlines of what a class map has of a class where a piece lies; nothing of background."""
    if not value:
        return ()
    _, numbers, _ = label_pieces(class_map == value)
    there = np.unique(numbers[piece])
    return outline(np.isin(numbers, there[there > 0]))


def _in_order(logits: Float32, own: Sequence[str], classes: Sequence[str]) -> Float32:
    """Logits float32 (C, h, w) of a network's own classes as those of others, by name; very low ones of what it has not."""
    if tuple(own) == tuple(classes):
        return logits
    place = {name: channel for channel, name in enumerate(own, start=1)}
    ordered = np.full((len(classes) + 1, *logits.shape[1:]), logits.min() - 100, np.float32)
    ordered[0] = logits[0]
    for channel, name in enumerate(classes, start=1):
        if name in place:
            ordered[channel] = logits[place[name]]
    return ordered


def _photo(snapshot: Path, item: Item) -> UInt8:
    image, _ = read_example(snapshot, item)
    return resize_image(image, *judged_size(*image.shape[:2]))
