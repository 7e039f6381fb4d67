"""Several processes that train one network: `torchrun --nproc-per-node N -m segloop.training --base DIR`.

Each computes its share of every batch. Gradients and the loss's divisor are those of the whole batch; on GPUs so are the
statistics of batch normalisation (torch's SyncBatchNorm, which has no CPU form). The main process alone evaluates,
reports and writes.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar

import torch
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel

from segloop.errors import SettingsError
from segloop.network.network import pick_device
from segloop.settings import Settings, torchrun_place

Value = TypeVar("Value")


@dataclass(frozen=True)
class Team:
    """The processes of a run; a team of one sends nothing."""

    device: torch.device
    rank: int = 0
    size: int = 1

    @property
    def is_main(self) -> bool:
        """Whether this process evaluates, reports and writes."""
        return self.rank == 0

    def total(self, values: Tensor) -> Tensor:
        """The sum of a tensor over the processes."""
        if self.size > 1:
            distributed.all_reduce(values)
        return values

    def sync_clock(self, elapsed_s: float, stop: bool) -> tuple[float, bool]:
        """The main process's clock, and whether any process was asked to stop: the same for all."""
        if self.size == 1:
            return elapsed_s, stop
        values = torch.tensor([elapsed_s * self.is_main, stop], dtype=torch.float64, device=self.device)
        seconds, stops = self.total(values).tolist()
        return seconds, stops > 0

    def broadcast(self, value: Value) -> Value:
        """The main process's value, in every process."""
        if self.size == 1:
            return value
        box = [value]
        distributed.broadcast_object_list(box, src=0, device=self.device)
        return box[0]

    def share(self, batch_size: int) -> int:
        """How many images of a batch this process computes.

        Raises:
            SettingsError: the batch can't be shared out evenly, or leaves one image for each CPU process.
        """
        if batch_size % self.size:
            raise SettingsError(
                f"train_batch_size {batch_size} can't be shared by {self.size} processes: use a multiple of {self.size}"
            )
        if 1 < self.size == batch_size and self.device.type == "cpu":
            # ASPP's pooled branch has one value a channel: of a single image there is nothing to normalise by
            raise SettingsError(
                f"train_batch_size {batch_size} leaves one image for each of {self.size} CPU processes, too few for "
                f"batch normalisation: use {2 * self.size} or more"
            )
        return batch_size // self.size

    def wrap(self, learner: nn.Module) -> nn.Module:
        """A module whose gradients are the mean over the processes; on GPUs it normalises over the whole batch."""
        if self.size == 1:
            return learner
        if self.device.type == "cuda":
            learner = nn.SyncBatchNorm.convert_sync_batchnorm(learner)  # type: ignore[no-untyped-call]
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
