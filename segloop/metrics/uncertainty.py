"""Acquisition functions of active learning: how sure a network is of an image, and which images to label next.

Each score is of the network's class probabilities, in [0, 1], and higher is surer: Label Studio's uncertainty
sampling serves the lowest score first.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

Float32 = NDArray[np.float32]

#: What a prediction's score is; `entropy+diversity` is the entropy, and then an order of the least sure tasks in which
#: each is unlike those before it.
Acquisition = Literal["confidence", "margin", "entropy", "entropy+diversity"]

#: Scores below this are places in the order of a batch, one ORDER_STEP each; a score of `entropy+diversity` is not.
ORDER_LIMIT: Final = 0.01
ORDER_STEP: Final = 1e-5
#: The longest order that fits below ORDER_LIMIT.
MAX_ORDER: Final = 900

# The finest grid of an embedding's spatial pyramid has this many cells a side.
_PARTS: Final = 4
_TINY: Final = float(np.finfo(np.float32).tiny)


@dataclass(frozen=True)
class Certainty:
    """How sure a network is of an image: means over it, each in [0, 1] and higher where it is surer.

    `confidence` is of the winner's probability (least confidence sampling: Lewis & Gale 1994); `margin` of its lead
    over the second (margin sampling: Scheffer et al. 2001); `entropy` is one less the predictive entropy as a share
    of the greatest possible, log C (Shannon 1948; Settles 2009, section 3.1).
    """

    confidence: float
    margin: float
    entropy: float

    def score(self, acquisition: Acquisition) -> float:
        """The score of an acquisition function; NaN where the network's logits are not finite."""
        if acquisition == "confidence":
            return self.confidence
        if acquisition == "margin":
            return self.margin
        return self.entropy if acquisition == "entropy" else max(self.entropy, ORDER_LIMIT)


def certainty(probabilities: Float32) -> Certainty:
    """How sure a network is of an image, by its class probabilities float32 (C, h, w)."""
    first = probabilities[0].copy()
    second = np.zeros_like(first)
    for plane in probabilities[1:]:
        np.maximum(second, np.minimum(first, plane), out=second)
        np.maximum(first, plane, out=first)
    return Certainty(_mean(first), _mean(first - second), 1.0 - _mean_entropy(probabilities))


def _mean(plane: Float32) -> float:
    return float(plane.mean(dtype=np.float64))


def _mean_entropy(probabilities: Float32) -> float:
    """Mean entropy of probabilities float32 (C, h, w), as a share of log C."""
    if len(probabilities) < 2:
        return 0.0
    # 0 log 0 is 0
    logarithms = np.log(np.maximum(probabilities, _TINY))
    nats = -float(np.vdot(probabilities, logarithms)) / probabilities[0].size
    return float(nats / math.log(len(probabilities)))


def embedding(probabilities: Float32) -> NDArray[np.float16]:
    """What an image shows and where, as a unit vector float16 (21 * C,), from class probabilities float32 (C, h, w).

    A spatial pyramid (Lazebnik et al. 2006) of mean probabilities over the whole image, its quarters and sixteenths.
    Of square roots, so that the distance of two images is that of Hellinger between their classes' shares, and a small
    class counts.
    """
    cells = _means(_means(probabilities, _PARTS).swapaxes(1, 2), _PARTS)
    half = _PARTS // 2
    quarters = cells.reshape(len(cells), 2, half, 2, half).mean(axis=(2, 4))
    levels = (cells.mean(axis=(1, 2)), quarters, cells)
    vector = np.concatenate([np.sqrt(level / (level.size // len(level))).ravel() for level in levels])
    return np.asarray(vector / max(float(np.linalg.norm(vector)), _TINY), dtype=np.float16)


def _means(planes: Float32, parts: int) -> Float32:
    """Means float32 (C, h, parts) over the parts of the last axis of planes float32 (C, h, w)."""
    starts = np.arange(parts) * planes.shape[-1] // parts
    widths = np.maximum(np.diff(starts, append=planes.shape[-1]), 1)
    return np.asarray(np.add.reduceat(planes, starts, axis=-1) / widths, dtype=np.float32)


def k_center_greedy(embeddings: Float32, count: int, picked: Sequence[int] = ()) -> list[int]:
    """The next `count` rows of embeddings float32 (N, D), each the farthest from all before it.

    The greedy approximation of k-center, by which core-set active learning picks what to label (Sener & Savarese
    2018). The rows before the first are `picked`; without any, the first is row 0. Among equals the lowest row wins,
    so put the least sure first.
    """
    order = [*picked]
    nearest = np.full(len(embeddings), np.inf)
    for row in order:
        nearest = np.minimum(nearest, _squared_distances(embeddings, row))
    nearest[order] = -1.0
    while len(order) < min(len(embeddings), len(picked) + count):
        row = int(np.argmax(nearest))
        order.append(row)
        nearest = np.minimum(nearest, _squared_distances(embeddings, row))
        nearest[row] = -1.0
    return order[len(picked) :]


def _squared_distances(embeddings: Float32, row: int) -> NDArray[np.float64]:
    distances: NDArray[np.float64] = np.square(embeddings - embeddings[row]).sum(axis=1, dtype=np.float64)
    return distances
