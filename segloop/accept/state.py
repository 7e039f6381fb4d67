"""What auto-accept decided for a project, kept in the store, where every host reads it, and in words."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final

from pydantic import BaseModel, ConfigDict, ValidationError

from segloop.accept.calibration import Calibration, Rule

if TYPE_CHECKING:
    from segloop.dataset import JsonStore

_log = logging.getLogger(__name__)

_FILE: Final = "accept.json"


class _Kept(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


class Audited(_Kept):
    """A task that would have been accepted, and was left to people, blind: by which version, since when (ISO 8601), and,
    once it is labelled, whether its hidden pre-label was wrong."""

    version: str
    since: str
    wrong: bool | None = None


class Suspension(_Kept):
    """Why nothing is accepted any more until somebody says so, in one sentence, and since when (ISO 8601)."""

    reason: str
    since: str


class AcceptState(_Kept):
    """What auto-accept decided.

    Attributes:
        version: whose pre-labels `groups` are about.
        rules: names what was promised and by which groups; with others, a version is tested anew.
        groups: what blind labels say, by the group of `split_by`; under "" without groups.
        audits: by the task's id.
        blind: blind labels that the ledger had at the last look.
    """

    version: str = ""
    rules: str = ""
    groups: dict[str, Calibration] = {}
    audits: dict[int, Audited] = {}
    suspended: Suspension | None = None
    blind: int = 0

    @property
    def judged(self) -> list[bool]:
        """Whether each audited task that was labelled was wrong."""
        return [audit.wrong for audit in self.audits.values() if audit.wrong is not None]

    def waiting(self) -> list[int]:
        """The audited tasks that nobody labelled yet."""
        return [task for task, audit in self.audits.items() if audit.wrong is None]

    def thresholds(self) -> dict[str, float]:
        """The scores from which on pre-labels are accepted, of the groups that have one; none while it is suspended."""
        if self.suspended is not None:
            return {}
        return {name: one.threshold for name, one in self.groups.items() if one.threshold is not None}

    def sentences(self, rule: Rule) -> list[str]:
        """What is accepted, or why nothing is, and what the audit says."""
        if self.suspended is not None:
            said = [f"Suspended: {self.suspended.reason}"]
        elif not self.version:
            said = ["Not yet: no version was looked at since it is on."]
        elif not self.groups:
            said = [f"Nothing waits: no task that nobody labelled has a score and a pre-label of {self.version}."]
        else:
            said = [_sentence(name, one, self.version, rule) for name, one in self.groups.items()]
        if self.audits:
            judged = self.judged
            said.append(f"Audit: {sum(judged)} of {len(judged)} were wrong; {len(self.waiting())} are to be labelled.")
        return said


def _sentence(group: str, found: Calibration, version: str, rule: Rule) -> str:
    where = f"{group}: " if group else ""
    promise = f"{percent(rule.risk)} with {percent(rule.confidence)} confidence"
    if found.bound is None:
        return (
            f"{where}Not yet: {found.needed} more blind {'label is' if found.needed == 1 else 'labels are'} needed to promise "
            f"{promise} ({found.above} of {found.labels} are of tasks as sure as those that wait)."
        )
    seen = f"{found.wrong} of {found.above} blind pre-labels were wrong, so that up to {percent(found.bound)} may be"
    if found.threshold is None:
        return f"{where}Nothing of {version} is accepted: {seen}, and {promise} is promised. The next version is tested anew."
    return f"{where}{version} is accepted from a score of {found.threshold:.3f} on: {seen} ({promise} is promised)."


def percent(share: float) -> str:
    """A share as people read it."""
    return f"{100 * share:.3g} %"


def read_accept(store: JsonStore, project: str) -> AcceptState:
    """The state that was stored last; an empty one, if there is none that can be used.

    Raises:
        RegistryError: the store cannot be read.
    """
    kept = store.read_json(project, _FILE)
    try:
        return AcceptState() if kept is None else AcceptState.model_validate(kept)
    except ValidationError as error:
        problem = error.errors(include_url=False)[0]["msg"]
        _log.warning("project %s: %s is left out, and nothing is accepted: %s", project, _FILE, problem)
        reason = f"the store's {_FILE} cannot be read: {problem}. `segloop accept run` begins anew."
        return AcceptState(suspended=Suspension(reason=reason, since=""))


def write_accept(store: JsonStore, project: str, state: AcceptState) -> None:
    """Store a state.

    Raises:
        RegistryError: the store cannot be written.
    """
    store.write_json(project, _FILE, state.model_dump(mode="json"))
