"""The classes that the published weights know, and which labels name them. Imports no torch: `/setup` needs it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import lru_cache

#: Channels 1 to 20 of the published COCO_WITH_VOC_LABELS weights; channel 0 is background.
VOC_CLASSES = (
    "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable", "dog",
    "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
)  # fmt: skip

# COCO's names and everyday words for VOC's classes, folded as `_fold` does
_SYNONYMS = {
    "airplane": "aeroplane", "plane": "aeroplane", "aircraft": "aeroplane",
    "bike": "bicycle", "cycle": "bicycle",
    "motorcycle": "motorbike",
    "automobile": "car",
    "human": "person", "people": "person", "pedestrian": "person", "man": "person", "woman": "person",
    "table": "diningtable",
    "plant": "pottedplant", "houseplant": "pottedplant",
    "couch": "sofa",
    "tv": "tvmonitor", "television": "tvmonitor", "monitor": "tvmonitor",
}  # fmt: skip


@lru_cache(maxsize=4096)
def fold(name: str) -> str:
    """A name without its case, spaces, hyphens and underscores."""
    return re.sub(r"[\s_-]+", "", name.casefold())


@lru_cache(maxsize=4096)
def voc_class(name: str) -> str | None:
    """The VOC class that a label's name means (case, spaces and plural aside; COCO's names too), or None."""
    for word in _spellings(name):
        if word in VOC_CLASSES:
            return word
        if word in _SYNONYMS:
            return _SYNONYMS[word]
    return None


def _spellings(name: str) -> tuple[str, ...]:
    folded = fold(name)
    return folded, folded.removesuffix("s"), folded.removesuffix("es")


def zero_shot_channels(
    labels: Mapping[str, Sequence[str]], classes: Sequence[str] = VOC_CLASSES
) -> dict[str, tuple[int, ...]]:
    """Label -> channels of a network that mean it; labels that none means are left out.

    `labels` maps each label to its predicted values, which go before its own name. `classes` names the network's
    channels 1 and up. A channel serves the first label that names it.
    """
    taken: set[int] = set()
    found: dict[str, tuple[int, ...]] = {}
    for label, predicted_values in labels.items():
        meant = (class_channel(value, classes) for value in (predicted_values or (label,)))
        own = {channel for channel in meant if channel is not None} - taken
        if own:
            taken |= own
            found[label] = tuple(sorted(own))
    return found


@lru_cache(maxsize=16)
def _channels_by_name(classes: tuple[str, ...]) -> dict[str, int]:
    """Folded name -> channel; of classes that fold to one name, the first. A class's VOC name comes after all others."""
    channels: dict[str, int] = {}
    names = [fold(name) for name in classes], [voc_class(name) for name in classes]
    for channel, name in (pair for group in names for pair in enumerate(group, start=1)):
        if name is not None:
            channels.setdefault(name, channel)
    return channels


def class_channel(name: str, classes: Sequence[str]) -> int | None:
    """The channel that a label's name means, of a network whose channels 1 and up are `classes`; None if there is none."""
    channels = _channels_by_name(tuple(classes))
    words = (*_spellings(name), f"{fold(name)}s", voc_class(name))
    return next((channels[word] for word in words if word is not None and word in channels), None)
