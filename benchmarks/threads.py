"""A training step with one thread and with one for each core, alone and beside a process that computes:
`python -m benchmarks.threads`.

oneDNN's threads spin while they wait for each other at the end of a convolution's gradient. A thread whose partner has to
wait for a core keeps it from running: what two threads win on idle cores, they lose several times beside others.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch

from benchmarks.harness import compare
from benchmarks.training import BATCH, CLASSES, our_step
from segloop.settings import Settings, share_cores
from segloop.training.learner import computes_bfloat16

#: Long side of what the steps see: that of most steps from random weights, and that of the others.
SIZES_PX = (192, 320)
SECONDS = 20.0


def main() -> int:
    """Print the figures; none has a target."""
    share_cores()
    cores = torch.get_num_threads()
    bfloat16 = computes_bfloat16(Settings(weights="none"), torch.device("cpu"))
    for size in SIZES_PX:
        images = torch.randn(BATCH, 3, size, size).to(memory_format=torch.channels_last)
        target = torch.randint(0, CLASSES, (BATCH, size, size))
        step = our_step("fpn_resnet50", 4, images, target, bfloat16=bfloat16)
        for busy in range(cores + 1):
            with computing(busy):
                compare(
                    "threads",
                    f"training step, {size} px, one thread, {busy} cores busy",
                    with_threads(1, step),
                    with_threads(cores, step),
                    against=f"{cores} threads",
                    target=0.0,
                    seconds=SECONDS,
                )
    return 0


def with_threads(count: int, step: Callable[[], object]) -> Callable[[], object]:
    """The step with so many threads."""

    def stepping() -> None:
        torch.set_num_threads(count)
        step()

    return stepping


@contextmanager
def computing(count: int) -> Iterator[None]:
    """Beside so many processes that keep a core busy each."""
    others = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
    try:
        yield
    finally:
        for one in others:
            one.kill()
            one.wait()


if __name__ == "__main__":
    sys.exit(main())
