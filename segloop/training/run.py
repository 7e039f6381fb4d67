"""A run: what it learns with, how far it has come, and the checkpoint that it is gone on from."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from segloop.errors import TrainingError
from segloop.network import SegmentationNetwork

log = logging.getLogger(__name__)


class Clock:
    """Seconds that a run has trained, earlier starts of it included."""

    def __init__(self, earlier_s: float = 0.0) -> None:
        self._started = time.monotonic() - earlier_s

    @property
    def elapsed_s(self) -> float:
        return time.monotonic() - self._started


@dataclass
class Run:
    """A run: what it learns with, and how far it has come."""

    network: SegmentationNetwork
    optimizer: torch.optim.Optimizer
    device: torch.device
    steps: int
    steps_per_epoch: int
    budget_s: float
    seed: int
    class_weights: Tensor
    step: int = 0
    clock: Clock = field(default_factory=Clock)
    saved_s: float = 0.0
    miou: float | None = None

    @property
    def done(self) -> float:
        """Share of the run that is done, by steps or by the wall-clock budget, whichever is further."""
        by_time = self.clock.elapsed_s / self.budget_s if self.budget_s else 0.0
        return min(max(self.step / self.steps, by_time), 1.0)


def save_checkpoint(run: Run, path: Path) -> None:
    """Write what `restore` needs; a file that is there is whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    state = {
        "network": run.network.state_dict(),
        "optimizer": run.optimizer.state_dict(),
        "step": run.step,
        "elapsed_s": run.clock.elapsed_s,
        "miou": run.miou,
    }
    torch.save(state, part)
    part.replace(path)
    run.saved_s = run.clock.elapsed_s


def restore(run: Run, path: Path) -> None:
    """Go on from a checkpoint, if there is one that can be read; without it only time is lost.

    Raises:
        TrainingError: it is of another network.
    """
    if not path.exists():
        return
    try:
        state = torch.load(path, run.device, weights_only=True)
    except Exception:  # noqa: BLE001 - torch raises many kinds on a bad file
        log.warning("the checkpoint %s cannot be read: training begins again", path)
        return
    try:
        run.network.load_state_dict(state["network"])
        run.optimizer.load_state_dict(state["optimizer"])
    except (RuntimeError, ValueError, KeyError) as error:
        raise TrainingError(f"the checkpoint {path} is of another network or optimizer; delete it") from error
    run.step, run.miou = state["step"], state["miou"]
    run.clock = Clock(state["elapsed_s"])
    run.saved_s = run.clock.elapsed_s
    log.info("going on from step %d", run.step)
