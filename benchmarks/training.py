"""Training steps against torchvision's reference loop: `python -m benchmarks.training`.

Both sides train a ResNet-50 segmentation network on batches of 4 crops of 256 x 256 pixels with 12 classes, on all cores.
The reference is the loop of torchvision's `references/segmentation/train.py`: torchvision's network at output stride 8,
contiguous tensors, SGD, and cross-entropy of logits that the network resizes itself, without the auxiliary head, which
no side has.
Ours is `segloop.training.recipe.train_one_epoch` with the optimizer and the precision of a real run (bfloat16 where the
CPU multiplies in it): on the same network, and on the default one, which is also compared with a DeepLabV3 at stride 16.

The share of the GEMM peak is the rate of our step on the same network in float32, all of its floating point operations
counted by torch, over the best rate of `torch.mm` in the same run; the best time of each counts, as noise only slows.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode
from torchvision.models.segmentation import deeplabv3_resnet50

from benchmarks.harness import report
from segloop.network.network import build_network
from segloop.settings import Settings
from segloop.training.distributed import Team
from segloop.training.learner import Learner, computes_bfloat16
from segloop.training.optimizers import make_optimizer
from segloop.training.recipe import train_one_epoch
from segloop.training.run import Run

CLASSES, BATCH, SIZE_PX = 12, 4, 256
ARCH = "deeplabv3_resnet50"
DEFAULT_ARCH = "fpn_resnet50"
GEMM_SIZES = (1024, 2048, 3072)
CPU = torch.device("cpu")
SAME_NETWORK, DEFAULT, AGAINST_COARSE, OF_GEMM = 1.25, 4.0, 1.3, 0.8
ROUNDS = 7


def main() -> int:
    """Measure, and print one JSON line for each figure; 1 if a target is missed."""
    torch.manual_seed(0)
    batch = torch.randn(BATCH, 3, SIZE_PX, SIZE_PX), torch.randint(0, CLASSES, (BATCH, SIZE_PX, SIZE_PX))
    bfloat16 = computes_bfloat16(Settings(_env_file=None), CPU)
    exact, same = (our_step(ARCH, 8, *batch, bfloat16=precision) for precision in (False, bfloat16))
    coarse, default = (our_step(*one, *batch, bfloat16=bfloat16) for one in ((ARCH, 16), (DEFAULT_ARCH, 4)))
    reference = reference_step(*batch)
    flop = operations(exact)  # also the first run, which is not measured
    for step in (same, reference, default, coarse):
        step()
    rates, convolving, ratios, times = [], [], [], []
    for _ in range(ROUNDS):
        taken = [seconds_of(step) for step in (same, reference, default, exact, coarse)]
        rates.append(max(gemm_rate(size) for size in GEMM_SIZES))
        convolving.append(convolution_rate())
        ratios.append([*(taken[1] / ours for ours in (taken[0], taken[2], taken[3])), taken[4] / taken[2]])
        times.append(taken)
    middle = [median(column) for column in zip(*times, strict=True)]
    facts = {
        "against": "torchvision's reference loop",
        "threads": torch.get_num_threads(),
        "precision": "bfloat16" if bfloat16 else "float32",
    }
    peak = max(rates)
    rate = flop / min(taken[3] for taken in times)
    met = [
        report(
            "training",
            "step, same network",
            median([ratio[0] for ratio in ratios]),
            unit="times",
            target=SAME_NETWORK,
            ours_per_s=BATCH / middle[0],
            theirs_per_s=BATCH / middle[1],
            float32_times=median([ratio[2] for ratio in ratios]),
            **facts,
        ),
        report(
            "training",
            "float32 rate of the step, of GEMM's",
            rate / peak,
            unit="times",
            target=OF_GEMM,
            share_of_convolution=rate / max(convolving),
            gemm_gflop_per_s=peak / 1e9,
            convolution_gflop_per_s=max(convolving) / 1e9,
            step_gflop=flop / 1e9,
        ),
        report(
            "training",
            "step, default network",
            median([ratio[1] for ratio in ratios]),
            unit="times",
            target=DEFAULT,
            ours_per_s=BATCH / middle[2],
            theirs_per_s=BATCH / middle[1],
            **facts,
        ),
        report(
            "training",
            "step, default network, of DeepLabV3 at output stride 16",
            median([ratio[3] for ratio in ratios]),
            unit="times",
            target=AGAINST_COARSE,
            ours_per_s=BATCH / middle[2],
            theirs_per_s=BATCH / middle[4],
            threads=facts["threads"],
            precision=facts["precision"],
        ),
    ]
    return 0 if all(met) else 1


def reference_step(images: Tensor, target: Tensor) -> Callable[[], object]:
    """A step of the reference loop on images float32 (B, 3, h, w) and class maps int64 (B, h, w)."""
    network = deeplabv3_resnet50(weights=None, weights_backbone=None, num_classes=CLASSES).train()
    optimizer = torch.optim.SGD(network.parameters(), lr=0.02, momentum=0.9, weight_decay=1e-4)

    def step() -> float:
        loss = F.cross_entropy(network(images)["out"], target, ignore_index=255)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss.item()

    return step


def our_step(arch: str, output_stride: int, images: Tensor, target: Tensor, *, bfloat16: bool) -> Callable[[], object]:
    """A step as a run takes it, on the same."""
    network = build_network(arch, CLASSES, output_stride).to(memory_format=torch.channels_last)
    weights = torch.ones(CLASSES)
    run = Run(network, make_optimizer(network, 1e-4, 1.0), CPU, 10**6, 10**6, 0.0, 0, weights)
    learner = Learner(network, weights, bfloat16=bfloat16)
    return lambda: train_one_epoch(run, learner, iter([(images, target)]), Team(CPU), lambda _loss: None)


def operations(step: Callable[[], object]) -> int:
    """Floating point operations of a step's products, forward and backward."""
    with FlopCounterMode(display=False) as counter:
        step()
    return int(counter.get_total_flops())


def gemm_rate(size: int) -> float:
    """Floating point operations a second of a float32 product of matrices of this size."""
    left, right = torch.randn(size, size), torch.randn(size, size)
    torch.mm(left, right)
    return max(2 * size**3 / seconds_of(lambda: torch.mm(left, right)) for _ in range(3))


def convolution_rate() -> float:
    """Floating point operations a second of a float32 convolution 3x3 of 512 channels, alone: where oneDNN's convolutions
    pass MKL's products (as on an AMD EPYC), this is the nearer bound."""
    images = torch.randn(4, 512, 32, 32).to(memory_format=torch.channels_last)
    weights = torch.randn(512, 512, 3, 3)
    F.conv2d(images, weights, padding=1)
    return max(
        2 * images.numel() * 512 * 9 / seconds_of(lambda: F.conv2d(images, weights, padding=1)) for _ in range(3)
    )


def seconds_of(function: Callable[[], object]) -> float:
    """How long a call takes."""
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def median(values: list[float]) -> float:
    """The middle of an odd number of values."""
    return sorted(values)[len(values) // 2]


if __name__ == "__main__":
    sys.exit(main())
