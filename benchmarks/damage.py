"""Masks damaged in five known ways, as annotators damage them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

from segloop.formats import IGNORED
from segloop.masks import label_pieces

UInt8 = NDArray[np.uint8]
#: What makes a damaged mask of a mask uint8 (H, W) and the others' masks; None where this one cannot be damaged so.
Damage = Callable[[np.random.Generator, UInt8, Sequence[UInt8]], UInt8 | None]

#: Pieces that are damaged: from an object to a good part of the image, as shares of it.
SMALLEST, LARGEST = 0.005, 0.25
#: How far a shifted mask is off, as shares of the image's width.
SHIFTS: Final = (0.06, 0.12)
#: A wrong image's mask differs in at least this share of the pixels: that of the next frame of a film hardly does.
WRONG_SHARE: Final = 0.25


def damage_masks(masks: Sequence[UInt8], share: float, seed: int) -> tuple[list[UInt8], dict[int, str]]:
    """Masks of which a share is damaged, in the five ways in turns, and how each of these is, by its place."""
    rng = np.random.default_rng(seed)
    count = max(1, round(share * len(masks)))
    kinds = [list(KINDS)[(seed + number) % len(KINDS)] for number in range(count)]
    damaged, how = list(masks), {}
    order = iter(rng.permutation(len(masks)).tolist())
    for kind in kinds:
        for place in order:
            made = KINDS[kind](rng, masks[place], masks)
            if made is not None and (made != masks[place]).any():
                damaged[place], how[place] = made, kind
                break
    return damaged, how


def swap_class(rng: np.random.Generator, mask: UInt8, others: Sequence[UInt8]) -> UInt8 | None:
    """A piece gets the class of another one, which occurs elsewhere."""
    piece = some_piece(rng, mask)
    if piece is None:
        return None
    own = int(mask[piece][0])
    classes = [value for value in classes_of(others) if value != own]
    if not classes:
        return None
    return np.where(piece, np.uint8(rng.choice(classes)), mask).astype(np.uint8)


def miss_piece(rng: np.random.Generator, mask: UInt8, others: Sequence[UInt8]) -> UInt8 | None:
    """A piece is not drawn: what lies around it covers it."""
    piece = some_piece(rng, mask, background=False)
    if piece is None:
        return None
    ring = cv2.dilate(piece.astype(np.uint8), np.ones((5, 5), np.uint8)).astype(bool) & ~piece
    around = mask[ring & (mask != IGNORED)]
    around = around[around != mask[piece][0]]
    if not around.size:
        return None
    return np.where(piece, np.bincount(around).argmax().astype(np.uint8), mask).astype(np.uint8)


def add_piece(rng: np.random.Generator, mask: UInt8, others: Sequence[UInt8]) -> UInt8 | None:
    """A piece of another image's mask is drawn where there is no such thing."""
    other = others[int(rng.integers(len(others)))]
    piece = some_piece(rng, other, background=False) if other.shape == mask.shape else None
    if piece is None:
        return None
    value = other[piece][0]
    new = piece & (mask != value)
    if new.sum() < 0.8 * piece.sum():
        return None
    return np.where(piece, value, mask).astype(np.uint8)


def shift(rng: np.random.Generator, mask: UInt8, others: Sequence[UInt8]) -> UInt8 | None:
    """The whole mask lies beside its image."""
    far = rng.uniform(*SHIFTS) * mask.shape[1]
    angle = rng.uniform(0, 2 * np.pi)
    move = np.array([[1, 0, far * np.cos(angle)], [0, 1, far * np.sin(angle)]])
    size = (mask.shape[1], mask.shape[0])
    return np.asarray(
        cv2.warpAffine(mask, move, size, flags=cv2.INTER_NEAREST, borderMode=cv2.BORDER_REPLICATE), np.uint8
    )


def take_wrong(rng: np.random.Generator, mask: UInt8, others: Sequence[UInt8]) -> UInt8 | None:
    """The mask is that of another image."""
    for place in rng.permutation(len(others)):
        other = others[int(place)]
        if other.shape == mask.shape and (other != mask).mean() >= WRONG_SHARE:
            return other.copy()
    return None


#: The five ways, by their names.
KINDS: Final[dict[str, Damage]] = {
    "class swapped": swap_class,
    "piece missing": miss_piece,
    "piece added": add_piece,
    "mask shifted": shift,
    "wrong image": take_wrong,
}


def some_piece(rng: np.random.Generator, mask: UInt8, *, background: bool = True) -> NDArray[np.bool_] | None:
    """A connected piece of a class, between SMALLEST and LARGEST, bool (H, W); None where there is none."""
    found = []
    for value in np.unique(mask):
        if value == IGNORED or (value == 0 and not background):
            continue
        _, numbers, stats = label_pieces(mask == value)
        shares = stats[1:, 4] / mask.size
        found += [(numbers, number + 1) for number in np.flatnonzero((shares >= SMALLEST) & (shares <= LARGEST))]
    if not found:
        return None
    numbers, number = found[int(rng.integers(len(found)))]
    piece: NDArray[np.bool_] = numbers == number
    return piece


def classes_of(masks: Sequence[UInt8]) -> list[int]:
    """The values that masks have, ignored pixels and background left out."""
    there = np.zeros(256, bool)
    for mask in masks[:50]:
        there[np.unique(mask)] = True
    return [int(value) for value in np.flatnonzero(there) if value not in (0, IGNORED)]
