"""The network's forward pass on the CPU: engines against torch as peers run it: `python -m benchmarks.engines`.

The default network, a feature pyramid on ResNet-50, at 512 x 512 pixels, batch 1. "torch eager" is the network in evaluation mode under
inference_mode, contiguous NCHW. A version is trained for a moment on drawn scenes, and exported as the worker exports
one; agreement and mIoU are the export's own figures on the scenes that were held out. Times come in turns, each pair in
one run; the machine's fp32 matrix multiplication rate is measured in the same minute.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from torch import nn

from benchmarks.harness import compare, report
from benchmarks.versions import add_option, engines_report, version_at
from segloop.network.network import build_network, load_bundle
from segloop.serving.engines import OpenVINOEngine

SIDE = 512
EXACT, INT8 = "openvino", "openvino-int8"
AGAINST = "torch eager fp32"
MATMUL_SIDE = 2048


def main() -> int:
    """Measure, and print one JSON line for each figure; 1 if a target is missed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_option(parser)
    parser.add_argument("--seconds", type=float, default=8.0, help="length of each measurement")
    given = parser.parse_args()
    with version_at(given.version) as folder:
        bundle = folder / "bundle"
        network, info = load_bundle(bundle)
        batch = np.random.default_rng(0).standard_normal((1, 3, SIDE, SIDE)).astype(np.float32)
        eager = forward(network, batch)
        # arithmetic costs the same whatever the weights are
        dense, coarse = (
            forward(build_network("deeplabv3_resnet50", len(info.classes) + 1, stride).eval(), batch)
            for stride in (8, 16)
        )
        engines = {name: partial(OpenVINOEngine(bundle / f"{name}.xml").logits, batch) for name in (EXACT, INT8)}
        facts = {"gemm_gflop_per_s": gemm_rate(), "threads": torch.get_num_threads()}
        time_ = partial(compare, "engines", seconds=given.seconds, **facts)
        met = [
            time_("forward, OpenVINO fp32", engines[EXACT], eager, against=AGAINST, target=1.15),
            time_("forward, OpenVINO int8", engines[INT8], eager, against=AGAINST, target=4.5),
            time_(
                "forward, default configuration: int8",
                engines[INT8],
                dense,
                against=f"{AGAINST}, torchvision's DeepLabV3 at output stride 8",
                target=18.0,
            ),
            time_(
                "forward, torch eager",
                eager,
                coarse,
                against=f"{AGAINST}, DeepLabV3 at output stride 16",
                target=1.25,
            ),
            *quality(engines_report(folder)),
        ]
    return 0 if all(met) else 1


def forward(network: nn.Module, batch: np.ndarray) -> Callable[[], torch.Tensor]:
    """The network's pass over a batch float32 (B, 3, h, w), as torch's documentation has it."""
    inputs = torch.from_numpy(batch)

    def run() -> torch.Tensor:
        with torch.inference_mode():
            return network(inputs)

    return run


def quality(engines: dict[str, dict[str, float]]) -> list[bool]:
    """What the engines' class maps are worth, on scenes held out from training."""
    tell = partial(report, "engines", of=f"{engines['images']} held-out scenes", against=AGAINST)
    return [
        tell("class maps, OpenVINO fp32", engines[EXACT]["agreement"], unit="agreement", target=0.9999),
        tell("class maps, OpenVINO int8", engines[INT8]["agreement"], unit="agreement", target=0.98),
        tell(
            "mIoU lost, OpenVINO int8",
            engines["torch"]["miou"] - engines[INT8]["miou"],
            unit="of mIoU",
            target=0.005,
            torch_miou=engines["torch"]["miou"],
        ),
    ]


def gemm_rate() -> float:
    """fp32 matrix multiplication in GFLOP/s: the median of ten."""
    one, other = torch.rand(2, MATMUL_SIDE, MATMUL_SIDE).unbind()
    times = []
    for _ in range(10):
        start = time.perf_counter()
        torch.mm(one, other)
        times.append(time.perf_counter() - start)
    return 2 * MATMUL_SIDE**3 / statistics.median(times) / 1e9


if __name__ == "__main__":
    sys.exit(main())
