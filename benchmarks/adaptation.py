"""Quick adaptation: images a second of a head on cached features, against torchvision's reference loop in the same run.

Both at 256x256 and in steps as they are used: the reference loop trains the whole network at output stride 8 in
batches of 4 (NCHW, SGD), quick adaptation the default network's head on what the frozen backbone gave once.
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path

import torch

from benchmarks.harness import paired_ms, report
from benchmarks.training import BATCH as REFERENCE_BATCH
from benchmarks.training import CLASSES, reference_step
from benchmarks.training import SIZE_PX as SIDE
from segloop.network.network import build_network
from segloop.settings import Settings, share_cores
from segloop.training.adaptation import BATCH, Features, make_run, train_head
from segloop.training.learner import computes_bfloat16
from segloop.training.optimizers import make_head_optimizer

VIEWS = 20
TARGET = 12


def main() -> int:
    """Print the figure; 1 if it misses its target."""
    share_cores()
    device = torch.device("cpu")
    bfloat16 = computes_bfloat16(Settings(weights="none"), device)
    images = torch.randn(VIEWS, 3, SIDE, SIDE)
    targets = torch.randint(0, CLASSES, (VIEWS, SIDE, SIDE))
    network = build_network("fpn_resnet50", CLASSES, 4).to(memory_format=torch.channels_last).eval()
    with tempfile.TemporaryDirectory(prefix="segloop-features-") as folder:
        features = Features(Path(folder), network, (SIDE, SIDE), VIEWS, bfloat16=bfloat16)
        started = time.perf_counter()
        for image, target in zip(images, targets, strict=True):
            features.add(image, target)
        features_ms = (time.perf_counter() - started) * 1000 / VIEWS
        optimizer = make_head_optimizer(network.classifier, Settings().train_lr, 1.0)
        run = make_run(network, optimizer, torch.ones(CLASSES), Settings())
        steps = train_head(run, features, bfloat16)
        reference = reference_step(images[:REFERENCE_BATCH], targets[:REFERENCE_BATCH])
        ours_ms, theirs_ms = paired_ms(lambda: next(steps), reference, seconds=15)
    ours, theirs = BATCH * 1000 / ours_ms, REFERENCE_BATCH * 1000 / theirs_ms
    met = report(
        "adaptation",
        "head on cached features, images a second",
        ours / theirs,
        unit="times",
        target=TARGET,
        against="torchvision's reference loop",
        ours_per_s=ours,
        theirs_per_s=theirs,
        features_ms=features_ms,
        precision="bfloat16" if bfloat16 else "float32",
    )
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main())
