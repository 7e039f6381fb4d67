"""The training of a retrain: with this process to its end, or elsewhere while no worker waits."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path

from segloop.errors import TrainerRefused, TrainerUnavailable, TrainingError, TrainingStopped
from segloop.metrics.curves import Curves, CurvesByName
from segloop.policy import Recipe
from segloop.progress import Progress
from segloop.queue import Parked
from segloop.settings import Settings
from segloop.trainers.base import Run, RunStatus
from worker.jobs.context import JobContext
from worker.jobs.feedback import Feedback
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
    "predict_seconds",
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

#: For how long a training waits for room where it runs, each time that there is none, in seconds; then it has failed.
ROOM_WAITS_S = (300.0, 600.0, 1200.0, 2400.0, 3600.0, 3600.0, 3600.0)

#: For how long after its time was over a training is asked about that nobody tells of, in seconds.
REFUSED_LIMIT_S = 7 * 24 * 3600.0

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

        Who refuses credentials is asked again: somebody can renew them, and what has begun is paid for.

        Raises:
            Parked: it still runs, or whether it does is not told.
            TrainerUnavailable: it cannot be submitted now.
            TrainingError: whether it runs has not been told for a week after its time was over.
        """
        try:
            return self._look(poll_s)
        except TrainerRefused as error:
            state = read_state(self.run.folder / "training.json", TrainingState)
            if state is None:
                raise TrainerUnavailable(str(error)) from error
            age_s = time.time() - state.submitted_at
            if age_s > self.timeout_s + REFUSED_LIMIT_S:
                raise
            logger.error("run %s: %s It is asked again.", self.run.id, error)
            message = f"{error} The training goes on, and is asked about again until this is mended."
            self.context.jobs.report(self.run.id, {"phase": "waiting", "message": message})
            raise Parked(_pause_s(poll_s, age_s)) from error

    def _look(self, poll_s: float) -> Path:
        """Submit a run, or look how it is.

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
        if age_s > self.timeout_s and not status.no_room:
            trainer.stop(self.run)
            raise TrainingError(f"The training took longer than job_timeout_s={self.timeout_s}.")
        progress = status.progress or {}
        if status.no_room:
            state = self._wait_for_room(state, status.reason)
        else:
            state = replace(state, lost=self._go_on(status, state.lost), retry_at=None)
        if "step" in progress:
            step = SeenStep(progress["step"], progress.get("loss"), progress.get("miou"))
            state = replace(state, seen=(*state.seen, step))
        write_state(path, state)
        curves = Curves()
        for seen in state.seen:
            curves.take(Progress(step=seen.step, loss=seen.loss, evaluated=seen.evaluated))
        self._report(progress, curves.as_dict())
        raise Parked(_pause_s(poll_s, age_s))

    def _wait_for_room(self, state: TrainingState, reason: str) -> TrainingState:
        """Submit a run again for which there was no room, once it has waited.

        Raises:
            Parked: it is to wait.
            TrainingError: there was no room too often, or somebody asked for its stop.
        """
        if self.context.jobs.stop_asked(self.project, self.run.id):
            raise TrainingStopped
        if state.retry_at is None:
            if state.waits == len(ROOM_WAITS_S):
                raise TrainingError(f"There was no room for the training {state.waits + 1} times: {reason}")
            retry_at = time.time() + ROOM_WAITS_S[state.waits]
            state = replace(state, waits=state.waits + 1, retry_at=retry_at)
            write_state(self.run.folder / "training.json", state)
            logger.warning("run %s: %s Trying again in %d s.", self.run.id, reason, ROOM_WAITS_S[state.waits - 1])
        left_s = (state.retry_at or 0) - time.time()
        if left_s > 0:
            at = datetime.fromtimestamp(state.retry_at or 0, UTC)
            self.context.jobs.report(
                self.run.id, {"phase": "waiting", "message": f"{reason} Trying again at {at:%H:%M} UTC."}
            )
            raise Parked(left_s)
        self.context.trainer.submit(self.run)
        # its time begins anew: so far it has waited
        return replace(state, submitted_at=time.time(), retry_at=None)

    def _go_on(self, status: RunStatus, lost: int) -> int:
        """Submit a lost run again; how often it was lost by now.

        Raises:
            TrainingError: it failed, was lost too often, or somebody asked for its stop.
        """
        if self.context.jobs.stop_asked(self.project, self.run.id):
            self.context.trainer.stop(self.run)
            raise TrainingStopped
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
        self._feedback.tell(known)

    @cached_property
    def _feedback(self) -> Feedback:
        return Feedback(self.context, self.project)


def hyperparameters_of(settings: Settings, recipe: Recipe) -> dict[str, str]:
    """The hyperparameters of a training by a project's settings."""
    return {"recipe": recipe, **{name: str(getattr(settings, name)) for name in _HYPERPARAMETERS}}


def _pause_s(poll_s: float, age_s: float) -> float:
    """How long after a look at a training of this age the next one is."""
    return min(max(poll_s, age_s / 10), max(poll_s, LONGEST_LOOK_S))


def _measuring(shown: Progress) -> str:
    """What a line of progress says that is of an evaluation, whose steps are not the training's."""
    if message := shown.get("message"):
        return str(message)
    return f"Measuring on the held-out tasks: image {shown.get('step')} of {shown.get('steps')}."
