"""Consistency training: a network learns to say of an altered view of an image what it is sure of on the image itself.

So images without annotations teach it something. Weak to strong views and a threshold: FixMatch (arXiv 2001.07685), for
segmentation as the image-level half of UniMatch (arXiv 2208.09910), with CutMix (arXiv 1906.01916) among the alterations.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import Dataset

from segloop.formats import IGNORED
from segloop.network.transforms import Augmentation, augment, jitter_colours, normalise
from segloop.training.distributed import Team
from segloop.training.examples import Examples, Stage, index_of, reduced

#: Probability from which a prediction counts as known.
SURE: Final = 0.95
#: What the loss of consistency counts beside that of the annotated images.
WEIGHT: Final = 0.5
#: Shares of the sides of what CutMix moves from one image to the next.
_CUT: Final = (0.25, 0.75)


@dataclass(frozen=True)
class UnannotatedBatch:
    """Views of images without annotations: `weak` and `strong` float32 (B, 3, h, w) of the same pixels, `inside` bool
    (B, h, w) where they show the image, and `pixels` (), how many of these the whole step has."""

    weak: Tensor
    strong: Tensor
    inside: Tensor
    pixels: Tensor


class UnannotatedViews(Dataset[tuple[Tensor, Tensor, Tensor]]):
    """The pairs of views that a run sees, by their position: weak, strong and inside, as in `UnannotatedBatch`.

    Both have the same crop. The weak one has the image's own colours. What a position gives depends on the seed alone.
    """

    def __init__(self, examples: Examples, seed: int, stage: Stage) -> None:
        self._examples, self._seed, self.stage = examples, seed, stage

    def __getitem__(self, position: int) -> tuple[Tensor, Tensor, Tensor]:
        image, _ = self._examples[index_of(position, len(self._examples), (self._seed, 2))]
        image, known = reduced(image, np.zeros(image.shape[:2], np.uint8), self.stage.factor)
        random = np.random.default_rng((self._seed, 3, position))
        weak, known = augment(image, known, self.stage.size, random, Augmentation(jitters=(0.0,)))
        strong = jitter_colours(weak, random, max(Augmentation().jitters))
        return (
            torch.from_numpy(normalise(weak)),
            torch.from_numpy(normalise(strong)),
            torch.from_numpy(known != IGNORED),
        )


def unannotated_batches(
    views: Iterator[tuple[Tensor, Tensor, Tensor]], device: torch.device, team: Team
) -> Iterator[UnannotatedBatch]:
    """The batches of views on a run's device, with the pixels of all its processes counted."""
    for weak, strong, inside in views:
        weak, strong = (
            images.to(device, memory_format=torch.channels_last, non_blocking=True) for images in (weak, strong)
        )
        inside = inside.to(device, non_blocking=True)
        yield UnannotatedBatch(weak, strong, inside, team.total(inside.sum().float()).clamp(min=1))


def consistency_loss(network: nn.Module, batch: UnannotatedBatch) -> Tensor:
    """The loss () of what a network says of strong views where it is sure of the weak ones."""
    size = batch.inside.shape[1:]
    with torch.no_grad():
        probability, label = _resized(network(batch.weak), size).softmax(dim=1).max(dim=1)
        label[(probability < SURE) | ~batch.inside] = IGNORED
        strong, label = cut_mix(batch.strong, label)
    logits = _resized(network(strong), size)
    return F.cross_entropy(logits, label, ignore_index=IGNORED, reduction="sum") / batch.pixels


def cut_mix(images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Images (B, 3, h, w) and class maps (B, h, w), each with a rectangle of the next one in the batch in its place."""
    height, width = labels.shape[1:]
    low, high = _CUT
    rows, columns = (max(1, int(side * (low + (high - low) * torch.rand(()).item()))) for side in (height, width))
    top = int(torch.randint(height - rows + 1, ()))
    left = int(torch.randint(width - columns + 1, ()))
    part = (..., slice(top, top + rows), slice(left, left + columns))
    images, labels = images.clone(), labels.clone()
    images[part], labels[part] = images.roll(1, 0)[part], labels.roll(1, 0)[part]
    return images, labels


def _resized(logits: Tensor, size: torch.Size) -> Tensor:
    return F.interpolate(logits.float(), size=size, mode="bilinear", align_corners=False)
