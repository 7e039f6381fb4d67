"""What CloudFormation would do to a stack, and what it tells of doing it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

# What CloudFormation says of the resources that others' failures take along.
_CONSEQUENCES = ("Resource creation cancelled", "Resource update cancelled")


@dataclass(frozen=True)
class Change:
    """What a change set does to a resource: `action` Add, Modify, Remove or Import; `replacement` True, False or Conditional."""

    action: str
    resource: str
    type: str
    replacement: str = ""


@dataclass(frozen=True)
class ChangeSet:
    """A change set that is ready to be executed, or (no `changes`) that there is nothing to change."""

    id: str
    stack: str
    is_new: bool
    changes: tuple[Change, ...]


@dataclass(frozen=True)
class Event:
    """An event of a stack: which resource (its name in the template, and its own) is in which status, and why."""

    id: str
    resource: str
    name: str
    type: str
    status: str
    reason: str

    @property
    def is_failure(self) -> bool:
        """Whether it is the cause of a failure, not a consequence of another's."""
        return self.status.endswith("_FAILED") and not self.reason.startswith(_CONSEQUENCES)


def change_of(item: Any) -> Change:
    """A change of DescribeChangeSet's answer."""
    return Change(item["Action"], item["LogicalResourceId"], item["ResourceType"], item.get("Replacement", ""))
