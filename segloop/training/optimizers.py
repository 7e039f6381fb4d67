"""Optimizers: Muon for convolutions that begin from random weights (docs/adr/0016), and several that step as one."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.nn import Parameter

from segloop.network.network import SegmentationNetwork

WEIGHT_DECAY: Final = 0.01

#: How many times faster than whole networks heads learn by Muon: on a backbone that stands still (docs/adr/0016).
HEAD_RATE: Final = 2.0

#: Coefficients of the iteration, chosen for a steep start (Jordan, 2024), and how often it is applied.
_COEFFICIENTS: Final = (3.4445, -4.7750, 2.0315)
_ITERATIONS: Final = 5
#: Momentum, and the root mean square of an update at a learning rate of 1.
_MOMENTUM: Final = 0.95
_UPDATE_RMS: Final = 0.8
#: Rows, or columns where they are fewer, that are made orthogonal to each other: whole matrices of a ResNet-50 would take as
#: long as the rest of a step.
BLOCK: Final = 64


def make_optimizer(network: SegmentationNetwork, base_lr: float, backbone_rate: float) -> Optimizers:
    """The optimizer of a network whose backbone moves slower than its heads by a factor; 1: it began with random weights.

    Every group has its highest learning rate as `base_lr`.
    """
    if backbone_rate == 1:
        return for_random_weights(network, base_lr)
    backbone = {"params": list(network.backbone.parameters()), "base_lr": base_lr * backbone_rate}
    return Optimizers(adamw([backbone, {"params": list(network.classifier.parameters()), "base_lr": base_lr}]))


def make_head_optimizer(head: nn.Module, base_lr: float, backbone_rate: float) -> Optimizers:
    """The optimizer of a head alone, on features of a backbone whose `backbone_rate` is as `make_optimizer` has it."""
    if backbone_rate == 1:
        return for_random_weights(head, base_lr * HEAD_RATE)
    return Optimizers(adamw([{"params": list(head.parameters()), "base_lr": base_lr}]))


def for_random_weights(module: nn.Module, base_lr: float) -> Optimizers:
    """Muon for the convolutions between others, AdamW for what is left: the first ones, those that end in logits, biases,
    and BatchNorm's."""
    inner: list[Parameter] = []
    rest: list[Parameter] = []
    for weight in module.parameters():
        is_inner = weight.ndim == 4 and min(weight.shape[:2]) >= BLOCK
        (inner if is_inner else rest).append(weight)
    muon = Muon([{"params": inner, "base_lr": base_lr}], base_lr)
    return Optimizers(muon, adamw([{"params": rest, "base_lr": base_lr}]))


def adamw(groups: list[dict[str, Any]]) -> torch.optim.AdamW:
    """AdamW for groups of parameters with their `base_lr`: it learns in half the steps that SGD needs."""
    return torch.optim.AdamW(groups, groups[-1]["base_lr"], weight_decay=WEIGHT_DECAY, fused=True)


class Optimizers:
    """Optimizers, each for weights of its own, that step as one."""

    def __init__(self, *members: torch.optim.Optimizer) -> None:
        self._members = members

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        """The groups of parameters of all of them, in their order."""
        return [group for member in self._members for group in member.param_groups]

    def zero_grad(self) -> None:
        """Forget the gradients."""
        for member in self._members:
            member.zero_grad()

    def step(self) -> None:
        """Move the weights by their gradients."""
        for member in self._members:
            member.step()

    def state_dict(self) -> list[dict[str, Any]]:
        """What `load_state_dict` needs to go on from here."""
        return [member.state_dict() for member in self._members]

    def load_state_dict(self, states: list[dict[str, Any]]) -> None:
        """Go on from what `state_dict` gave.

        Raises:
            ValueError: it is of other optimizers.
        """
        for member, state in zip(self._members, states, strict=True):
            member.load_state_dict(state)


class Muon(torch.optim.Optimizer):
    """Momentum, orthogonalised, for weights of convolutions (O, I, h, w): https://kellerjordan.github.io/posts/muon/.

    A weight is the matrix (O, h * w * I). Blocks of at most BLOCK of its rows, or columns, become orthogonal to each
    other, so that no direction is left behind in which gradients are small. torch.optim.Muon takes no convolutions,
    makes whole matrices orthogonal, and computes in bfloat16, which most CPUs emulate.
    """

    def __init__(self, weights: Iterable[Parameter] | Iterable[dict[str, Any]], lr: float) -> None:
        super().__init__(weights, {"lr": lr})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override] # a step here never asks for the loss again
        """Move each weight that has a gradient against its orthogonalised momentum (Nesterov's)."""
        for group in self.param_groups:
            for weight in group["params"]:
                if weight.grad is not None:
                    self._move(weight, weight.grad, group["lr"])

    def _move(self, weight: Tensor, gradient: Tensor, lr: float) -> None:
        state = self.state[weight]
        if not state:
            state["momentum"] = torch.zeros_like(gradient)
        momentum = state["momentum"].lerp_(gradient, 1 - _MOMENTUM)
        update = orthogonalised(gradient.lerp(momentum, _MOMENTUM).permute(0, 2, 3, 1).flatten(1))
        shape = weight.permute(0, 2, 3, 1).shape
        weight.add_(update.view(shape).permute(0, 3, 1, 2), alpha=-lr * _UPDATE_RMS)


def orthogonalised(matrix: Tensor) -> Tensor:
    """A float32 matrix (rows, columns) in blocks of rows, or of columns where they are fewer, whose own are about orthogonal
    to each other; the root mean square of each block is about 1.

    It is the Newton-Schulz iteration of Muon, on the Gram matrices of the blocks: after two products with a block all
    others are of small squares. A matrix of zeros stays one.
    """
    if matrix.shape[0] > matrix.shape[1]:
        return orthogonalised(matrix.T).T
    rows, columns = matrix.shape
    block = BLOCK if rows % BLOCK == 0 else rows
    blocks = matrix.reshape(-1, block, columns)
    gram = blocks @ blocks.mT
    squares = gram.diagonal(dim1=1, dim2=2).sum(1).clamp(min=1e-30)[:, None, None]
    gram /= squares
    polynomial = factor = _quintic(gram)
    for _ in range(_ITERATIONS - 1):
        gram = polynomial @ gram @ polynomial
        polynomial = _quintic(gram)
        factor = polynomial @ factor
    return (factor * (columns / squares).sqrt() @ blocks).view(rows, columns)


def _quintic(gram: Tensor) -> Tensor:
    """What one iteration multiplies blocks by, of their Gram matrices (B, rows, rows)."""
    a, b, c = _COEFFICIENTS
    polynomial = torch.baddbmm(gram, gram, gram, beta=b, alpha=c)
    polynomial.diagonal(dim1=1, dim2=2).add_(a)
    return polynomial
