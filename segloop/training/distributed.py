"""Several processes that train one network: `torchrun --nproc-per-node N -m segloop.training --base DIR`.

Each computes its share of every batch. Gradients, the loss's divisor, and the statistics of batch normalisation are
those of the whole batch, so that N processes learn what one would. The first one alone evaluates, reports and writes.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
from torch import Tensor, distributed, nn
from torch.autograd.function import once_differentiable
from torch.nn.parallel import DistributedDataParallel

from segloop.errors import SettingsError
from segloop.network.network import pick_device
from segloop.settings import Settings, torchrun_place

Value = TypeVar("Value")


@dataclass(frozen=True)
class Team:
    """The processes of a run; a team of one talks to nobody."""

    device: torch.device
    rank: int = 0
    size: int = 1

    @property
    def leads(self) -> bool:
        """Whether this process is the one that evaluates, reports and writes."""
        return self.rank == 0

    def total(self, values: Tensor) -> Tensor:
        """The sum of a tensor over the processes."""
        if self.size > 1:
            distributed.all_reduce(values)
        return values

    def agree(self, elapsed_s: float, stop: bool) -> tuple[float, bool]:
        """The first process's clock, and whether any is asked to stop: the same for all."""
        if self.size == 1:
            return elapsed_s, stop
        values = torch.tensor([elapsed_s * self.leads, stop], dtype=torch.float64, device=self.device)
        seconds, stops = self.total(values).tolist()
        return seconds, stops > 0

    def tell(self, value: Value) -> Value:
        """The first process's value, for all."""
        if self.size == 1:
            return value
        box = [value]
        distributed.broadcast_object_list(box, src=0, device=self.device)
        return box[0]

    def share(self, batch_size: int) -> int:
        """This process's images of a batch.

        Raises:
            SettingsError: the batch can't be shared out evenly.
        """
        if batch_size % self.size:
            raise SettingsError(
                f"train_batch_size {batch_size} can't be shared by {self.size} processes: use a multiple of {self.size}"
            )
        return batch_size // self.size

    def wrap(self, learner: nn.Module) -> nn.Module:
        """A module whose gradients are the mean over the processes, and whose batch normalisation and dropout are
        those of the whole batch."""
        if self.size == 1:
            return learner
        if self.device.type == "cuda":
            learner = nn.SyncBatchNorm.convert_sync_batchnorm(learner)  # type: ignore[no-untyped-call]
        for module in learner.modules():
            if type(module) is nn.BatchNorm2d:
                module.__class__ = SharedBatchNorm
            elif type(module) is nn.Dropout:
                module.__class__ = SharedDropout
        return DistributedDataParallel(learner, broadcast_buffers=False, gradient_as_bucket_view=True)


@contextmanager
def form_team(settings: Settings) -> Iterator[Team]:
    """The team that torchrun started this process in, or one of this process alone; its GPU is the current one.

    Raises:
        SettingsError: as `pick_device`.
    """
    device = pick_device(settings)
    place = torchrun_place()
    if place.world_size == 1:
        yield Team(device)
        return
    if device.type == "cuda":
        device = torch.device("cuda", place.local_rank)
        torch.cuda.set_device(device)
    # the others wait while the first one evaluates; torchrun ends all when one fails
    timeout = timedelta(seconds=settings.job_timeout_s)
    distributed.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=timeout)
    try:
        yield Team(device, place.rank, place.world_size)
    finally:
        distributed.destroy_process_group()


class SharedBatchNorm(nn.BatchNorm2d):
    """Batch normalisation over the batches of all processes, for CPUs: torch's SyncBatchNorm runs on GPUs only."""

    def forward(self, values: Tensor) -> Tensor:
        """Normalised (B, C, h, w)."""
        if not self.training or self.running_mean is None or self.running_var is None:
            return super().forward(values)
        exact = values.float()
        count = exact[:, 0].numel() * distributed.get_world_size()
        mean: Tensor = _Total.apply(exact.mean(dim=(0, 2, 3))) / distributed.get_world_size()
        centred = exact - mean[:, None, None]
        variance: Tensor = _Total.apply(centred.square().sum(dim=(0, 2, 3))) / count
        with torch.no_grad():
            rate = 0.1 if self.momentum is None else self.momentum
            self.running_mean.lerp_(mean, rate)
            self.running_var.lerp_(variance * (count / max(count - 1, 1)), rate)
        scale = self.weight * torch.rsqrt(variance + self.eps)
        return (centred * scale[:, None, None] + self.bias[:, None, None]).to(values.dtype)


class SharedDropout(nn.Dropout):
    """Dropout that draws for the whole batch and takes this process's share, as one process would."""

    def forward(self, values: Tensor) -> Tensor:
        """Values with some set to zero, the others scaled."""
        if not self.training:
            return values
        size, rank = distributed.get_world_size(), distributed.get_rank()
        whole = values.new_empty(size * len(values), *values.shape[1:])
        if values.is_contiguous(memory_format=torch.channels_last):
            whole = whole.contiguous(memory_format=torch.channels_last)
        kept = whole.bernoulli_(1 - self.p).div_(1 - self.p)
        return values * kept[rank * len(values) : (rank + 1) * len(values)]


class _Total(torch.autograd.Function):
    """The sum over the processes; its gradient is summed likewise, for each value counts in every process's loss."""

    @staticmethod
    def forward(_ctx: Any, values: Tensor) -> Tensor:
        whole = values.clone()
        distributed.all_reduce(whole)
        return whole

    @staticmethod
    @once_differentiable
    def backward(_ctx: Any, gradient: Tensor) -> Tensor:
        whole = gradient.clone()
        distributed.all_reduce(whole)
        return whole
