"""What a trained network gets before it is served: statistics of BatchNorm, and how readily it draws each class."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim.swa_utils import update_bn

from segloop.formats import IGNORED
from segloop.training.examples import Views, steps_per_pass
from segloop.training.run import Run

#: Images of a batch, however large those of the steps are: of two images alone statistics would know little of others.
BATCH: Final = 4
#: Batches that BatchNorm's statistics are estimated from, at most, and those in which areas are compared.
STATISTICS_BATCHES: Final = 32
AREA_BATCHES: Final = 16
#: How far a whole network's biases go to where areas match: what is larger here may be rarer elsewhere (docs/adr/0016).
AREA_SHARE: Final = 0.5
#: What is taken back of the preference for rare classes that the loss's weights teach: the power of the weights.
TAKEN_BACK: Final = 0.25
#: Places of each image at which areas are compared.
_PLACES: Final = 1000
#: Places that are added to both areas of a class: what a few places say of a rare class counts for little.
_DOUBT: Final = 20
#: How biases move towards equal areas: by this share of the ratio's logarithm at first, so often at most, until it is
#: this small.
_PACE: Final = 0.3
_ROUNDS: Final = 100
_CLOSE: Final = 0.01


def finish(network: nn.Module, head: nn.Module, views: Views, run: Run) -> None:
    """Make what a run has trained ready to be served, by the images that it was trained on, as they are served.

    `head` is the part of the network that ends in the logits. Leaves the network in evaluation mode.
    """
    batches = min(STATISTICS_BATCHES, steps_per_pass(len(views.examples), BATCH))
    estimate_statistics(network, served_batches(views, batches), run.device)
    seen = served_batches(views, min(AREA_BATCHES, batches))
    match_areas(head, ((_logits(network, images.to(run.device)), target) for images, target in seen), AREA_SHARE)


def steps_to_finish(examples: int, batch_size: int) -> float:
    """About how many training steps of `batch_size` images `finish` takes as long as: forward passes alone."""
    batches = min(STATISTICS_BATCHES, steps_per_pass(examples, BATCH))
    return (batches + min(AREA_BATCHES, batches)) * BATCH / batch_size / 2


def served_batches(views: Views, count: int) -> Iterator[tuple[Tensor, Tensor]]:
    """The views of so many batches as they are served: images float32 (B, 3, h, w) and class maps int64 (B, h, w). Views of
    several sizes make smaller batches, and more of them: none is left out."""
    for images, target in views.as_served(count * BATCH, BATCH):
        yield images.to(memory_format=torch.channels_last), target


def estimate_statistics(network: nn.Module, batches: Iterable[tuple[Tensor, Tensor]], device: torch.device) -> None:
    """Replace BatchNorm's running averages by plain means over batches of images as they will be served.

    Running averages of few small batches lag behind the weights and mix in augmentation: evaluation with them can
    be far below what the network has learnt. Leaves the network in evaluation mode.
    """
    with torch.autocast("cuda", torch.bfloat16, enabled=device.type == "cuda"):
        update_bn(batches, network, device)
    network.eval()


@torch.no_grad()
def take_back_preference(head: nn.Module, class_weights: Tensor) -> None:
    """Lower what a trained head says of the classes that its loss gave more weight, and so drew too large.

    With weights w the logits learn log(w) more than the logarithm of the probability (logit adjustment, arXiv 2007.07314);
    TAKEN_BACK of that comes off the bias of the head's last convolution, once.
    """
    _bias_of(head).sub_(TAKEN_BACK * class_weights.log())


@torch.no_grad()
def match_areas(head: nn.Module, seen: Iterable[tuple[Tensor, Tensor]], share: float = 1.0) -> None:
    """Move the biases of a trained head's last convolution to where each class is drawn as large as it is, or a share of
    the way there (docs/adr/0016).

    What a network has not learnt well it draws too large or too small, first of all thin things. Classes that the truth
    does not have stay as they are.

    Args:
        seen: of images that the network was trained on its logits, float32 (B, C, h, w), and the truth, int64 (B, H, W).
    """
    rng = np.random.default_rng(0)
    samples = [_sample(*one, rng) for logits, target in seen for one in zip(logits, target, strict=True)]
    logits = np.concatenate([one for one, _ in samples])
    truth = np.concatenate([one for _, one in samples])
    bias = _bias_of(head)
    bias.add_(torch.from_numpy(share * _balance(logits, truth)).to(bias))


def _balance(logits: NDArray[np.float32], truth: NDArray[np.int64]) -> NDArray[np.float64]:
    """What to add to logits float32 (N, C), so that each class wins as often as it is in the truth, int64 (N,)."""
    channels = logits.shape[1]
    wanted = np.bincount(truth, minlength=channels)
    best: NDArray[np.float64] = np.zeros(channels)
    excess, least, pace = best, np.inf, _PACE
    for _ in range(_ROUNDS):
        shift = best - pace * excess
        drawn = np.bincount((logits + shift.astype(np.float32)).argmax(axis=1), minlength=channels)
        found = np.where(wanted > 0, np.log((drawn + _DOUBT) / (wanted + _DOUBT)), 0)
        worst = np.abs(found).max()
        if worst <= least:
            best, excess, least = shift, found, worst
        else:
            pace /= 2  # too far
        if least < _CLOSE:
            break
    return best


def _sample(logits: Tensor, target: Tensor, rng: np.random.Generator) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Logits float32 (N, C) of (C, h, w), resized to the size of the truth, int64 (H, W), and the truth (N,), at places
    that are not IGNORED."""
    truth = target.flatten().cpu().numpy()
    known = np.flatnonzero(truth != IGNORED)
    places = rng.choice(known, min(_PLACES, len(known)), replace=False)
    height, width = target.shape
    rows, columns = np.divmod(places, width)
    # from -1 to 1 over the image, as F.interpolate(align_corners=False) has pixels' centres
    grid = np.stack([(columns + 0.5) / width, (rows + 0.5) / height], axis=1) * 2 - 1
    where = torch.from_numpy(grid.astype(np.float32)).to(logits.device)[None, None]
    found = F.grid_sample(logits[None].float(), where, padding_mode="border", align_corners=False)
    return found[0, :, 0].T.cpu().numpy(), truth[places]


@torch.no_grad()
def _logits(network: nn.Module, images: Tensor) -> Tensor:
    with torch.autocast("cuda", torch.bfloat16, enabled=images.is_cuda):
        logits: Tensor = network(images)
    return logits


def _bias_of(head: nn.Module) -> Tensor:
    """The bias (C,) of a head's last convolution."""
    *_, last = (module for module in head.modules() if isinstance(module, nn.Conv2d))
    return last.get_parameter("bias")
