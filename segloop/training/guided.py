"""The guided head's training: people who click at pieces of the annotations, simulated, on what the trained network sees."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from segloop.formats import GUIDED_MAPS, IGNORED
from segloop.masks import label_pieces
from segloop.network.guided import GuidedUNet
from segloop.results.clicks import changeable, settled
from segloop.results.guided import head_inputs
from segloop.results.views import Asked, Float32, Mask, Place, Sight, View
from segloop.training.clicking import Piece

#: Clicks that one step of the optimizer learns from, and people who click at a time: those with views of about one size are
#: taken together.
BATCH: Final = 8
PEOPLE: Final = 32
LEARNING_RATE: Final = 2e-3
WEIGHT_DECAY: Final = 0.01
#: Steps in which the learning rate rises.
_WARMUP_STEPS: Final = 30
_LARGEST_GRADIENT: Final = 1.0
#: Pieces smaller than this share of an image are not clicked at.
LEAST_SHARE: Final = 0.0009
#: The longest sides of a view, in pixels; how often each person clicks at most; a mask as good as this takes no further click.
_SIDES_PX: Final = (112, 144, 192)
_MOST_CLICKS: Final = (2, 4, 6, 8, 10, 14)
_GOOD: Final = 0.96
#: How often the network sees nothing, and how often it takes what is wanted for background: a head must not rely on it, for it
#: knows the images that it was trained on.
_BLIND_SHARE, _UNKNOWN_SHARE = 0.1, 0.1
#: The weight of pixels that the last click may not change, and of those that it may.
_KEPT_WEIGHT, _CHANGED_WEIGHT = 0.5, 2.0


@dataclass(frozen=True)
class Seen:
    """An annotated image and what the network says of it; `truth` is the class map uint8 (H, W) of its annotations."""

    sight: Sight
    truth: NDArray[np.uint8]


@dataclass(frozen=True)
class PlaceOfPiece:
    """Which piece: the n-th image's, of a class value, by its number among the class's pieces there."""

    image: int
    value: int
    number: int

    def of(self, seen: Sequence[Seen], flipped: bool = False) -> Piece:
        """The piece itself, mirrored if it should be."""
        truth = seen[self.image].truth
        wanted = np.equal(label_pieces(truth == self.value)[1], self.number)
        counted = truth != IGNORED
        if flipped:
            wanted, counted = (np.ascontiguousarray(mask[:, ::-1]) for mask in (wanted, counted))
        return Piece(self.value, wanted, counted)


def pieces_of(seen: Sequence[Seen]) -> list[PlaceOfPiece]:
    """The pieces that are large enough to be clicked at."""
    found = []
    for image, one in enumerate(seen):
        least = LEAST_SHARE * one.truth.size
        for value in np.setdiff1d(np.unique(one.truth), (0, IGNORED)).tolist():
            count, _, stats = label_pieces(one.truth == value)
            found += [PlaceOfPiece(image, value, number) for number in range(1, count + 1) if stats[number, 4] >= least]
    return found


@dataclass
class Person:
    """Somebody who clicks at pieces of images, one after the other; `view` is what their last click is answered from."""

    seen: Sequence[Seen]
    pieces: Sequence[PlaceOfPiece]
    random: np.random.Generator
    sight: Sight = field(init=False)
    piece: Piece = field(init=False)
    view: View = field(init=False)

    def __post_init__(self) -> None:
        self._begin()

    def answer(self, evidence: Float32) -> None:
        """Take the mask that evidence (h, w) on the view gives, and click again, or at another piece."""
        mask = settled(self.view, evidence)
        if len(self.view.asked.clicks) >= self._most or self.piece.iou(mask) > _GOOD:
            self._begin()
        else:
            self._click(mask)

    def wanted(self) -> tuple[Float32, Float32]:
        """On the view: how much of each pixel is wanted, and its weight, float32 (h, w)."""
        view = self.view
        weight = _shown(view, self.piece.counted[view.part])
        if view.before is not None:
            may = _shown(view, changeable(view, view.before[view.part]))
            weight = weight * (_KEPT_WEIGHT + np.float32(_CHANGED_WEIGHT - _KEPT_WEIGHT) * may)
        return _shown(view, self.piece.wanted[view.part]), weight

    def _begin(self) -> None:
        random = self.random
        place = self.pieces[int(random.integers(len(self.pieces)))]
        is_flipped = random.random() < 0.5
        self.piece = place.of(self.seen, is_flipped)
        sight = self.seen[place.image].sight
        self.sight, self._value = _worse(_flipped(sight) if is_flipped else sight, place.value, random.random())
        self._side = int(random.choice(_SIDES_PX))
        self._most = int(random.choice(_MOST_CLICKS))
        self._clicks: tuple[Place, ...] = ()
        self._click(None)

    def _click(self, mask: Mask | None) -> None:
        at_random = self.random if self.random.random() < 0.5 else None
        self._clicks = (*self._clicks, self.piece.next_click(mask, at_random))
        self.view = View.around(self.sight, Asked(self._clicks, value=self._value), mask, self._side)


def _flipped(sight: Sight) -> Sight:
    """Mirrored, left and right."""
    return Sight(
        np.ascontiguousarray(sight.pixels[:, ::-1]),
        np.ascontiguousarray(sight.class_map[:, ::-1]),
        np.ascontiguousarray(sight.probabilities[:, :, ::-1], np.float16),
    )


def _shown(view: View, mask: Mask) -> Float32:
    """The share of each of a view's pixels that a mask, bool of its window, covers: float32 (h, w)."""
    return np.asarray(view.seen(mask * np.uint8(255)) / np.float32(255), np.float32)


def _worse(sight: Sight, value: int, chance: float) -> tuple[Sight, int]:
    """What a network says that saw nothing, or took a class for background, by chance; and the label that is chosen then."""
    seen, chances = sight.class_map, sight.probabilities
    if chance < _BLIND_SHARE:
        return Sight(sight.pixels, np.zeros_like(seen), np.full_like(chances, 0.5)), 0
    if chance < _BLIND_SHARE + _UNKNOWN_SHARE:
        chances = chances.copy()
        chances[0] += chances[value]
        chances[value] = 0
        return Sight(sight.pixels, np.where(seen == value, 0, seen).astype(np.uint8), chances), value
    return sight, value


def train_guided(seen: Sequence[Seen], steps: int, seed: int = 0) -> GuidedUNet | None:
    """A head, in evaluation mode, trained in so many steps on what a network sees of annotated images; None where they have no
    piece that is large enough. The same input gives the same head."""
    pieces = pieces_of(seen)
    if not pieces:
        return None
    torch.manual_seed(seed)
    random = np.random.default_rng(seed)
    head = GuidedUNet().to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(head.parameters(), LEARNING_RATE, weight_decay=WEIGHT_DECAY)
    people = [Person(seen, pieces, random) for _ in range(PEOPLE)]
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = LEARNING_RATE * min(1.0, (step + 1) / _WARMUP_STEPS) * math.pow(1 - step / steps, 0.9)
        first = people[int(random.integers(PEOPLE))]
        size = sum(first.view.size)
        chosen = sorted(people, key=lambda one: (one is not first, abs(sum(one.view.size) - size)))[:BATCH]
        batch = batch_of(chosen, random)
        found = head(batch.maps.contiguous(memory_format=torch.channels_last), batch.evidence)
        loss = guided_loss(found, batch.wanted, batch.weight)
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        nn.utils.clip_grad_norm_(head.parameters(), _LARGEST_GRADIENT)
        optimizer.step()
        answers = found.detach().numpy()[:, 0]
        for one, answer in zip(chosen, answers, strict=True):
            height, width = one.view.size
            one.answer(answer[:height, :width].copy())
    return head.eval()


@dataclass(frozen=True)
class Batch:
    """Views of clicks, each in the upper left of its place: `maps` (B, GUIDED_MAPS, h, w), the others (B, 1, h, w)."""

    maps: Tensor
    evidence: Tensor
    wanted: Tensor
    weight: Tensor


def batch_of(people: Sequence[Person], random: np.random.Generator) -> Batch:
    """What some people's last clicks are answered from, and what they want."""
    height, width = (max(one.view.size[axis] for one in people) for axis in (0, 1))
    maps = np.zeros((len(people), GUIDED_MAPS, height, width), np.float32)
    others = np.zeros((3, len(people), 1, height, width), np.float32)
    for place, one in enumerate(people):
        evidence = one.view.evidence()
        inputs = head_inputs(one.view, evidence)
        if random.random() < 0.5:  # another light
            inputs[:3] = inputs[:3] * random.uniform(0.7, 1.4) + random.normal(0, 0.15, (3, 1, 1))
        part = np.s_[: one.view.size[0], : one.view.size[1]]
        maps[place][:, *part] = inputs
        for kind, plane in enumerate((evidence, *one.wanted())):
            others[kind, place, 0][part] = plane
    return Batch(torch.from_numpy(maps), *(torch.from_numpy(each) for each in others))


def guided_loss(found: Tensor, wanted: Tensor, weight: Tensor) -> Tensor:
    """How wrong log-odds (B, 1, h, w) are: their cross-entropy over about as much as is wanted, and a soft IoU's lack of 1."""

    def total(maps: Tensor) -> Tensor:
        return (maps * weight).sum(dim=(1, 2, 3))

    entropy = total(F.binary_cross_entropy_with_logits(found, wanted, reduction="none"))
    share = found.sigmoid()
    both, either = total(share * wanted), total(share + wanted - share * wanted)
    # small things weigh as much as large ones, within limits
    area = torch.maximum(torch.minimum(total(wanted), total(1 - wanted)) * 4 + 50, total(torch.ones_like(wanted)) / 4)
    return (entropy / area + 1 - (both + 1) / (either + 1)).mean()
