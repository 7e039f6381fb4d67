"""What Label Studio tells people of a training: one line, in the project's description. Pure."""

from __future__ import annotations

import re
from typing import Final

from segloop.progress import Progress
from segloop.report.report import Report

#: How the line begins by which it is known again.
_PREFIX: Final = "segloop: "
_LINE: Final = re.compile(rf"(?:^|\n){re.escape(_PREFIX)}[^\n]*")
_STEPS: Final = {
    "snapshot": "collects annotations",
    "evaluating": "compares",
    "exporting": "prepares the version",
    "promoting": "decides",
    "waiting": "waits",
}
#: A line is written anew with each tenth of a training, not with each step.
_TENTHS: Final = 10


def with_line(description: str, line: str) -> str:
    """A project's description with segloop's line at its end, in the place of an earlier one."""
    own = _LINE.sub("", description)
    return f"{own}\n{_PREFIX}{line}" if own else f"{_PREFIX}{line}"


def progress_line(progress: Progress | None, page: str) -> str:
    """How far a live retrain is; it is queued where it has told nothing yet."""
    known: Progress = progress or {}
    phase = known.get("phase", "queued")
    step, steps = known.get("step"), known.get("steps")
    if phase == "training" and step is not None and steps:
        tenths = min(step * _TENTHS // steps, _TENTHS)
        return _joined(f"Training runs ({100 * tenths // _TENTHS} %).", page)
    if phase == "training":
        return _joined("Training runs.", page)
    return _joined(f"Training {_STEPS[phase]}." if phase in _STEPS else "Training is queued.", page)


def outcome_line(report: Report, problem: str | None, page: str) -> str:
    """What became of the last training, what people do with the pre-labels, and when the next one comes.

    Args:
        problem: why the last training failed, or was stopped.
    """
    if problem:
        first = f"The last training ended without a version: {problem}"
    elif report.rejected:
        first = report.rejected
    elif report.served:
        is_newest = bool(report.scores) and report.scores[-1].version == report.served
        first = f"{report.served} {'was promoted' if is_newest else 'is served'}."
    else:
        first = "No version is served yet."
    rest = [] if report.now is None else [_accepted(report)]
    return _joined(first, page, *rest, f"Next: {report.next_training}")


def _accepted(report: Report) -> str:
    now = report.now
    if now is None:
        return ""
    return f"Accepted unchanged: {100 * now.unchanged:.0f} % of {now.annotations} pre-labels of {now.version}."


def _joined(first: str, page: str, *rest: str) -> str:
    return " ".join(part.replace("\n", " ") for part in (first, page, *rest) if part)
