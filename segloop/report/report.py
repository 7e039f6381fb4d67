"""The report of a project: whether it helps, what is weakest, what to label next, what comes next. Pure functions."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from statistics import median

from pydantic import BaseModel, ConfigDict

from segloop.accept import AcceptState, Rule
from segloop.ledger import Ledger, TimeSaved, VersionFigures
from segloop.policy import Changes, Thresholds
from segloop.project_ids import project_id
from segloop.registry import Champion, VersionInfo
from segloop.report.studio import Counts, NextTask
from segloop.settings import Settings

#: Labelled tasks without which nothing can be trained: one to learn from, one to be held out.
LEAST_LABELLED = 2
#: Versions of a project that are told of, the latest.
MOST_VERSIONS = 50
#: Tasks of the audit that are named.
AUDIT_TASKS = 8


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True)


class VersionScore(_Part):
    """A version's scores on held-out tasks, and the gate's decision in one sentence."""

    version: str
    created_at: str
    miou: float | None
    boundary_f1: float | None
    promoted: bool | None
    reason: str | None


class Weakest(_Part):
    """The class with the lowest IoU of the served version. `labels` are the annotations that show it, `fewer` how many
    more the middle one of the other classes has; None where no ledger is there."""

    name: str
    iou: float
    labels: int | None
    fewer: int | None
    sentence: str


class AuditTask(_Part):
    """A task that is left to people, blind, as an audit, and its address in Label Studio."""

    task: int
    link: str


class ToLabel(_Part):
    """A task to label next: its id, how sure the served version is of it, and its address in Label Studio."""

    task: int
    score: float
    link: str


class Accepting(_Part):
    """What auto-accept does: whether nothing is accepted any more until somebody says so, how many annotations there are
    that it made and nobody changed, its decisions in words, and the tasks of the audit that are still to be labelled."""

    is_suspended: bool
    accepted: int
    sentences: tuple[str, ...]
    to_audit: tuple[AuditTask, ...]


class Report(_Part):
    """What an annotation lead asks of a project. What is not known is None or empty, and `problems` say why.

    Attributes:
        project: Label Studio's id.
        now: the figures of the served version's pre-labels; those of the last version that people worked with, where the
            served one is new.
        time: in one sentence, what pre-labels save; `time_saved` has the figures.
        scores: of the versions, oldest first.
        next_training: when it comes and what it waits for, in one sentence; `may_train` says whether one can begin.
        rejected: why the newest version is not served, in one sentence.
        bias: by how much held-out labels favour the champion that the newest version was compared with, in one sentence.
        accepting: None while auto-accept is off and nothing of it is left.
    """

    project: str
    title: str
    tasks: int | None
    labelled: int | None
    served: str | None
    ledger: Ledger | None
    now: VersionFigures | None
    time: str
    time_saved: TimeSaved | None
    scores: tuple[VersionScore, ...]
    weakest: Weakest | None
    label_next: tuple[ToLabel, ...]
    next_training: str
    may_train: bool
    rejected: str | None
    bias: str | None
    accepting: Accepting | None
    problems: tuple[str, ...]


@dataclass(frozen=True)
class ReportFacts:
    """What a report is made of; None for what is not known.

    Attributes:
        key: the project's.
        versions: oldest first.
        is_training: whether a training is queued or under way.
        accept: what auto-accept decided, and `rule` what it promises; no rule: it is off.
        problems: which parts could not be reached, a sentence each.
    """

    key: str
    label_studio_url: str
    ledger: Ledger | None = None
    versions: Sequence[VersionInfo] = ()
    champion: Champion | None = None
    counts: Counts | None = None
    changes: Changes | None = None
    thresholds: Thresholds = field(default_factory=lambda: Thresholds(0))
    is_training: bool = False
    next_tasks: Sequence[NextTask] = ()
    accept: AcceptState = field(default_factory=AcceptState)
    rule: Rule | None = None
    problems: tuple[str, ...] = ()

    @property
    def id(self) -> str:
        """The project's id in Label Studio."""
        return project_id(self.key)

    def link(self, task: int) -> str:
        """Where Label Studio shows a task."""
        return f"{self.label_studio_url}/projects/{self.id}/data?task={task}"


def report_of(facts: ReportFacts) -> Report:
    """The report."""
    counts, ledger = facts.counts, facts.ledger
    served = facts.champion.version if facts.champion else None
    return Report(
        project=facts.id,
        title=(counts.title if counts else "") or f"Project {facts.id}",
        tasks=counts.tasks if counts else None,
        labelled=counts.labelled if counts else None,
        served=served,
        ledger=ledger,
        now=_now(ledger, served),
        time=time_sentence(ledger),
        time_saved=ledger.time_saved if ledger else None,
        scores=tuple(_score(info) for info in facts.versions),
        weakest=_weakest(facts, served),
        label_next=tuple(
            ToLabel(task=one.task, score=one.score, link=facts.link(one.task)) for one in facts.next_tasks
        ),
        next_training=next_training(facts),
        may_train=counts is None or counts.labelled >= LEAST_LABELLED,
        rejected=_rejected(facts.versions, served),
        bias=_bias(facts.versions),
        accepting=_accepting(facts),
        problems=facts.problems,
    )


def latest_names(names: Sequence[str], also: Collection[str | None]) -> list[str]:
    """Of the names of a project's versions, oldest first, the latest MOST_VERSIONS, and of the older ones those in `also`: the
    version that is served may be older than all versions that lost against it."""
    return [*(name for name in names[:-MOST_VERSIONS] if name in also), *names[-MOST_VERSIONS:]]


def thresholds_of(settings: Settings, champion: Champion | None) -> Thresholds:
    """What a project's changes are counted toward; no quick adaptation while there is no backbone for one: neither weights nor a
    served version."""
    has_backbone = settings.weights != "none" or champion is not None
    return Thresholds(settings.retrain_threshold, settings.adapt_threshold if has_backbone else 0)


def time_sentence(ledger: Ledger | None) -> str:
    """What pre-labels save of people's time, or why that is not known."""
    if ledger is None:
        return "Unknown: nothing was looked at yet."
    saved = ledger.time_saved
    if saved.seconds is None or saved.low is None or saved.high is None:
        if not saved.blind:
            return "Unknown: set blind_share (SEGLOOP_BLIND_SHARE=0.05), and a few tasks without a pre-label tell."
        return f"Unknown yet: {saved.needed} more blind tasks are needed ({saved.blind} are labelled)."
    interval = f"95 % interval {saved.low:.0f} to {saved.high:.0f} s, {saved.blind} blind tasks"
    if saved.low <= 0 <= saved.high:
        return f"No difference is proven: {saved.seconds:.0f} s a task ({interval})."
    what = "saves" if saved.seconds > 0 else "costs"
    part = f", {abs(saved.share):.0%} of the time without one".replace("%", " %") if saved.share is not None else ""
    return f"A pre-label {what} {abs(saved.seconds):.0f} s a task{part} ({interval})."


def next_training(facts: ReportFacts) -> str:
    """When the next training comes and what it waits for, in one sentence."""
    if facts.is_training:
        return "A training is queued or under way."
    if facts.counts is not None and facts.counts.labelled < LEAST_LABELLED:
        return cannot_train(facts.counts.labelled)
    if facts.changes is None:
        return "Unknown: the queue cannot be asked."
    waits = []
    if facts.thresholds.quick:
        missing = max(facts.thresholds.quick - facts.changes.recent, 0)
        waits.append(f"a quick adaptation in {missing} more changed tasks" if missing else "a quick adaptation is due")
    if facts.thresholds.full:
        missing = max(facts.thresholds.full - facts.changes.full, 0)
        waits.append(f"a full retrain in {missing} more" if missing else "a full retrain is due")
    if not waits:
        return "No number of changes begins one: press Start training."
    sentence = ", ".join(waits)
    return f"{sentence[0].upper()}{sentence[1:]}."


def cannot_train(labelled: int) -> str:
    """Why so few labelled tasks cannot be trained on."""
    known = "No task is labelled yet" if labelled == 0 else "Only one task is labelled"
    return f"{known}: a training needs {LEAST_LABELLED}, one to learn from and one to be held out."


def _now(ledger: Ledger | None, served: str | None) -> VersionFigures | None:
    versions = ledger.versions if ledger else ()
    return next((one for one in versions if one.version == served), versions[-1] if versions else None)


def _score(info: VersionInfo) -> VersionScore:
    return VersionScore(
        version=info.version,
        created_at=info.created_at,
        miou=info.metrics.miou,
        boundary_f1=info.metrics.boundary_f1,
        promoted=info.decision.act if info.decision else None,
        reason=info.decision.reason if info.decision else None,
    )


def _weakest(facts: ReportFacts, served: str | None) -> Weakest | None:
    info = next((info for info in facts.versions if info.version == served), None)
    known = info.metrics.known_iou() if info else {}
    if not known:
        return None
    name = min(known, key=lambda one: known[one])
    labels = facts.ledger.labels if facts.ledger else {}
    others = [count for other, count in labels.items() if other != name]
    if name not in labels or not others:
        sentence = f"{name} is the weakest class (IoU {known[name]:.3f})."
        return Weakest(name=name, iou=known[name], labels=labels.get(name), fewer=None, sentence=sentence)
    fewer = int(median(others)) - labels[name]
    compared = (
        f"{fewer} fewer than show the middle one of the others: label more of it"
        if fewer > 0
        else f"{-fewer} more than show the middle one of the others: look at how it is labelled"
    )
    sentence = f"{name} is the weakest class (IoU {known[name]:.3f}): {labels[name]} annotations show it, {compared}."
    return Weakest(name=name, iou=known[name], labels=labels[name], fewer=fewer, sentence=sentence)


def _bias(versions: Sequence[VersionInfo]) -> str | None:
    decision = versions[-1].decision if versions else None
    return decision.bias.sentence() if decision is not None and decision.bias is not None else None


def _accepting(facts: ReportFacts) -> Accepting | None:
    accepted = facts.ledger.accepted if facts.ledger else 0
    state = facts.accept
    if facts.rule is None and not accepted:
        return None
    sentences = ["It is off."] if facts.rule is None else state.sentences(facts.rule)
    if accepted:
        sentences.append(f"Annotations that were accepted unseen, and are so still: {accepted}.")
    return Accepting(
        is_suspended=state.suspended is not None,
        accepted=accepted,
        sentences=tuple(sentences),
        to_audit=tuple(AuditTask(task=task, link=facts.link(task)) for task in state.waiting()[:AUDIT_TASKS]),
    )


def _rejected(versions: Sequence[VersionInfo], served: str | None) -> str | None:
    newest = versions[-1] if versions else None
    if newest is None or newest.version == served or newest.decision is None or newest.decision.act:
        return None
    return f"{newest.version} was not promoted. {newest.decision.reason}"
