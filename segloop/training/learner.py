"""What a training step computes: the loss of a network, in the precision that the device is fast in."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from segloop.formats import IGNORED
from segloop.settings import Settings
from segloop.training.consistency import WEIGHT as CONSISTENCY_WEIGHT
from segloop.training.consistency import UnannotatedBatch, consistency_loss

#: Steps left from which `torch.compile` is worth its minute or two on a GPU.
COMPILE_STEPS = 5000


class Learner(nn.Module):
    """A network and its loss as one module: what DistributedDataParallel and torch.compile wrap."""

    def __init__(self, network: nn.Module, class_weights: Tensor, *, bfloat16: bool) -> None:
        super().__init__()
        self.network = network
        self.register_buffer("class_weights", class_weights, persistent=False)
        self._bfloat16 = bfloat16

    def forward(
        self, images: Tensor, target: Tensor, total: Tensor, unannotated: UnannotatedBatch | None = None
    ) -> Tensor:
        """The loss () of images float32 (B, 3, h, w) and class maps int64 (B, h, w), divided by `total` (), and of views
        of images without annotations."""
        weights = self.get_buffer("class_weights")
        with torch.autocast(images.device.type, torch.bfloat16, enabled=self._bfloat16):
            logits = self.network(images)
            consistency = consistency_loss(self.network, unannotated) if unannotated else None
        loss = criterion(logits, target, weights, total)
        return loss if consistency is None else loss + CONSISTENCY_WEIGHT * consistency


def criterion(logits: Tensor, target: Tensor, class_weights: Tensor, total: Tensor | None = None) -> Tensor:
    """Weighted cross-entropy of logits (B, C, h', w'), resized to the target's size, with int64 (B, h, w).

    Divided by `total` (), or by the weight of the target's own pixels: then it is their mean, and 0 where every pixel
    is IGNORED (the usual mean would be 0 / 0).
    """
    logits = F.interpolate(logits.float(), size=target.shape[1:], mode="bilinear", align_corners=False)
    summed = F.cross_entropy(logits, target, class_weights, ignore_index=IGNORED, reduction="sum")
    return summed / (target_weight(target, class_weights).clamp(min=1) if total is None else total)


def target_weight(target: Tensor, class_weights: Tensor) -> Tensor:
    """The sum () of the class weights of all pixels of int64 (B, h, w) that are not IGNORED."""
    return class_weights[target[target != IGNORED]].sum()


def computes_bfloat16(settings: Settings, device: torch.device) -> bool:
    """Whether steps compute in bfloat16: as `train_precision` says, or (auto) where the device multiplies in it."""
    if settings.train_precision != "auto":
        return settings.train_precision == "bfloat16"
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    can = torch.cpu.get_capabilities()
    return bool(can.get("avx512_bf16") or can.get("amx_bf16"))


def is_compiled(settings: Settings, device: torch.device, steps: int) -> bool:
    """Whether `torch.compile` is used for a run of so many steps: as `train_compile` says, or (auto) on a GPU where
    there are enough of them to repay it."""
    if settings.train_compile != "auto":
        return settings.train_compile == "on"
    return device.type == "cuda" and steps >= COMPILE_STEPS
