"""A network's metrics on a snapshot's held-out tasks, computed as it would be served."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from segloop.dataset import load_manifest
from segloop.formats import IGNORED
from segloop.label_config import parse_label_config
from segloop.metrics import BoundaryScore, CalibrationError, ConfusionMatrix, fit_temperature, paired_bootstrap
from segloop.network.network import SegmentationNetwork, load_bundle
from segloop.network.transforms import Float32, UInt8, class_map_of, confidence_grid, resize_confidence
from segloop.network.windows import windowed_logits
from segloop.policy import Compared, Evidence
from segloop.progress import Progress, Report
from segloop.registry.gallery import write_gallery
from segloop.training.examples import read_example
from segloop.training.worst import EvaluatedImage, WorstExamples
from segloop.versions import Metrics

Watch = Callable[[EvaluatedImage], None]

#: Classes up to which a version keeps its confusion matrix: a larger one cannot be read on a page.
CONFUSION_CLASSES = 50

#: Places in each image at which logits are kept to fit the temperature, and logits that are kept at most, of all images.
_PLACES = 1000
_MOST_LOGITS = 2**24


@dataclass(frozen=True)
class Network:
    """A network in evaluation mode on a device, and what is needed to use it as it would be served."""

    module: SegmentationNetwork
    classes: tuple[str, ...]
    input_size: int
    device: torch.device
    long_side: int = 0
    temperature: float = 1.0

    @classmethod
    def load(cls, bundle: Path, device: torch.device) -> Network:
        """The network of a bundle.

        Raises:
            RegistryError: the bundle cannot be loaded.
        """
        module, info = load_bundle(bundle)
        module = module.to(device).to(memory_format=torch.channels_last)
        return cls(
            module,
            info.classes,
            info.input_size,
            device,
            info.long_side,
            info.temperature,
        )

    def logits(self, image: UInt8) -> Float32:
        """Logits float32 (C, h, w) of an RGB image uint8 (H, W, 3)."""

        def forward(windows: Sequence[Float32]) -> Float32:
            batch = torch.from_numpy(np.stack(windows)).to(self.device, memory_format=torch.channels_last)
            with torch.inference_mode(), torch.autocast("cuda", torch.bfloat16, enabled=self.device.type == "cuda"):
                logits: Float32 = self.module(batch).float().cpu().numpy()
            return logits

        return windowed_logits(forward, image, self.input_size, self.long_side)


@dataclass(frozen=True)
class Evaluation:
    """Metrics on held-out tasks.

    Attributes:
        counts: a confusion matrix for each image, int64 (N, C, C), in the order of the manifest.
        temperature: what makes the network's confidence most like its accuracy.
    """

    summary: Metrics
    counts: NDArray[np.int64]
    temperature: float


def evaluate(
    network: Network | None,
    snapshot: Path,
    classes: Sequence[str],
    progress: Report | None = None,
    watch: Watch | None = None,
) -> Evaluation:
    """Metrics of a network on the held-out tasks of a snapshot, at the images' full size; None: of empty predictions.

    The network's classes are taken by name; those that are not among `classes` count as background. `watch` is shown
    each image with what was found in it.

    Raises:
        TrainingError: the snapshot cannot be read, or its masks are not of `classes`.
    """
    manifest = load_manifest(snapshot)
    value = {name: index for index, name in enumerate(classes, start=1)}
    lookup = np.array([0, *(value.get(name, 0) for name in (network.classes if network else ()))], dtype=np.uint8)
    boundary, calibration, places = BoundaryScore(classes), CalibrationError(), Places(lookup)
    matrices = []
    items = manifest.part("val")
    for step, item in enumerate(items, start=1):
        image, truth = read_example(snapshot, item)
        height, width = truth.shape
        if network is None:
            found = np.zeros_like(truth)
        else:
            logits = network.logits(image)
            found = lookup[class_map_of(logits, height, width)]
            grid = confidence_grid(logits, height, width, network.temperature)
            calibration.update(truth, found, resize_confidence(grid, height, width))
            places.add(logits, truth)
        matrix = ConfusionMatrix(classes)
        matrix.update(truth, found)
        matrices.append(matrix)
        boundary.update(truth, found)
        if watch is not None:
            watch(EvaluatedImage(item, image, truth, found, matrix))
        if progress is not None:
            progress(Progress(phase="evaluating", step=step, steps=len(items)))
    total = ConfusionMatrix(classes)
    for matrix in matrices:
        total.merge(matrix)
    by_class = boundary.summary()
    known = [score for score in by_class.values() if score is not None]
    beyond = {
        "boundary_f1": sum(known) / len(known) if known else None,
        "boundary_f1_by_class": by_class,
        "calibration_error": calibration.summary(),
    }
    summary = total.summary(manifest.tasks("val")).model_copy(update=beyond)
    counts = np.array([matrix.counts for matrix in matrices], np.int64).reshape(-1, *total.counts.shape)
    return Evaluation(summary, counts, places.temperature())


def compare(
    candidate: Path, champion: Path | None, snapshot: Path, device: torch.device, gallery: Path | None = None
) -> Compared:
    """Candidate and champion (bundles) on the same held-out tasks.

    The candidate's metrics hold its `confusion` matrix, rows the truth, background first (none beyond
    CONFUSION_CLASSES). `gallery` is a file that the images are written to on which the candidate does worst.

    Raises:
        RegistryError: a bundle cannot be loaded.
        TrainingError: as `evaluate`.
    """
    worst, manifest = WorstExamples(), load_manifest(snapshot)
    classes = manifest.classes
    ours = evaluate(Network.load(candidate, device), snapshot, classes, watch=worst.add)
    served = None if champion is None else Network.load(champion, device)
    theirs = None if served is None else evaluate(served, snapshot, classes, watch=worst.add_champion)
    if gallery is not None:
        colours = parse_label_config(manifest.label_config).colours
        write_gallery(gallery, worst.entries(), classes, colours)
    metrics = ours.summary
    if len(classes) <= CONFUSION_CLASSES:
        metrics = metrics.model_copy(update={"confusion": ours.counts.sum(axis=0).tolist()})
    if theirs is None or served is None:
        return Compared(metrics)
    new_classes = frozenset(classes) - frozenset(served.classes)
    evidence = replace(resample(ours.counts, theirs.counts, classes), new_classes=new_classes)
    tasks = tuple(item.task for item in manifest.part("val"))
    return Compared(metrics, theirs.summary, evidence, tasks, theirs.counts)


def resample(candidate: NDArray[np.int64], champion: NDArray[np.int64], classes: Sequence[str]) -> Evidence:
    """What a paired bootstrap of confusion matrices by image, int64 (N, C, C), says of a candidate and the champion."""
    paired = paired_bootstrap(candidate, champion)
    if paired is None:
        return Evidence()
    by_class = {name: one for name, one in zip(classes, paired.classes, strict=True) if one is not None}
    return Evidence(ahead=paired.ahead, interval=paired.interval, class_intervals=by_class)


class Places:
    """Logits and truth at some pixels of each image, evenly spread, for the temperature: the fewer the more images there
    are, so that all fit into memory."""

    def __init__(self, lookup: UInt8) -> None:
        # channel of each class of the truth; a class that the network does not know can't be in its favour
        self._channel = np.full(256, IGNORED, np.uint8)
        for channel, value in reversed(list(enumerate(lookup))):
            self._channel[value] = channel
        self._logits: list[Float32] = []
        self._truth: list[UInt8] = []
        self._every = 1
        self._left = _MOST_LOGITS

    def add(self, logits: Float32, truth: UInt8) -> None:
        """Keep some places of one image."""
        shrink = np.sqrt(min(1.0, _PLACES / truth.size))
        rows, columns = (max(1, int(side * shrink)) for side in truth.shape)
        small = np.stack([cv2.resize(plane, (columns, rows), interpolation=cv2.INTER_LINEAR) for plane in logits])
        there = self._channel[cv2.resize(truth, (columns, rows), interpolation=cv2.INTER_NEAREST_EXACT)].ravel()
        counted = np.flatnonzero(there != IGNORED)[:: self._every]
        self._logits.append(small.reshape(len(small), -1).T[counted])
        self._truth.append(there[counted])
        self._left -= self._logits[-1].size
        if self._left < 0:
            self._every *= 2
            self._logits = [one[::2].copy() for one in self._logits]
            self._truth = [one[::2].copy() for one in self._truth]
            self._left = _MOST_LOGITS - sum(one.size for one in self._logits)

    def temperature(self) -> float:
        """The temperature that fits them."""
        if not self._truth:
            return 1.0
        return fit_temperature(np.concatenate(self._logits), np.concatenate(self._truth))
