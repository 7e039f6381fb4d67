"""Policy: whether to retrain, to run again, to promote, to serve. Pure: numbers in, a decision with its reason out."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Any, Literal

Event = Literal["start", "annotations", "reconcile"]

#: What an engine may lose of torch's mIoU (half a point), and the least share of pixels that it must class alike.
LARGEST_LOSS = 0.005
LEAST_AGREEMENT = 0.98


@dataclass(frozen=True)
class Decision:
    """Whether to act, and why, in one sentence."""

    act: bool
    reason: str


def should_retrain(*, event: Event, changed_tasks: int, threshold: int, running: bool) -> Decision:
    """Whether an event queues a retrain.

    `start` is the Start Training button; `annotations` a webhook; `reconcile` the periodic question to Label Studio.
    `changed_tasks` counts distinct tasks whose annotations changed since the last snapshot; `running` says
    that a retrain of the project is queued or under way.
    """
    if event == "start":
        if running:
            return Decision(False, "Start Training was pressed; a retrain is already under way and the press joins it.")
        return Decision(True, "Start Training was pressed.")
    changed = f"{_tasks(changed_tasks)} changed since the last snapshot"
    if changed_tasks < threshold:
        return Decision(False, f"{changed}; a retrain begins at {threshold}.")
    if running:
        return Decision(False, f"{changed}, and a retrain is already under way; another follows it.")
    return Decision(True, f"{changed}, and a retrain begins at {threshold}.")


def should_rerun(*, changed_tasks: int, threshold: int, requested: bool) -> Decision:
    """Whether a retrain that just ended is followed by one more.

    `changed_tasks` counts the tasks that changed since the ended run's snapshot; `requested` says that
    Start Training was pressed during the run.
    """
    changed = f"{_tasks(changed_tasks)} changed since the run's snapshot"
    if changed_tasks >= threshold:
        return Decision(True, f"{changed}, and a retrain begins at {threshold}.")
    if not requested:
        return Decision(False, f"{changed}; a retrain begins at {threshold}.")
    if changed_tasks > 0:
        return Decision(True, f"Start Training was pressed during the run, and {changed}.")
    return Decision(False, "Start Training was pressed during the run, but nothing changed since its snapshot.")


def should_promote(
    candidate: Mapping[str, Any],
    champion: Mapping[str, Any] | None,
    *,
    tolerance: float = 0.0,
    class_limit: float = 1.0,
    new_classes: Set[str] = frozenset(),
    interval: Sequence[float] | None = None,
) -> Decision:
    """Whether a candidate replaces the champion, from their metrics on the same held-out tasks.

    The candidate's mIoU must exceed the champion's; one that knows classes which the champion lacks (`new_classes`) may
    lose up to `tolerance` of it. No class may lose more than `class_limit` of its IoU. Without a champion the bar is
    what is served then: empty predictions, mIoU 0. A null, NaN or infinite mIoU never promotes, and neither do metrics
    of different tasks. `interval` (difference, low, high) of a bootstrap is told in the reason.
    """
    ours = _miou(candidate)
    if ours is None:
        return Decision(False, "The candidate has no mIoU: no label occurs in the held-out tasks.")
    if champion is None:
        if ours > 0:
            return Decision(True, f"The first version: mIoU {ours:.4f} on {_tasks(candidate.get('tasks'))}.")
        return Decision(False, "The candidate's mIoU is 0, no better than empty predictions.")

    if any(candidate.get(key) != champion.get(key) for key in ("tasks", "pixels")):
        return Decision(False, "The candidate and the champion were not measured on the same held-out tasks.")
    theirs = _miou(champion)
    if theirs is None:
        return Decision(False, f"The champion has no mIoU to compare the candidate's {ours:.4f} with.")

    gain = ours - theirs
    sure = f", 95 % interval of the difference {interval[1]:+.4f} to {interval[2]:+.4f}" if interval else ""
    compared = f"mIoU {ours:.4f} against the champion's {theirs:.4f} on {_tasks(candidate.get('tasks'))}{sure}"
    lost = _lost_classes(candidate, champion, class_limit)
    if lost:
        return Decision(False, f"The candidate loses more than {class_limit:g} IoU of {', '.join(lost)}: {compared}.")
    if gain > 0:
        return Decision(True, f"The candidate wins: {compared}.")
    if gain >= -tolerance and new_classes:
        worse = "no worse" if gain >= 0 else f"within {tolerance:g}"
        return Decision(True, f"The candidate is {worse} and adds {', '.join(sorted(new_classes))}: {compared}.")
    return Decision(False, f"The candidate does not win: {compared}.")


def _lost_classes(candidate: Mapping[str, Any], champion: Mapping[str, Any], limit: float) -> list[str]:
    """The classes of which the candidate loses more IoU than `limit`, each with both."""
    ours, theirs = candidate.get("iou") or {}, champion.get("iou") or {}
    return [
        f"{name} ({ours[name]:.3f} after {before:.3f})"
        for name, before in theirs.items()
        if before is not None and ours.get(name) is not None and before - ours[name] > limit
    ]


def may_serve(miou: float | None, torch_miou: float | None, agreement: float) -> Decision:
    """Whether an exported engine serves in the place of torch, from their figures on the same held-out images.

    Its mIoU must be within LARGEST_LOSS of torch's (where a mIoU is known at all), and the share of pixels to which
    both give the same class, `agreement`, at least LEAST_AGREEMENT.
    """
    known = None if miou is None or torch_miou is None else (miou, torch_miou)
    figures = "" if known is None else f"mIoU {known[0]:.4f} against torch's {known[1]:.4f}, "
    compared = f"{figures}{agreement:.2%} of the pixels alike"
    if known is not None and not known[0] >= known[1] - LARGEST_LOSS:
        return Decision(False, f"It loses more than {LARGEST_LOSS} of mIoU: {compared}.")
    if not agreement >= LEAST_AGREEMENT:
        return Decision(False, f"It gives less than {LEAST_AGREEMENT:.0%} of the pixels torch's class: {compared}.")
    return Decision(True, f"It is as good as torch: {compared}.")


def _miou(metrics: Mapping[str, Any]) -> float | None:
    miou = metrics.get("miou")
    return float(miou) if isinstance(miou, int | float) and math.isfinite(miou) else None


def _tasks(count: Any) -> str:
    return "1 task" if count == 1 else f"{count} tasks"
