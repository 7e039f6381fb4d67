"""A retrain as people follow it: which step it is at, how far that is, and how it ended."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Final, TypedDict

if TYPE_CHECKING:
    from segloop.progress import Progress
    from segloop.queue.status import JobStatus

#: The steps of a retrain, in their order: the phase that the job reports, and what it is called.
PHASES: Final = (
    ("queued", "Queued"),
    ("snapshot", "Collecting"),
    ("training", "Training"),
    ("evaluating", "Comparing"),
    ("exporting", "Preparing"),
    ("promoting", "Deciding"),
)
_ORDER: Final = [phase for phase, _ in PHASES]
#: The message of a retrain that no worker has begun.
_WAITS: Final = "Waiting for a worker."
_ENDS: Final = frozenset({"done", "failed", "stopped"})
#: Beyond these the training has ended, and there is nothing to stop.
_STOPPABLE: Final = frozenset({"queued", "snapshot", "training", "waiting"})


class PhaseState(TypedDict):
    """A step of a retrain: done, now, or open."""

    name: str
    state: str


class RetrainView(TypedDict):
    """A retrain as a page shows it.

    `state` is queued, waiting (for something outside, or for the next look at a training elsewhere), running, done,
    failed or stopped. `share`, in [0, 1], is the part of the current step that is done; None where it is not known.
    """

    id: str
    state: str
    is_live: bool
    can_stop: bool
    phase: str
    phases: list[PhaseState]
    message: str
    reason: str | None
    recipe: str | None
    version: str | None
    promoted: bool | None
    step: int | None
    steps: int | None
    share: float | None
    epoch: int | None
    epochs: int | None
    loss: float | None
    miou: float | None
    eta_s: float | None
    cost: float | None
    queued_at: str | None
    started_at: str | None
    ended_at: str | None
    curves: Mapping[str, object]


def job_of(status: JobStatus) -> RetrainView:
    """A retrain from the status of its job."""
    progress: Progress = status.get("progress") or {}
    phase = str(progress.get("phase") or "queued")
    state = _state(status["job_status"], phase)
    step, steps = progress.get("step"), progress.get("steps")
    result = status.get("result") or {}
    return {
        "id": status["job"],
        "state": state,
        "is_live": state in ("queued", "waiting", "running"),
        "can_stop": state in ("queued", "waiting", "running") and phase in _STOPPABLE,
        "phase": phase,
        "phases": _phases(state, phase),
        "message": _message(status, state, progress),
        "reason": status.get("reason"),
        "recipe": status.get("recipe") or result.get("recipe"),
        "version": progress.get("version") or result.get("version"),
        "promoted": progress.get("promoted", result.get("promoted")),
        "step": step,
        "steps": steps,
        "share": min(step / steps, 1.0) if step is not None and steps else None,
        "epoch": progress.get("epoch"),
        "epochs": progress.get("epochs"),
        "loss": progress.get("loss"),
        "miou": progress.get("miou"),
        "eta_s": progress.get("eta_s") if state == "running" else None,
        "cost": progress.get("cost"),
        "queued_at": status.get("created_at"),
        "started_at": status.get("started_at"),
        "ended_at": status.get("ended_at"),
        "curves": status.get("curves") or {},
    }


def _state(job_status: str, phase: str) -> str:
    # a job that has reported its end is still at work for a moment
    if job_status in ("finished", "failed", "started") and phase in _ENDS:
        return phase
    if job_status == "finished":
        return "done"
    return {"queued": "queued", "scheduled": "waiting", "started": "running"}.get(job_status, "failed")


def _phases(state: str, phase: str) -> list[PhaseState]:
    """The state of each step; of an ended retrain none is `now`."""
    if state == "done":
        return [{"name": name, "state": "done"} for _, name in PHASES]
    at = 0 if state == "queued" else _ORDER.index(phase) if phase in _ORDER else -1
    states = ["done" if number < at else "now" if number == at else "open" for number in range(len(PHASES))]
    return [{"name": name, "state": one} for (_, name), one in zip(PHASES, states, strict=True)]


def _message(status: JobStatus, state: str, progress: Progress) -> str:
    if state == "queued":
        return _WAITS
    if state in ("failed", "stopped"):
        return str(status.get("error") or progress.get("message") or "The reason is not known; see the worker's log.")
    return str(progress.get("message") or "")
