"""Heads of folds: what a network says of the images that it was trained on, by heads that never saw their labels.

The backbone is the version's own, and has learnt from these labels; the head that reads its features begins at random and
learns from the other folds alone.
"""

from __future__ import annotations

import copy
import logging
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray

from segloop.dataset import Item
from segloop.network.network import build_network
from segloop.network.transforms import Float32, normalise, resize_image, resize_mask
from segloop.settings import Settings
from segloop.training.adaptation import (
    BATCH,
    LEAST_STEPS,
    MOST_STEPS,
    Features,
    Head,
    SomeFeatures,
    estimate_head_statistics,
    make_run,
    train_head,
)
from segloop.training.evaluation import Network, Places
from segloop.training.examples import Examples
from segloop.training.finishing import take_back_preference
from segloop.training.learner import computes_bfloat16
from segloop.training.optimizers import Optimizers, adamw
from segloop.training.recipe import RANDOM_WEIGHTS_RATE
from segloop.training.run import Run
from segloop.versions import VersionInfo

log = logging.getLogger(__name__)

FOLDS: Final = 3
#: Images that are judged, at most; and least for which folds are made at all.
MOST_IMAGES: Final = 512
LEAST_IMAGES: Final = 4 * FOLDS
#: A step of a head takes about as long as so many passes of the whole network, over an image each.
STEP_PASSES: Final = 4
#: Share of the time in which features are computed.
FEATURES_SHARE: Final = 0.4


@dataclass(frozen=True)
class Fold:
    """What a head says of the images that it was not trained on.

    Attributes:
        items: of a snapshot.
        logits: float32 (C, h, w) of each, of the whole image.
        temperature: what makes the head's confidence most like its accuracy.
    """

    items: tuple[Item, ...]
    logits: list[Float32]
    temperature: float


@dataclass(frozen=True)
class FoldInputs:
    """What heads of folds are trained with: a version, its network, a snapshot's folder and items, and at most so many
    seconds in all and steps each."""

    info: VersionInfo
    network: Network
    snapshot: Path
    items: Sequence[Item]
    settings: Settings
    budget_s: float
    most_steps: int = MOST_STEPS


def fold_logits(inputs: FoldInputs) -> Iterator[Fold]:
    """What heads of FOLDS folds say of the images of the other folds: of as many images as the time allows, chosen at
    random; nothing where it is too short for even a poor head, or there are too few images."""
    began = time.monotonic()
    network, settings = inputs.network, _settings_of(inputs)
    items = chosen(inputs.items, settings.train_seed)
    if len({item.task for item in items}) < LEAST_IMAGES:
        log.info("%d images are too few for heads of folds", len(items))
        return
    pass_s = _pass_s(network, items[0])
    if (LEAST_IMAGES + STEP_PASSES * FOLDS * LEAST_STEPS) * pass_s > inputs.budget_s:
        log.info("%.0f s are too short for heads of folds: training tasks are not judged", inputs.budget_s)
        return
    channels = len(inputs.info.classes) + 1
    bfloat16 = computes_bfloat16(settings, network.device)
    with tempfile.TemporaryDirectory(prefix="segloop-folds-") as cache:
        items = items[: max(LEAST_IMAGES, int(inputs.budget_s * FEATURES_SHARE / pass_s))]
        examples = Examples(inputs.snapshot, items, settings, Path(cache), channels)
        features = Features(Path(cache), network.module, examples.served_size, len(items), bfloat16=bfloat16)
        for index in range(len(examples)):
            late = time.monotonic() - began > inputs.budget_s * FEATURES_SHARE
            if features.is_full or (late and index >= LEAST_IMAGES):
                break
            image, mask = examples[index]
            height, width = examples.served_size
            pixels = torch.from_numpy(normalise(resize_image(image, height, width)))
            features.add(pixels, torch.from_numpy(resize_mask(mask, height, width).astype(np.int64)))
        seen = items[: features.count]
        sides = fold_of([item.task for item in seen], settings.train_seed)
        if len(np.unique(sides)) < FOLDS:
            log.info("%d images are of too few tasks for heads of folds", len(seen))
            return
        heads = _Heads(inputs, settings, examples.class_weights(channels))
        step_s = heads.step_s(features)
        left_s = inputs.budget_s - (time.monotonic() - began)
        if FOLDS * LEAST_STEPS * step_s > left_s:
            log.info("%.0f s are too short for heads of folds: training tasks are not judged", inputs.budget_s)
            return
        for fold in range(FOLDS):
            left_s = max(inputs.budget_s - (time.monotonic() - began), 1e-3)
            heads.train(features.only(np.flatnonzero(sides != fold).tolist()), left_s / (FOLDS - fold))
            outside = np.flatnonzero(sides == fold).tolist()
            yield heads.judge(features.only(outside), [seen[view] for view in outside])


def chosen(items: Sequence[Item], seed: int) -> list[Item]:
    """At most MOST_IMAGES items, in a random order."""
    order = np.random.default_rng((seed, len(items))).permutation(len(items))[:MOST_IMAGES]
    return [items[index] for index in order]


def fold_of(tasks: Sequence[int], seed: int) -> NDArray[np.int64]:
    """The fold of each image, int64 (N,): those of one task are together, and folds differ by a task at most."""
    distinct = sorted(set(tasks))
    order = np.random.default_rng((seed, 1)).permutation(len(distinct))
    side = {distinct[place]: number % FOLDS for number, place in enumerate(order)}
    return np.array([side[task] for task in tasks], np.int64)


def _settings_of(inputs: FoldInputs) -> Settings:
    """The settings by which heads are trained: images are seen whole, at the network's input size."""
    changes = {
        "input_size": inputs.network.input_size,
        "long_side": 0,
        "train_lr": inputs.settings.train_lr * RANDOM_WEIGHTS_RATE,
    }
    return inputs.settings.model_copy(update=changes)


def _pass_s(network: Network, item: Item) -> float:
    """What a pass of the network over an image of an item's proportions takes, in seconds."""
    side = network.input_size
    longer = max(item.height, item.width)
    image = np.zeros((max(side * item.height // longer, 1), max(side * item.width // longer, 1), 3), np.uint8)
    network.logits(image)  # the first pass prepares
    began = time.monotonic()
    network.logits(image)
    return time.monotonic() - began


class _Heads:
    """Heads over the backbone of a version, one after the other; each begins as random."""

    def __init__(self, inputs: FoldInputs, settings: Settings, weights: torch.Tensor) -> None:
        self._device, self._settings, self._weights = inputs.network.device, settings, weights
        self._bfloat16 = computes_bfloat16(settings, self._device)
        self._channels, self._most_steps = len(inputs.info.classes) + 1, inputs.most_steps
        torch.manual_seed(settings.train_seed)
        network = build_network(inputs.info.arch, self._channels, inputs.info.output_stride)
        self._network = network.to(self._device).to(memory_format=torch.channels_last)
        self._random = copy.deepcopy(network.classifier.state_dict())

    def step_s(self, features: Features) -> float:
        """What a training step takes, in seconds."""
        steps = train_head(self._run(1e-3), features, self._bfloat16)
        next(steps)
        began = time.monotonic()
        next(steps)
        return time.monotonic() - began

    def train(self, features: SomeFeatures, budget_s: float) -> None:
        """Begin anew, and learn from some views for so many seconds."""
        run = self._run(budget_s)
        steps = sum(1 for _ in train_head(run, features, self._bfloat16))
        estimate_head_statistics(self._network, features, features.count)
        take_back_preference(self._network.classifier, run.class_weights)
        log.info("a head was trained for %d steps on %d images", steps, features.count)

    def judge(self, features: SomeFeatures, items: Sequence[Item]) -> Fold:
        """What the head says of other views, which are of these items."""
        places = Places(np.arange(self._channels, dtype=np.uint8))
        found: list[Float32] = []
        head = Head(self._network).eval()
        for begin in range(0, features.count, BATCH):
            levels, targets = features.batch(range(begin, min(begin + BATCH, features.count)))
            with torch.inference_mode():
                logits = head(levels).float().cpu().numpy()
            for one, target in zip(logits, targets.cpu().numpy(), strict=True):
                places.add(one, target.astype(np.uint8))
                found.append(one)
        return Fold(tuple(items), found, places.temperature())

    def _run(self, budget_s: float) -> Run:
        self._network.classifier.load_state_dict(self._random)
        head = {"params": list(self._network.classifier.parameters()), "base_lr": self._settings.train_lr}
        run = make_run(self._network, Optimizers(adamw([head])), self._weights, self._settings, budget_s)
        run.steps = self._most_steps
        return run
