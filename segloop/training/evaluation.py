"""What a network is worth: its metrics on a snapshot's held-out tasks, computed as it would be served."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from segloop.dataset import load_manifest
from segloop.metrics import ConfusionMatrix
from segloop.network import SegmentationNetwork, load_bundle
from segloop.training.examples import read_example
from segloop.transforms import Float32, UInt8, class_map_of
from segloop.windows import windowed_logits

Progress = Callable[[dict[str, Any]], None]


def predict(
    network: SegmentationNetwork, image: UInt8, input_size: int, device: torch.device, long_side: int = 0
) -> UInt8:
    """The class map uint8 (H, W) that a network in evaluation mode gives for an RGB image uint8 (H, W, 3)."""

    def forward(windows: Sequence[Float32]) -> Float32:
        batch = torch.from_numpy(np.stack(windows)).to(device, memory_format=torch.channels_last)
        with torch.inference_mode(), torch.autocast("cuda", torch.bfloat16, enabled=device.type == "cuda"):
            logits: Float32 = network(batch).float().cpu().numpy()
        return logits

    return class_map_of(windowed_logits(forward, image, input_size, long_side), *image.shape[:2])


def evaluate(
    bundle: Path | None,
    snapshot: Path,
    classes: Sequence[str],
    device: torch.device,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Metrics (`ConfusionMatrix.summary`) of a bundle on the held-out tasks of a snapshot, at the images' full size.

    The bundle's classes are taken by name; those that are not among `classes` count as background. Without a
    bundle they are the metrics of empty predictions.

    Raises:
        RegistryError: the bundle cannot be loaded.
        TrainingError: the snapshot cannot be read, or its masks are not of `classes`.
    """
    if bundle is None:
        return evaluate_network(None, 0, classes, snapshot, classes, device, progress=progress)
    network, info = load_bundle(bundle)
    network = network.to(device).to(memory_format=torch.channels_last)
    return evaluate_network(
        network,
        info["input_size"],
        info["classes"],
        snapshot,
        classes,
        device,
        long_side=info.get("long_side", 0),
        progress=progress,
    )


def evaluate_network(
    network: SegmentationNetwork | None,
    input_size: int,
    network_classes: Sequence[str],
    snapshot: Path,
    classes: Sequence[str],
    device: torch.device,
    *,
    long_side: int = 0,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """As `evaluate`, for a network in evaluation mode on `device`; None for empty predictions."""
    manifest = load_manifest(snapshot)
    value = {name: index for index, name in enumerate(classes, start=1)}
    lookup = np.array([0, *(value.get(name, 0) for name in network_classes)], dtype=np.uint8)
    matrix = ConfusionMatrix(classes)
    items = manifest.part("val")
    for step, item in enumerate(items, start=1):
        image, truth = read_example(snapshot, item)
        if network is None:
            found = np.zeros_like(truth)
        else:
            found = lookup[predict(network, image, input_size, device, long_side)]
        matrix.update(truth, found)
        if progress is not None:
            progress({"phase": "evaluating", "step": step, "steps": len(items)})
    return matrix.summary(manifest.tasks("val"))
