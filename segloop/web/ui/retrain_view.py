"""A retrain as people follow it: which step it is at, how far that is, and how it ended."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

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
#: What is shown of a job's progress as it is.
_FIGURES: Final = ("step", "steps", "epoch", "epochs", "loss", "miou", "cost")


def job_of(status: JobStatus) -> dict[str, object]:
    """A retrain as a page shows it, from the status of its job.

    `state` is queued, waiting (for something outside, or for the next look at a training elsewhere), running, done,
    failed or stopped. `share`, in [0, 1], is the part of the current step that is done; None where it is not known.
    """
    progress: Progress = status.get("progress") or {}
    phase = str(progress.get("phase") or "queued")
    state = _state(status["job_status"], phase)
    is_live = state in ("queued", "waiting", "running")
    step, steps = progress.get("step"), progress.get("steps")
    result = status.get("result") or {}
    return {
        **{name: progress.get(name) for name in _FIGURES},
        "id": status["job"],
        "state": state,
        "is_live": is_live,
        "can_stop": is_live and phase in _STOPPABLE,
        "phase": phase,
        "phases": _phases(state, phase),
        "message": _message(status, state, progress),
        "reason": status.get("reason"),
        "recipe": status.get("recipe") or result.get("recipe"),
        "version": progress.get("version") or result.get("version"),
        "promoted": progress.get("promoted", result.get("promoted")),
        "share": min(step / steps, 1.0) if step is not None and steps else None,
        "eta_s": progress.get("eta_s") if state == "running" else None,
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


def _phases(state: str, phase: str) -> list[dict[str, str]]:
    """The name and state of each step: done, now, or open; of an ended retrain none is `now`."""
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
