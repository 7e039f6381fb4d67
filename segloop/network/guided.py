"""The guided head: a small U-Net that refines the evidence of a click's view."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F

from segloop.errors import RegistryError
from segloop.files import replacing
from segloop.formats import GUIDED_MAPS

#: Channels at strides 2, 4, 8 and 16 of a view, and at its own resolution.
WIDTHS: Final = (24, 40, 64, 64)
FINE: Final = 16
#: What the evidence is multiplied with at first: it is no log-odds, and several times too sure as such.
_EVIDENCE_SCALE: Final = 0.3
#: The most by which the evidence's weight grows or falls from place to place, as a power of e; and what its unit of change is.
_LEAST_GAIN, _MOST_GAIN, _STEP = -3.0, 1.0, 4.0


class Residual(nn.Module):
    """Two 3x3 convolutions whose sum with their input begins as the input itself."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels, channels, 3, padding=1)
        self.second = nn.Conv2d(channels, channels, 3, padding=1)
        nn.init.zeros_(self.second.weight)

    def forward(self, maps: Tensor) -> Tensor:
        """Maps (B, C, h, w) of maps alike."""
        changed: Tensor = maps + self.second(F.relu(self.first(F.relu(maps))))
        return changed


class GuidedUNet(nn.Module):
    """A U-Net (Ronneberger et al., 2015, arXiv:1505.04597) without normalisation, whose output changes the evidence.

    Its last layer begins at zero, so that an untrained one gives the evidence, scaled: it can but learn what is better.
    """

    def __init__(self) -> None:
        super().__init__()
        at2, at4, at8, at16 = WIDTHS
        self.fine = nn.Conv2d(GUIDED_MAPS, FINE, 1)
        self.stem = nn.Conv2d(GUIDED_MAPS, at2, 4, stride=2, padding=1)
        self.down = nn.ModuleList(nn.Conv2d(*sides, 2, stride=2) for sides in ((at2, at4), (at4, at8), (at8, at16)))
        self.coming = nn.ModuleList(Residual(width) for width in WIDTHS)
        self.pooled = nn.Linear(at16, at16)
        self.up = nn.ModuleList(nn.Conv2d(*sides, 1) for sides in ((at2, FINE), (at4, at2), (at8, at4), (at16, at8)))
        self.going = nn.ModuleList(Residual(width) for width in (at2, at4, at8))
        self.mix = nn.Conv2d(FINE, FINE, 3, padding=1)
        self.last = nn.Conv2d(FINE, 2, 1)
        nn.init.zeros_(self.last.weight)
        self.last.bias = nn.Parameter(torch.zeros(2))
        self.scale = nn.Parameter(torch.tensor(_EVIDENCE_SCALE))

    def forward(self, maps: Tensor, evidence: Tensor) -> Tensor:
        """Log-odds (B, 1, h, w) of `segloop.results.guided.head_inputs` (B, GUIDED_MAPS, h, w) and evidence (B, 1, h, w); h and
        w are multiples of 16."""
        levels = [self.coming[0](self.stem(maps))]
        for down, coming in zip(self.down, list(self.coming)[1:], strict=True):
            levels.append(coming(down(F.relu(levels[-1]))))
        merged = levels.pop()
        merged = merged + self.pooled(F.relu(merged).mean(dim=(2, 3)))[:, :, None, None]
        for number in (2, 1, 0):
            merged = self.going[number](levels[number] + _doubled(self.up[number + 1](F.relu(merged))))
        fine = F.relu(self.fine(maps) + _doubled(self.up[0](F.relu(merged))))
        gain, change = self.last(F.relu(self.mix(fine) + fine)).split(1, dim=1)
        found: Tensor = evidence * self.scale * torch.exp(gain.clamp(_LEAST_GAIN, _MOST_GAIN)) + _STEP * change
        return found


def _doubled(maps: Tensor) -> Tensor:
    return F.interpolate(maps, scale_factor=2.0, mode="bilinear", align_corners=False)


class TorchHead:
    """A head as torch runs it, on arrays."""

    def __init__(self, head: GuidedUNet) -> None:
        self._head = head.eval()

    def __call__(self, inputs: NDArray[np.float32], evidence: NDArray[np.float32]) -> NDArray[np.float32]:
        """Log-odds float32 (h, w) of inputs float32 (GUIDED_MAPS, h, w) and evidence float32 (h, w)."""
        with torch.inference_mode():
            found = self._head(torch.from_numpy(inputs)[None], torch.from_numpy(evidence)[None, None])
        return np.array(found[0, 0].numpy(), np.float32)


def save_guided(head: GuidedUNet, file: Path) -> None:
    """Write a head's weights as safetensors."""
    state = {key: tensor.detach().cpu().contiguous() for key, tensor in head.state_dict().items()}
    with replacing(file) as temporary:
        save_file(state, temporary)


def load_guided(file: Path) -> GuidedUNet:
    """A head, in evaluation mode, of a file that `save_guided` wrote.

    Raises:
        RegistryError: it is none.
    """
    head = GuidedUNet()
    try:
        head.load_state_dict(load_file(file))
    except (OSError, SafetensorError, RuntimeError) as error:
        raise RegistryError(f"{file} holds no guided head of this release") from error
    return head.eval()
