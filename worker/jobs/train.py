"""The training of a retrain: with this process to its end, or elsewhere while no worker waits."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from segloop.errors import TrainingError, TrainingStopped
from segloop.metrics.curves import Curves, CurvesByName
from segloop.policy import Recipe
from segloop.progress import Progress
from segloop.queue import Parked
from segloop.settings import Settings
from segloop.trainers.base import Run, RunStatus
from worker.jobs.context import JobContext
from worker.jobs.run_state import SeenStep, TrainingState, read_state, write_state

logger = logging.getLogger(__name__)

#: The settings that a training run gets as its hyperparameters.
_HYPERPARAMETERS = (
    "adapt_minutes",
    "arch",
    "weights",
    "weights_classes",
    "weights_url",
    "output_stride",
    "device",
    "input_size",
    "long_side",
    "train_epochs",
    "train_min_steps",
    "train_minutes",
    "train_batch_size",
    "train_lr",
    "train_seed",
    "train_patience",
    "train_precision",
    "train_compile",
)

#: What progress says of a run that trains.
TRAINING: Mapping[Recipe, str] = {"full": "Training.", "quick": "Quick adaptation: training the head alone."}

#: How often a training that was killed from outside is started again within one job.
MAX_LOST = 3

#: Longest time between two looks at a training that goes on by itself, in seconds.
LONGEST_LOOK_S = 300.0


@dataclass(frozen=True)
class Training:
    """The training of a project's run; the context's trainer decides where."""

    context: JobContext
    project: str
    run: Run
    recipe: Recipe
    timeout_s: float

    def finish(self) -> Path:
        """Train to the end, or look how a training elsewhere is; the bundle folder.

        Raises:
            Parked: the training goes on elsewhere; this is to be called again.
            TrainingError: it failed, was lost too often, took too long, or somebody asked for its stop.
        """
        self._report({})
        poll_s = self.context.trainer.poll_later_s
        return self._finish_here() if poll_s is None else self._look_elsewhere(poll_s)

    def _finish_here(self) -> Path:
        """Train with this process, to the end."""
        trainer = self.context.trainer
        lost = 0
        shown: Progress | None = None
        trained: Progress = {}
        trainer.submit(self.run)
        try:
            while (status := trainer.poll(self.run)).state != "finished":
                lost = self._go_on(status, lost)
                if status.progress is not None and status.progress != shown:
                    shown = status.progress
                    if shown.get("phase", "training") == "training":
                        trained = shown
                        self._report(trained, status.curves)
                    else:
                        self._report({**trained, "message": _measuring(shown)}, status.curves)
                time.sleep(self.context.poll_s)
        except BaseException:
            trainer.stop(self.run)
            raise
        return trainer.collect(self.run)

    def _look_elsewhere(self, poll_s: float) -> Path:
        """Submit a run that goes on by itself, or look how it is: its bundle once it has finished.

        Nothing is stopped by an interruption: the next worker looks again.

        Raises:
            Parked: it still runs; the next look is after a tenth of the time that it has taken, at least `poll_s`.
        """
        trainer, path = self.context.trainer, self.run.folder / "training.json"
        state = read_state(path, TrainingState)
        if state is None:
            trainer.submit(self.run)
            state = TrainingState(submitted_at=time.time())
            write_state(path, state)
        age_s = time.time() - state.submitted_at
        status = trainer.poll(self.run)
        if status.state == "finished":
            return trainer.collect(self.run)
        if age_s > self.timeout_s:
            trainer.stop(self.run)
            raise TrainingError(f"The training took longer than job_timeout_s={self.timeout_s}.")
        progress = status.progress or {}
        state = replace(state, lost=self._go_on(status, state.lost))
        if "step" in progress:
            step = SeenStep(progress["step"], progress.get("loss"), progress.get("miou"))
            state = replace(state, seen=(*state.seen, step))
        write_state(path, state)
        curves = Curves()
        for seen in state.seen:
            curves.take(Progress(step=seen.step, loss=seen.loss, evaluated=seen.evaluated))
        self._report(progress, curves.as_dict())
        raise Parked(min(max(poll_s, age_s / 10), max(poll_s, LONGEST_LOOK_S)))

    def _go_on(self, status: RunStatus, lost: int) -> int:
        """Submit a lost run again; how often it was lost by now.

        Raises:
            TrainingError: it failed, was lost too often, or somebody asked for its stop.
        """
        if self.context.jobs.stop_asked(self.project, self.run.id):
            self.context.trainer.stop(self.run)
            raise TrainingStopped("Somebody stopped the training.")
        if status.state == "failed":
            raise TrainingError(status.reason)
        if status.state != "lost":
            return lost
        if lost >= MAX_LOST:
            raise TrainingError(f"The training was killed {lost + 1} times: {status.reason}")
        logger.warning("run %s: %s Going on from its checkpoint.", self.run.id, status.reason)
        self.context.trainer.submit(self.run)
        return lost + 1

    def _report(self, progress: Progress, curves: CurvesByName | None = None) -> None:
        known: Progress = {"phase": "training", "message": TRAINING[self.recipe], **progress}
        self.context.jobs.report(self.run.id, known, curves)


def hyperparameters_of(settings: Settings, recipe: Recipe) -> dict[str, str]:
    """The hyperparameters of a training by a project's settings."""
    return {"recipe": recipe, **{name: str(getattr(settings, name)) for name in _HYPERPARAMETERS}}


def _measuring(shown: Progress) -> str:
    """What a line of progress says that is of an evaluation, whose steps are not the training's."""
    if message := shown.get("message"):
        return str(message)
    return f"Measuring on the held-out tasks: image {shown.get('step')} of {shown.get('steps')}."
