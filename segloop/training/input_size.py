"""How large the network sees images: as large as they are, as far as the times of a prediction and of a run allow."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Sequence
from typing import Final

import torch

from segloop.dataset import Item
from segloop.network.network import SegmentationNetwork
from segloop.settings import Settings

log = logging.getLogger(__name__)

#: Least and greatest long side that is chosen, in pixels, and the steps between.
LEAST: Final = 256
MOST: Final = 1024
STEP: Final = 32
#: Steps that random weights need of a run with a budget: where it has no time for as many, smaller images teach more
#: (docs/adr/0016).
ENOUGH_STEPS: Final = 500
#: A training step takes about as long as so many forward passes.
_PASSES_OF_STEP: Final = 3
#: Side of the square image that a pass is timed on, in pixels, and how often: the fastest pass counts.
_TIMED_PX: Final = 256
_TIMES: Final = 3
#: A version keeps the input size of the one that it goes on from, unless the choice differs by more than this factor:
#: the time of a pass is never twice the same.
_KEPT: Final = 1.5


def choose_input_size(
    settings: Settings,
    network: SegmentationNetwork,
    items: Sequence[Item],
    before: int | None = None,
    *,
    from_scratch: bool = False,
) -> int:
    """The long side, in pixels, at which a network sees images: the setting `input_size`, or, where that is 0, the choice.

    That is the median long side of the items, or less where one pass of the network over an image of their median
    shape would take longer than `predict_seconds` on this machine, or where `train_minutes` have no time for
    ENOUGH_STEPS steps on whole images `from_scratch`; a multiple of STEP, from LEAST to MOST. `before` is the size of
    the version that the training goes on from.
    """
    if settings.input_size:
        return settings.input_size
    long_sides = sorted(max(item.height, item.width) for item in items)
    shapes = sorted(max(item.height, item.width) / min(item.height, item.width) for item in items)
    useful, shape = long_sides[len(items) // 2], shapes[len(items) // 2]
    seconds = settings.predict_seconds
    if from_scratch and settings.train_minutes and not settings.long_side:  # smaller windows only show less around
        step_s = settings.train_minutes * 60 / ENOUGH_STEPS
        seconds = min(seconds, step_s / _PASSES_OF_STEP / settings.train_batch_size)
    timely = math.sqrt(seconds / seconds_per_pixel(network) * shape)
    chosen = min(max(LEAST, min(-(-useful // STEP) * STEP, int(timely) // STEP * STEP)), MOST)
    if before is not None and before / _KEPT <= chosen <= before * _KEPT:
        chosen = before
    log.info("the network sees images at %d px: they have %d, and the time allows %d", chosen, useful, int(timely))
    return chosen


def seconds_per_pixel(network: SegmentationNetwork) -> float:
    """Time of one pass of a network over one image, on its own device, by the image's pixels. Leaves its mode as it is.

    On a CPU it is this process's own time, shared by its threads: what else the machine does at the moment says nothing
    of its predictions.
    """
    device = next(network.parameters()).device
    on_cpu = device.type == "cpu"
    clock, share = (time.process_time, torch.get_num_threads()) if on_cpu else (time.perf_counter, 1)
    image = torch.zeros(1, 3, _TIMED_PX, _TIMED_PX, device=device)
    image = image.to(memory_format=torch.channels_last)
    was_training, times = network.training, []
    network.eval()
    with torch.inference_mode():
        for _ in range(1 + _TIMES):  # the first one prepares
            began = clock()
            network(image).sum().item()
            times.append((clock() - began) / share)
    network.train(was_training)
    return min(times[1:]) / _TIMED_PX**2
