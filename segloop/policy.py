"""Policy: whether to retrain, to run again, to promote, to serve. Pure functions: they take numbers and give a decision with its reason."""

from __future__ import annotations

from collections.abc import Sequence, Set
from dataclasses import dataclass
from typing import Literal

from segloop.versions import Metrics

Event = Literal["start", "annotations", "reconcile"]

#: How a version is trained: the head alone, on features computed once, within a minute; or everything.
Recipe = Literal["quick", "full"]

_FULL_INSTEAD = "without weights and without a served version the first training is a full one"

#: What an engine may lose of torch's mIoU (half a point), and the least share of pixels that it must class alike.
LARGEST_LOSS = 0.005
LEAST_AGREEMENT = 0.98


@dataclass(frozen=True)
class Decision:
    """Whether to act, and why, in one sentence."""

    act: bool
    reason: str


@dataclass(frozen=True)
class RetrainDecision(Decision):
    """Whether to retrain, and by which recipe."""

    recipe: Recipe = "full"


@dataclass(frozen=True)
class Changes:
    """Distinct tasks whose annotations changed: since the last full retrain's snapshot, and since the last of any."""

    full: int
    recent: int


@dataclass(frozen=True)
class Thresholds:
    """Changed tasks that queue a retrain: `full` of `Changes.full`, `quick` of `Changes.recent`; 0: never."""

    full: int
    quick: int = 0


@dataclass(frozen=True)
class Live:
    """A project's queued or running retrain; `waits` until it begins."""

    recipe: Recipe
    waits: bool


def due_recipe(changes: Changes, thresholds: Thresholds) -> Recipe | None:
    """The recipe whose threshold is met; the full one where both are."""
    if 0 < thresholds.full <= changes.full:
        return "full"
    return "quick" if 0 < thresholds.quick <= changes.recent else None


def should_retrain(
    *, event: Event, changes: Changes, thresholds: Thresholds, live: Live | None, has_backbone: bool
) -> RetrainDecision:
    """Whether an event queues a retrain, and by which recipe.

    `start` is the Start Training button, which always means a full one; `annotations` a webhook; `reconcile` the
    periodic question to Label Studio. A quick adaptation trains a head alone, so that it needs a backbone that knows
    images (`has_backbone`): a served version's, or that of weights. Without one a full training takes its place. To
    decide on a full one while a quick one waits makes that one full.
    """
    if event == "start":
        return _pressed(live)
    summary = _summarize(changes)
    due = due_recipe(changes, thresholds)
    if due is None:
        return RetrainDecision(False, f"{summary.any}; {_begins(thresholds)}.")
    if due == "quick":
        if live is not None:
            return RetrainDecision(
                False, f"{summary.recent}, and a retrain is already under way; what is due follows it."
            )
        if not has_backbone:
            return RetrainDecision(True, f"{summary.recent}; {_FULL_INSTEAD}.")
        return RetrainDecision(True, f"{summary.recent}, and a quick adaptation begins at {thresholds.quick}.", "quick")
    begins = f"{summary.full}, and a retrain begins at {thresholds.full}"
    if live is None:
        return RetrainDecision(True, f"{begins}.")
    if live.recipe == "quick" and live.waits:
        return RetrainDecision(True, f"{begins}: the quick adaptation that waits becomes a full retrain.")
    return RetrainDecision(False, f"{summary.full}, and a retrain is already under way; another follows it.")


def should_rerun(
    *, changes: Changes, thresholds: Thresholds, requested: bool, ended: Recipe, has_backbone: bool
) -> RetrainDecision:
    """Whether a retrain that just ended is followed by one more, and by which recipe.

    `changes` are those since the snapshots, the ended run's included; `requested` says that a full retrain was asked
    for (by Start Training) during the run. A quick adaptation is no answer to that.
    """
    summary = _summarize(changes)
    due = due_recipe(changes, thresholds)
    if due == "full":
        return RetrainDecision(True, f"{summary.full}, and a retrain begins at {thresholds.full}.")
    if requested and ended == "quick":
        return RetrainDecision(True, "Start Training was pressed during a quick adaptation.")
    if requested and changes.full > 0:
        return RetrainDecision(True, f"Start Training was pressed during the run, and {summary.full}.")
    if due == "quick" and not has_backbone:
        return RetrainDecision(True, f"{summary.recent}; {_FULL_INSTEAD}.")
    if due == "quick":
        return RetrainDecision(True, f"{summary.recent}, and a quick adaptation begins at {thresholds.quick}.", "quick")
    if requested:
        return RetrainDecision(
            False, "Start Training was pressed during the run, but nothing changed since its snapshot."
        )
    return RetrainDecision(False, f"{summary.any}; {_begins(thresholds)}.")


def _pressed(live: Live | None) -> RetrainDecision:
    if live is None:
        return RetrainDecision(True, "Start Training was pressed.")
    if live.recipe == "full":
        return RetrainDecision(
            False, "Start Training was pressed; a retrain is already under way and the press joins it."
        )
    if live.waits:
        return RetrainDecision(True, "Start Training was pressed: the quick adaptation that waits becomes a full one.")
    return RetrainDecision(True, "Start Training was pressed: a full retrain follows the quick adaptation.")


@dataclass(frozen=True)
class _Summary:
    """How many tasks changed, in words."""

    full: str
    recent: str
    any: str


def _summarize(changes: Changes) -> _Summary:
    full, recent = _tasks(changes.full), _tasks(changes.recent)
    if changes.full == changes.recent:
        return _Summary(*[f"{full} changed since the last snapshot"] * 3)
    since_full = f"{full} changed since the last full retrain's snapshot"
    since_any = f"{recent} changed since the last snapshot"
    return _Summary(since_full, since_any, f"{since_full}, {changes.recent} of them since the last one")


def _begins(thresholds: Thresholds) -> str:
    quick = f"a quick adaptation begins at {thresholds.quick}, " if thresholds.quick else ""
    return f"{quick}{_full_begins(thresholds)}"


def _full_begins(thresholds: Thresholds) -> str:
    return f"a retrain begins at {thresholds.full}" if thresholds.full else "no number of them begins a retrain"


@dataclass(frozen=True)
class Compared:
    """A candidate and the champion (None without one), measured on the same held-out tasks.

    `interval` is the difference of their mIoU with the ends of its paired bootstrap interval; None where there is none.
    """

    metrics: Metrics
    champion_metrics: Metrics | None = None
    interval: tuple[float, float, float] | None = None


def should_promote(
    candidate: Metrics,
    champion: Metrics | None,
    *,
    tolerance: float = 0.0,
    class_limit: float = 1.0,
    new_classes: Set[str] = frozenset(),
    interval: Sequence[float] | None = None,
) -> Decision:
    """Whether a candidate replaces the champion, from their metrics on the same held-out tasks.

    The candidate's mIoU must exceed the champion's; one that knows classes which the champion lacks (`new_classes`) may
    lose up to `tolerance` of it. No class may lose more than `class_limit` of its IoU. Without a champion the bar is
    what is served then: empty predictions, mIoU 0. Without a mIoU nothing is promoted, and neither is it by metrics of
    different tasks. `interval` (difference, low, high) of a bootstrap is told in the reason.
    """
    ours = candidate.miou
    if ours is None:
        return Decision(False, "The candidate has no mIoU: no label occurs in the held-out tasks.")
    if champion is None:
        if ours > 0:
            return Decision(True, f"The first version: mIoU {ours:.4f} on {_tasks(candidate.tasks)}.")
        return Decision(False, "The candidate's mIoU is 0, no better than empty predictions.")

    if (candidate.tasks, candidate.pixels) != (champion.tasks, champion.pixels):
        return Decision(False, "The candidate and the champion were not measured on the same held-out tasks.")
    theirs = champion.miou
    if theirs is None:
        return Decision(False, f"The champion has no mIoU to compare the candidate's {ours:.4f} with.")

    gain = ours - theirs
    sure = f", 95 % interval of the difference {interval[1]:+.4f} to {interval[2]:+.4f}" if interval else ""
    compared = f"mIoU {ours:.4f} against the champion's {theirs:.4f} on {_tasks(candidate.tasks)}{sure}"
    lost = _lost_classes(candidate, champion, class_limit)
    if lost:
        return Decision(False, f"The candidate loses more than {class_limit:g} IoU of {', '.join(lost)}: {compared}.")
    if gain > 0:
        return Decision(True, f"The candidate wins: {compared}.")
    if gain >= -tolerance and new_classes:
        worse = "no worse" if gain >= 0 else f"within {tolerance:g}"
        return Decision(True, f"The candidate is {worse} and adds {', '.join(sorted(new_classes))}: {compared}.")
    return Decision(False, f"The candidate does not win: {compared}.")


def _lost_classes(candidate: Metrics, champion: Metrics, limit: float) -> list[str]:
    """The classes of which the candidate loses more IoU than `limit`, each with both."""
    return [
        f"{name} ({now:.3f} after {before:.3f})"
        for name, before in champion.iou.items()
        if before is not None and (now := candidate.iou.get(name)) is not None and before - now > limit
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


def _tasks(count: int | None) -> str:
    return "1 task" if count == 1 else f"{count} tasks"
