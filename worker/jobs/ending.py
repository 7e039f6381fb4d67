"""How a retrain ends, good or bad: what is told of it, what is kept, and which retrain comes next."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from segloop.errors import (
    DiskError,
    DiskFull,
    ImageUnavailable,
    ModelRemoved,
    SegloopError,
    TrainingError,
    TrainingStopped,
    VersionNotFound,
)
from segloop.policy import Recipe, should_rerun
from segloop.progress import Progress
from segloop.queue import OUTAGES, JobTimeout, Outcome
from segloop.settings import Settings
from worker.jobs.context import JobContext, thresholds
from worker.jobs.feedback import tell_outcome
from worker.jobs.mirrors import end_snapshot, forget_snapshot
from worker.jobs.outage import outlasted_h
from worker.jobs.run_state import RetrainResult, run_folder

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Ending:
    """The end of a project's live retrain. `settings` are the project's own."""

    context: JobContext
    project: str
    job_id: str
    settings: Settings
    recipe: Recipe

    def of(self, work: Callable[[], RetrainResult]) -> RetrainResult:
        """Do the work; what becomes of it is told and kept, and the project's next retrain is queued, if policy wants it.

        Raises:
            Those of `worker.jobs.retrain.run_retrain`.
        """
        try:
            result = work()
        except JobTimeout as error:
            failure = TrainingError(f"The retrain took longer than job_timeout_s={self.settings.job_timeout_s}.")
            self._fail(failure)
            raise failure from error
        except (VersionNotFound, ModelRemoved) as error:
            self._fail(error)
            raise
        except OUTAGES as error:
            self._endure(error)
            raise
        except SegloopError as error:
            self._fail(error)
            raise
        except OSError as error:
            broken = DiskError.of(self._folder, error)
            if isinstance(broken, DiskFull):
                self._endure(broken)
            else:
                self._fail(broken)
            raise broken from error
        version, promoted = result["version"], result["promoted"]
        progress: Progress = {"phase": "done", "message": result["reason"], "version": version, "promoted": promoted}
        self.context.jobs.report(self.job_id, progress)
        outcome: Outcome = "skipped" if result["version"] is None else "promoted" if result["promoted"] else "kept"
        self.context.jobs.counters.count_retrain(self.job_id, self.recipe, outcome, result.get("seconds"))
        end_snapshot(self.context.registry, self.project, self.job_id)
        self._queue_next()
        return result

    @property
    def _folder(self) -> Path:
        return run_folder(self.settings, self.project, self.job_id)

    def _endure(self, error: SegloopError) -> None:
        """Return while an outage may still pass; images have a limit of their own.

        Raises:
            TrainingError: it has lasted for too long.
        """
        if isinstance(error, ImageUnavailable):
            return
        if (hours := outlasted_h(self._folder)) is not None:
            failure = TrainingError(f"{error} It has been so for {hours:.0f} h.")
            self._fail(failure)
            raise failure from error

    def _fail(self, error: SegloopError) -> None:
        logger.error("project %s: job %s failed: %s", self.project, self.job_id, error)
        phase: Literal["stopped", "failed"] = "stopped" if isinstance(error, TrainingStopped) else "failed"
        self.context.jobs.report(self.job_id, {"phase": phase, "message": str(error)})
        self.context.jobs.counters.count_retrain(self.job_id, self.recipe, phase)
        forget_snapshot(self.context.registry, self.project, self.job_id, self._folder)
        self._queue_next(failed=True)

    def _queue_next(self, *, failed: bool = False) -> None:
        has_backbone = self.settings.weights != "none" or self.context.registry.champion(self.project) is not None
        self.context.jobs.finish_retrain(
            self.project,
            self.job_id,
            lambda changes, requested: should_rerun(
                changes=changes,
                thresholds=thresholds(self.settings),
                requested=requested,
                ended=self.recipe,
                has_backbone=has_backbone,
            ),
            failed=failed,
        )
        tell_outcome(self.context, self.project)
