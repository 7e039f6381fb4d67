"""A run: what it learns with, how far it has come, and the checkpoint that it is gone on from."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from segloop.errors import TrainingError
from segloop.files import replacing
from segloop.network.network import SegmentationNetwork
from segloop.training.consistency import UnannotatedBatch
from segloop.training.optimizers import Optimizers

log = logging.getLogger(__name__)

# what a checkpoint keeps of a run's progress, besides its step and its time
_KEPT = ("miou", "last_step", "best", "waited", "evaluated", "evaluation_s", "checkpoint_s")
#: Least time between two checkpoints, in seconds, where a checkpoint costs more than CHECKPOINT_SHARE of it.
CHECKPOINT_S = 60.0
#: Share of the time that checkpoints may cost.
CHECKPOINT_SHARE = 0.05
#: Evaluations within a run, evenly spread; the last one is its result. More of them where a run may stop early.
EVALUATIONS = 4
PATIENT_EVALUATIONS = 20
#: Share of a run's time that one of its evaluations may take, but for the last one.
EVALUATION_SHARE = 0.05
#: A run that stops early goes over to this last share of its schedule, in which the learning rate falls to zero.
COOLDOWN = 0.2


class Clock:
    """Seconds that a run has taken since `now` was first read, and those of its earlier starts."""

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._started = now()
        self.earlier_s = 0.0

    @property
    def elapsed_s(self) -> float:
        return self._now() - self._started + self.earlier_s


@dataclass
class Run:
    """A run: what it learns with, and how far it has come.

    Attributes:
        budget_s: wall-clock budget, in seconds, of all that `clock` measures; 0: none.
        evaluation_steps: about how many steps an evaluation takes as long as, until one has been measured.
        agreed_s: the clock as the processes of a team have agreed on it; None: this one reads it alone.
        unannotated: what each step learns from besides; at its end, nothing.
        last_step: where a run ends that stops early.
        miou: of the latest evaluation; `best` of all of them, and `waited` how many there were since.
    """

    network: SegmentationNetwork
    optimizer: Optimizers
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
    evaluation_steps: float = 0.0
    evaluation_s: float | None = None
    agreed_s: float | None = None
    patience: int = 0
    last_step: int | None = None
    best: float = -1.0
    waited: int = 0
    checkpoint_s: float = 0.0
    evaluated: int = 0
    began_s: float = 0.0
    began_step: int = 0
    unannotated: Iterator[UnannotatedBatch] = field(default_factory=lambda: iter(()))

    def begin(self) -> None:
        """Note where the steps of this start begin."""
        self.began_s, self.began_step = self.elapsed_s, self.step

    @property
    def reserve_s(self) -> float:
        """What an evaluation takes, as the latest one took or as the steps so far tell, in seconds."""
        if self.evaluation_s is not None:
            return self.evaluation_s
        taken = self.step - self.began_step
        return self.evaluation_steps * (self.elapsed_s - self.began_s) / taken if taken else 0.0

    @property
    def elapsed_s(self) -> float:
        """Seconds taken, the same for all processes of a team."""
        return self.clock.elapsed_s if self.agreed_s is None else self.agreed_s

    @property
    def done(self) -> float:
        """Share of the run that is done, by steps or by the wall-clock budget, whichever is further.

        The budget holds the last evaluation too, but for one that needs more than half of it.
        """
        by_time = self.elapsed_s / max(self.budget_s - self.reserve_s, self.budget_s / 2) if self.budget_s else 0.0
        return min(max(self.step / (self.last_step or self.steps), by_time), 1.0)

    @property
    def expected_steps(self) -> int:
        """Steps at the run's end: all, or about as many as its time allows. `step` is `done` of them."""
        return round(self.step / self.done) if self.step else self.last_step or self.steps

    def is_evaluation_due(self) -> bool:
        """Whether to evaluate before going on: not if that costs too much of the run's time, unless the run may stop early
        and has no budget."""
        due = int(self.done * (PATIENT_EVALUATIONS if self.patience else EVALUATIONS))
        if due <= self.evaluated or self.done >= 1:
            return False
        self.evaluated = due
        if self.patience and not self.budget_s:
            return True
        return self.reserve_s <= EVALUATION_SHARE * (self.budget_s or self.elapsed_s / self.done)

    def note(self, miou: float | None, seconds: float) -> None:
        """Take in an evaluation's mIoU and time; after `patience` of them without a rise, the run's end draws near."""
        self.miou, self.evaluation_s = miou, seconds
        self.waited += 1
        if miou is not None and miou > self.best:
            self.best, self.waited = miou, 0
        if self.patience and self.waited >= self.patience and self.last_step is None:
            last_step = math.ceil(self.step / (1 - COOLDOWN))
            if last_step < self.steps:
                log.info("mIoU has not risen for %d evaluations: the run ends at step %d", self.waited, last_step)
                self.last_step = last_step

    @property
    def is_checkpoint_due(self) -> bool:
        """Whether to save at the end of an epoch: unless a checkpoint is dear, and the last one recent."""
        return self.clock.elapsed_s - self.saved_s >= min(CHECKPOINT_S, self.checkpoint_s / CHECKPOINT_SHARE)


def save_checkpoint(run: Run, path: Path) -> None:
    """Write what `restore` needs; a file that is there is whole."""
    started_s = run.clock.elapsed_s
    state = {
        "network": run.network.state_dict(),
        "optimizers": run.optimizer.state_dict(),
        "step": run.step,
        "elapsed_s": started_s,
        "progress": {name: getattr(run, name) for name in _KEPT},
    }
    # a file of Python's: torch's own does not tell a full disk from other faults
    with replacing(path) as temporary, temporary.open("wb") as file:
        torch.save(state, file)
    run.saved_s = run.clock.elapsed_s
    run.checkpoint_s = run.saved_s - started_s


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
    except (RuntimeError, KeyError) as error:
        raise TrainingError(f"the checkpoint {path} is of another network; delete it") from error
    try:
        run.optimizer.load_state_dict(state["optimizers"])
    except (ValueError, KeyError):
        log.warning("the checkpoint %s is of another version's optimizer, which begins anew", path)
    run.step = state["step"]
    for name in _KEPT:
        setattr(run, name, state["progress"][name])
    run.clock.earlier_s = state["elapsed_s"]
    run.saved_s = run.clock.elapsed_s
    log.info("going on from step %d", run.step)
