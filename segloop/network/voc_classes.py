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
def voc_class(name: str) -> str | None:
    """The VOC class that a label's name means (case, spaces and plural aside; COCO's names too), or None."""
    folded = re.sub(r"[\s_-]+", "", name.casefold())
    for word in (folded, folded.removesuffix("s"), folded.removesuffix("es")):
        if word in VOC_CLASSES:
            return word
        if word in _SYNONYMS:
            return _SYNONYMS[word]
    return None


def zero_shot_channels(labels: Mapping[str, Sequence[str]]) -> dict[str, tuple[int, ...]]:
    """Label -> channels of the published weights that mean it; labels that none means are left out.

    `labels` maps each label to its predicted values, which go before its own name. A channel serves the first
    label that names it.
    """
    taken: set[int] = set()
    found: dict[str, tuple[int, ...]] = {}
    for label, predicted_values in labels.items():
        names = [voc for value in (predicted_values or (label,)) if (voc := voc_class(value))]
        channels = {VOC_CLASSES.index(voc) + 1 for voc in names} - taken
        if channels:
            taken |= channels
            found[label] = tuple(sorted(channels))
    return found
