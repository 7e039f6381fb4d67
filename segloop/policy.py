"""Policy: whether to retrain, to run again, to promote, to serve. Pure functions: they take numbers and give a decision with its reason."""

from __future__ import annotations

import math
from collections.abc import Mapping, Set
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from segloop.versions import Metrics

Event = Literal["start", "annotations", "reconcile"]

#: How a version is trained: the head alone, on features computed once, within a minute; or everything.
Recipe = Literal["quick", "full"]

#: What an engine may lose of torch's mIoU (half a point), and the least share of pixels that it must class alike.
LARGEST_LOSS = 0.005
LEAST_AGREEMENT = 0.98

#: The share of the resamples in which a candidate has to be ahead of the champion: its one-sided 80 % interval is above 0.
LEAST_AHEAD = 0.8
#: What a candidate has to gain where a single held-out image has a label, so that no resamples can be drawn.
SINGLE_TASK_GAIN = 0.05
#: The share of the pixels from which on a decision tells of false positives of classes that the held-out tasks lack.
MANY_FALSE_POSITIVES = 0.001


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
    images (`has_backbone`): a served version's, or that of weights. Without one its tasks count toward the full one. To
    decide on a full one while a quick one waits makes that one full.
    """
    if event == "start":
        return _pressed(live)
    summary = _summarize(changes)
    due = due_recipe(changes, thresholds)
    if due is None:
        return RetrainDecision(False, f"{summary.any}; {_begins(thresholds)}.")
    if due == "quick":
        if not has_backbone:
            return RetrainDecision(
                False,
                f"{summary.recent}; without weights and without a served version only a full retrain makes sense, "
                f"and {_full_begins(thresholds)}.",
            )
        if live is not None:
            return RetrainDecision(
                False, f"{summary.recent}, and a retrain is already under way; what is due follows it."
            )
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
    if due == "quick" and has_backbone:
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


#: A difference, and the ends of its 95 % interval.
Interval = tuple[float, float, float]


@dataclass(frozen=True)
class Evidence:
    """What is known of a candidate and the champion beside their metrics.

    Attributes:
        new_classes: classes that the candidate knows and the champion doesn't.
        ahead: the share of a paired bootstrap's resamples in which the candidate's mIoU is higher; None where no
            resamples can be drawn, as of a single image with a label.
        interval: the bootstrap's interval of the difference in mIoU.
        class_intervals: those of the difference in a class's IoU, by its name, of the classes that have one.
    """

    new_classes: Set[str] = frozenset()
    ahead: float | None = None
    interval: Interval | None = None
    class_intervals: Mapping[str, Interval] = field(default_factory=dict)


@dataclass(frozen=True)
class Compared:
    """A candidate and the champion (None without one), measured on the same held-out tasks.

    Attributes:
        champion_counts: the champion's confusion matrices, int64 (N, C, C), one for each of the `tasks` (N).
    """

    metrics: Metrics
    champion_metrics: Metrics | None = None
    evidence: Evidence = field(default_factory=Evidence)
    tasks: tuple[int, ...] = ()
    champion_counts: NDArray[np.int64] | None = field(default=None, compare=False)


def should_promote(
    candidate: Metrics,
    champion: Metrics | None,
    *,
    tolerance: float = 0.0,
    class_limit: float = 1.0,
    evidence: Evidence | None = None,
) -> Decision:
    """Whether a candidate replaces the champion, from their metrics on the same held-out tasks.

    Versions within `tolerance` of mIoU are equals, and between equals the champion stays, for a promotion predicts
    every task again. So the candidate has to gain more than that, and be ahead in LEAST_AHEAD of the resamples
    (docs/adr/0014 has the simulation). Without resamples it has to gain more than SINGLE_TASK_GAIN. One that
    knows classes which the champion doesn't may be an equal, and needs no certainty. A class that loses more than
    `class_limit` of its IoU keeps a candidate back where the class's own interval says that this is no accident.

    Without a champion the bar is what is served then: empty predictions, mIoU 0. Without a mIoU nothing is promoted, and
    neither is it by metrics of different tasks or over different classes.
    """
    ours = candidate.miou
    if ours is None:
        return Decision(False, "The candidate has no mIoU: no label occurs in the held-out tasks.")
    if champion is None:
        if ours > 0:
            return Decision(True, f"The first version: mIoU {ours:.4f} on {_tasks(candidate.tasks)}.")
        return Decision(False, "The candidate's mIoU is 0, no better than empty predictions.")

    if _measured_on(candidate) != _measured_on(champion):
        return Decision(False, "The candidate and the champion were not measured on the same held-out tasks.")
    theirs = champion.miou
    if theirs is None:
        return Decision(False, f"The champion has no mIoU to compare the candidate's {ours:.4f} with.")

    known = evidence or Evidence()
    gain = ours - theirs
    compared = _describe(candidate, champion, known)
    lost = _lost_classes(candidate, champion, class_limit, known.class_intervals)
    if lost:
        return Decision(False, f"The candidate loses more than {class_limit:g} IoU of {', '.join(lost)}: {compared}")
    if gain >= -tolerance and known.new_classes:
        better = "wins" if gain > tolerance else "is no worse" if gain >= 0 else f"is within {tolerance:g}"
        return Decision(True, f"The candidate {better} and adds {', '.join(sorted(known.new_classes))}: {compared}")
    least = max(tolerance, SINGLE_TASK_GAIN) if known.ahead is None else tolerance
    if not gain > least:
        margin = f" by more than {least:g}" if gain > 0 else ""
        return Decision(False, f"The candidate does not win{margin}: {compared}")
    if known.ahead is not None and not known.ahead >= LEAST_AHEAD:
        needed = f"it is ahead in less than {100 * LEAST_AHEAD:g} % of the resamples"
        return Decision(False, f"The candidate's gain may be an accident, for {needed}: {compared}")
    return Decision(True, f"The candidate wins: {compared}")


def _measured_on(metrics: Metrics) -> tuple[int | None, int | None, Set[str]]:
    """Tasks and pixels that metrics are of, and the classes whose mean is the mIoU."""
    return metrics.tasks, metrics.pixels, metrics.known_iou().keys()


def _describe(candidate: Metrics, champion: Metrics, known: Evidence) -> str:
    """The figures that a decision rests on, in words."""
    figures = [f"mIoU {candidate.miou:.4f} against the champion's {champion.miou:.4f} on {_tasks(candidate.tasks)}"]
    if known.interval:
        figures.append(f"95 % interval of the difference {known.interval[1]:+.4f} to {known.interval[2]:+.4f}")
    if known.ahead is not None:
        figures.append(f"ahead in {math.floor(100 * known.ahead)} % of the resamples")
    ours, theirs = (metrics.absent_share() or 0.0 for metrics in (candidate, champion))
    absent = f"{100 * ours:.1f} % of the pixels are predicted as classes that these tasks lack"
    painted = f"{absent}; by the champion {100 * theirs:.1f} %."
    return f"{', '.join(figures)}.{f' {painted}' if ours >= MANY_FALSE_POSITIVES else ''}"


def _lost_classes(candidate: Metrics, champion: Metrics, limit: float, intervals: Mapping[str, Interval]) -> list[str]:
    """The classes of which the candidate surely loses IoU, and more than `limit`, each with both."""
    ours, theirs = candidate.known_iou(), champion.known_iou()
    return [
        f"{name} ({ours[name]:.3f} after {theirs[name]:.3f})"
        for name, (_, _, high) in intervals.items()
        if high < 0 and theirs[name] - ours[name] > limit
    ]


def may_serve(miou: float | None, torch_miou: float | None, agreement: float) -> Decision:
    """Whether an exported engine serves in the place of torch, from their figures on the same held-out images.

    Its mIoU must be within LARGEST_LOSS of torch's (where a mIoU is known at all: both are averaged over the classes in
    the truth), and the share of pixels to which both give the same class, `agreement`, at least LEAST_AGREEMENT.
    """
    known = None if miou is None or torch_miou is None else (miou, torch_miou)
    figures = "" if known is None else f"mIoU {known[0]:.4f} against torch's {known[1]:.4f}, "
    compared = f"{figures}{agreement:.2%} of the pixels alike"
    if known is not None and not known[0] >= known[1] - LARGEST_LOSS:
        return Decision(False, f"It loses more than {LARGEST_LOSS} of mIoU: {compared}.")
    if not agreement >= LEAST_AGREEMENT:
        return Decision(False, f"It gives less than {LEAST_AGREEMENT:.0%} of the pixels torch's class: {compared}.")
    return Decision(True, f"It is as good as torch: {compared}.")


def may_guide(gain: float | None, ahead: float) -> Decision:
    """Whether a guided head answers clicks, from what it gains of IoU for clicks at pieces of held-out annotations, and the share
    of the resamples in which it gains; None: there are none to judge it by."""
    if gain is None:
        return Decision(False, "There are no pieces of held-out annotations to judge it by.")
    figures = f"{gain:+.4f} of IoU a click, ahead in {ahead:.0%} of the resamples"
    if not ahead >= LEAST_AHEAD:
        return Decision(False, f"It is not surely better than what needs no training: {figures}.")
    return Decision(True, f"It is better than what needs no training: {figures}.")


def _tasks(count: int | None) -> str:
    return "1 task" if count == 1 else f"{count} tasks"
