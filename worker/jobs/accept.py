"""Auto-accept: pre-labels of a new champion become annotations, as far as blind labels prove that they may."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final, TypedDict

from segloop.accept import (
    AcceptState,
    Audited,
    Calibration,
    Rule,
    Scored,
    Suspension,
    calibrate,
    grid_of,
    is_broken,
    read_accept,
    write_accept,
)
from segloop.accepted import accepted_annotation, is_accepted
from segloop.blind import is_blind
from segloop.dataset import Mirror, ProjectSplits
from segloop.dataset.twins import group_of
from segloop.errors import ModelRemoved, QueueUnavailable, VersionNotFound
from segloop.label_config import parse_label_config
from segloop.ledger import BlindLabel, BlindShares, blind_labels
from segloop.queue import Jobs
from segloop.registry import Registry
from segloop.settings import Settings
from worker.jobs.blind_outcomes import BlindOutcomes
from worker.jobs.context import JobContext, project_id_of
from worker.jobs.label_order import serves
from worker.jobs.ledger import keep_ledger
from worker.jobs.mirrors import open_mirror, sync_mirror

logger = logging.getLogger(__name__)

#: For how long annotations are looked at before an acceptance, in seconds.
_LOOK_S: Final = 3600.0
_BROKEN: Final = (
    "the audit found {wrong} of {audited} pre-labels wrong, too many for what was promised. Look at them, then take all back "
    "with `segloop accept undo`, or go on with `segloop accept run`."
)
_UNDONE: Final = "somebody took back what was accepted. `segloop accept run` begins again."


class AcceptResult(TypedDict):
    """What an acceptance returns: how many tasks it accepted, how many it left to people as an audit, and its decision."""

    version: str | None
    accepted: int
    audited: int
    decision: list[str]


@dataclass(frozen=True)
class _Waiting:
    """A task that nobody labelled: its group (None where it abstains) and the score of its pre-label."""

    task: int
    group: str | None
    score: float


def run_accept(context: JobContext, project: str, job_id: str) -> AcceptResult:
    """Judge the audit, find from which score on the champion's pre-labels may be accepted, and accept those.

    A version is tested once, so that no test is repeated until it passes. What is accepted is marked in Label Studio and
    has no list elsewhere: a task that has an annotation is not accepted, so that a second call goes on where the first was
    killed. Ends early when another version is the champion, or when somebody suspends it.

    Raises:
        LabelStudioError: Label Studio refuses.
        LabelStudioUnreachable, QueueUnavailable, RegistryError: try again later.
        DiskError: this machine's disk fails.
    """
    settings = context.settings_of(project)
    champion, rule = context.registry.champion(project), Rule.of(settings)
    result: AcceptResult = {"version": None, "accepted": 0, "audited": 0, "decision": []}
    if rule is None or champion is None:
        result["decision"] = ["Auto-accept is off." if champion else "No version is served yet."]
        return result
    run = _Run(context, project, settings, rule, champion.version)
    waiting = run.waiting()
    with open_mirror(context, project) as mirror:
        sync_mirror(context, mirror, project)
        ledger = keep_ledger(context, project, mirror, _LOOK_S)
        if ledger is None:
            return result
        begun = read_accept(context.registry, project)
        state = run.decide(run.judge(begun, mirror), mirror, waiting)
        latest = read_accept(context.registry, project)
        if latest.suspended != begun.suspended:
            # whoever suspended it meanwhile, or lifted that, is heard; what was predicted is not predicted again
            state = run.decide(run.judge(latest, mirror), mirror, waiting)
    state = state.model_copy(update={"blind": ledger.blind})
    write_accept(context.registry, project, state)
    result |= {"version": champion.version, "decision": state.sentences(rule)}
    logger.info("project %s: %s", project, " ".join(result["decision"]))

    def report(accepted: int) -> None:
        message = f"{accepted} pre-labels of {champion.version} accepted."
        context.jobs.report(job_id, {"phase": "accepting", "step": accepted, "message": message})

    result["audited"], result["accepted"] = run.accept(state, waiting, report)
    return result


@dataclass(frozen=True)
class _Run:
    context: JobContext
    project: str
    settings: Settings
    rule: Rule
    version: str

    @property
    def _rules(self) -> str:
        rule, settings = self.rule, self.settings
        return f"{rule.tau:g} {rule.risk:g} {rule.confidence:g} {settings.acquisition} {settings.split_by}".strip()

    def waiting(self) -> list[_Waiting]:
        """The tasks with a pre-label of the version that nobody labelled, the surest last."""
        found = self.context.label_studio.tasks.scored(project_id_of(self.project), self.version)
        return [_Waiting(task["id"], self._group(task["data"]), float(task["score"])) for task in found]

    def judge(self, state: AcceptState, mirror: Mirror) -> AcceptState:
        """The state with the audited tasks that were labelled since; suspended, if they break the promise."""
        labels = {label.task["id"]: label for label in blind_labels(mirror)}
        by_version: dict[str, list[BlindLabel]] = defaultdict(list)
        for task in state.waiting():
            if task in labels:
                by_version[state.audits[task].version].append(labels[task])
        audits = dict(state.audits)
        for version, own in by_version.items():
            try:
                outcomes = self._outcomes(mirror).of(version, own)
            except (ModelRemoved, VersionNotFound) as error:
                logger.warning("project %s: tasks of the audit cannot be judged any more: %s", self.project, error)
                continue
            for task, outcome in outcomes.items():
                audits[task] = audits[task].model_copy(update={"wrong": outcome.is_wrong(self.rule)})
        state = state.model_copy(update={"audits": audits})
        judged = state.judged
        if state.suspended is None and is_broken(sum(judged), len(judged), self.rule):
            reason = _BROKEN.format(wrong=sum(judged), audited=len(judged))
            logger.error("project %s: auto-accept is suspended: %s", self.project, reason)
            state = state.model_copy(update={"suspended": Suspension(reason=reason, since=_now())})
        return state

    def decide(self, state: AcceptState, mirror: Mirror, waiting: Sequence[_Waiting]) -> AcceptState:
        """The state with what blind labels say of the version, by groups; what is tested stays."""
        sides = ProjectSplits(self.context.registry, self.project).load()
        labels = [label for label in blind_labels(mirror) if sides.get(label.task["id"]) != "train"]
        outcomes = self._outcomes(mirror).of(self.version, labels)
        scored: dict[str, list[tuple[float, bool]]] = defaultdict(list)
        for label in labels:
            outcome, group = outcomes.get(label.task["id"]), self._group(label.task["data"])
            if outcome is not None and outcome.score is not None and group is not None:
                scored[group].append((outcome.score, outcome.is_wrong(self.rule)))
        pools: dict[str, list[float]] = defaultdict(list)
        for one in waiting:
            if one.group is not None:
                pools[one.group].append(one.score)
        known = state.groups if (state.version, state.rules) == (self.version, self._rules) else {}
        groups: dict[str, Calibration] = {name: one for name, one in known.items() if one.is_tested}
        for name in sorted(pools.keys() - groups.keys()):
            groups[name] = calibrate(Scored.of(scored[name]), grid_of(pools[name]), self.rule)
        return state.model_copy(update={"version": self.version, "rules": self._rules, "groups": groups})

    def accept(self, state: AcceptState, waiting: Sequence[_Waiting], report: Callable[[int], None]) -> tuple[int, int]:
        """Accept what the state allows; how many tasks were left to people as an audit, and how many were accepted."""
        thresholds = state.thresholds()
        sure = [one for one in waiting if one.group in thresholds and one.score >= thresholds[one.group]]
        shares = BlindShares(self.context.registry, self.project)
        # a pre-label that was hidden once may be so still, whatever the share is now
        hidden = {one.task for one in sure if is_blind(self.project, one.task, shares.most)}
        new = [task for task in sorted(hidden - state.audits.keys()) if self._is_audited(task)]
        if new:
            since = _now()
            audits = {**state.audits, **{task: Audited(version=self.version, since=since) for task in new}}
            latest = read_accept(self.context.registry, self.project)
            write_accept(self.context.registry, self.project, latest.model_copy(update={"audits": audits}))
        for task in hidden & (state.audits.keys() | set(new)):
            self._hide(task)
        accepted = 0
        for one in sure:
            if one.task not in hidden:
                if not self._goes_on():
                    break
                accepted += self._accept(one.task, thresholds[str(one.group)])
                report(accepted)
        return len(new), accepted

    def _accept(self, task: int, threshold: float) -> bool:
        known = self.context.label_studio.tasks.get(task)
        if known is None or known["annotations"]:
            return False
        sure = [one for one in self._pre_labels(known) if one["score"] >= threshold]
        if not sure:
            return False
        annotation = accepted_annotation(self.project, task, max(sure, key=lambda one: int(one["id"])))
        return self.context.label_studio.annotations.create(task, annotation)

    def _hide(self, task: int) -> None:
        """Leave a task's pre-label out of people's sight, as it became blind after it was predicted."""
        known = self.context.label_studio.tasks.get(task)
        for prediction in () if known is None or known["annotations"] else self._pre_labels(known):
            self.context.label_studio.predictions.hide({**prediction, "task": task})

    def _pre_labels(self, task: Mapping[str, Any]) -> list[dict[str, Any]]:
        """The version's predictions of a task that show something: an empty one may be a hidden one."""
        return [
            one
            for one in task.get("predictions") or ()
            if one["model_version"] == self.version and one["result"] and one["score"] is not None
        ]

    def _goes_on(self) -> bool:
        return (
            serves(self.context, self.project, self.version)
            and read_accept(self.context.registry, self.project).suspended is None
            and self.context.settings_of(self.project).auto_accept
        )

    def _is_audited(self, task: int) -> bool:
        return is_blind(self.project, task, self.settings.hidden_share)

    def _group(self, data: Mapping[str, Any]) -> str | None:
        return group_of(data, self.settings.split_by) if self.settings.split_by else ""

    def _outcomes(self, mirror: Mirror) -> BlindOutcomes:
        described = self.context.label_studio.projects.get(project_id_of(self.project))
        config = parse_label_config(described["label_config"])
        return BlindOutcomes(self.context, self.project, mirror, config, self.settings)


def resume_accept(registry: Registry, jobs: Jobs, project: str) -> str:
    """Lift a suspension, forget the audit that caused it, and queue an acceptance; the job's id."""
    state = read_accept(registry, project)
    if state.suspended is not None:
        audits = {task: audit for task, audit in state.audits.items() if audit.wrong is None}
        write_accept(registry, project, state.model_copy(update={"suspended": None, "audits": audits}))
    return jobs.enqueue_accept(project).job_id


def undo_accept(context: JobContext, project: str) -> int:
    """Delete the annotations that segloop made of its pre-labels and that nobody changed since; how many.

    Auto-accept is suspended first, so that nothing comes back. The tasks are unlabelled again.

    Raises:
        LabelStudioError, RegistryError: one of them cannot be reached.
        DiskError: this machine's disk fails.
    """
    state = read_accept(context.registry, project)
    suspended = Suspension(reason=_UNDONE, since=_now())
    write_accept(context.registry, project, state.model_copy(update={"suspended": suspended}))
    deleted = 0
    with open_mirror(context, project) as mirror:
        sync_mirror(context, mirror, project)
        numbers = mirror.records.accepted_annotations()
        with suppress(QueueUnavailable):  # then they count as changes
            context.jobs.changes.ignore(project, [f"annotation:{number}" for number in numbers])
        for number in numbers:
            annotation = context.label_studio.annotations.get(number)
            if annotation is not None and is_accepted(annotation):
                deleted += context.label_studio.annotations.delete(number)
        sync_mirror(context, mirror, project)
    return deleted


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
