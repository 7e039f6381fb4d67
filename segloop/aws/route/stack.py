"""One CloudFormation stack: what it is, what a change set would do to it, and its events while it is done."""

from __future__ import annotations

import re
import time
import uuid
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime

from botocore.exceptions import ClientError, WaiterError

from segloop.aws.clients import Clients, explained, none_if
from segloop.aws.route.change_sets import ChangeSet, Event, change_of
from segloop.errors import StackError

#: A stack that was never made: nothing is in it, and CloudFormation takes no update of it.
UNMADE = ("ROLLBACK_COMPLETE", "ROLLBACK_FAILED", "CREATE_FAILED")
#: Longest template that is sent with a request, in bytes.
TEMPLATE_BYTES = 51_200
_WAIT_S = 3600
_PAUSE_S = 1
_LATE = f"is not done after {_WAIT_S} s; look at the console of CloudFormation"
_REVIEW = "REVIEW_IN_PROGRESS"
_BUCKET = "AWS::S3::Bucket"
_NO_STACK = r"\(ValidationError\).*does not exist"
_NO_CHANGES = ("didn't contain changes", "No updates are to be performed")


Tell = Callable[[Event], None]


@dataclass(frozen=True)
class Description:
    """What DescribeStacks says of a stack; of one that is not there, as it stands here."""

    id: str = ""
    status: str = ""
    changed_at: datetime = datetime.min
    outputs: Mapping[str, str] = field(default_factory=dict)
    parameters: Mapping[str, str] = field(default_factory=dict)
    tags: Mapping[str, str] = field(default_factory=dict)


class Stack:
    """A stack by its name.

    Raises (every method):
        StackError: the stack's own failure, with its reason.
        TrainingError: AWS refused.
        TrainerUnavailable: AWS cannot be reached now.
    """

    def __init__(self, clients: Clients, name: str) -> None:
        self.name = name
        self._client = clients.cloudformation

    def describe(self, id_: str = "") -> Description:
        """The stack as it is now, or, by its id, one that may be gone."""
        with explained("cloudformation:DescribeStacks"):
            reply = none_if(_NO_STACK, self._client.describe_stacks, StackName=id_ or self.name)
        if reply is None:
            return Description()
        found = reply["Stacks"][0]
        return Description(
            found["StackId"],
            found["StackStatus"],
            found.get("LastUpdatedTime") or found["CreationTime"],
            {item["OutputKey"]: item["OutputValue"] for item in found.get("Outputs", [])},
            {item["ParameterKey"]: item.get("ParameterValue", "") for item in found.get("Parameters", [])},
            {item["Key"]: item["Value"] for item in found.get("Tags", [])},
        )

    def defaults(self, template: str) -> dict[str, str]:
        """The parameters that a template declares, with their defaults."""
        with explained("cloudformation:GetTemplateSummary"):
            found = self._client.get_template_summary(TemplateBody=template)
        return {item["ParameterKey"]: item.get("DefaultValue", "") for item in found.get("Parameters", [])}

    def kept(self, template: str) -> dict[str, str]:
        """The values of the stack's parameters that a template declares too."""
        declared = self.defaults(template)
        return {key: value for key, value in self.describe().parameters.items() if key in declared}

    def buckets(self) -> set[str]:
        """The names of the buckets that the stack has, or had and left when it was deleted in the last 90 days."""
        return {name for id_ in (self.name, *self._gone()) for name in self._made_buckets(id_).values()}

    def left_buckets(self) -> dict[str, str]:
        """The buckets that stacks of this name had which were deleted in the last 90 days, by their names in the template."""
        left: dict[str, str] = {}
        for id_ in self._gone():
            left = {**self._made_buckets(id_), **left}
        return left

    def _gone(self) -> list[str]:
        """The ids of deleted stacks of this name, the latest first."""
        with explained("cloudformation:ListStacks"):
            pages = self._client.get_paginator("list_stacks").paginate(StackStatusFilter=["DELETE_COMPLETE"])
            found = [item for page in pages for item in page["StackSummaries"] if item["StackName"] == self.name]
        return [item["StackId"] for item in sorted(found, key=lambda item: item["CreationTime"], reverse=True)]

    def _made_buckets(self, id_: str) -> dict[str, str]:
        return {event.resource: event.name for event in self._events(id_) if event.type == _BUCKET and event.name}

    def propose(self, template: str, values: Mapping[str, str], tags: Mapping[str, str]) -> ChangeSet:
        """Make a change set; nothing is changed by it.

        A parameter of the template that `values` does not name keeps the stack's value, or has its default.
        """
        status = self.describe().status
        self._check_ready(status)
        is_new = status in ("", _REVIEW)
        kept = [] if is_new else self.kept(template).keys() - values.keys()
        request = {
            "StackName": self.name,
            "ChangeSetName": f"segloop-{uuid.uuid4().hex}",
            "ChangeSetType": "CREATE" if is_new else "UPDATE",
            "TemplateBody": template,
            "Capabilities": ["CAPABILITY_IAM", "CAPABILITY_NAMED_IAM"],
            "Parameters": [
                *({"ParameterKey": key, "ParameterValue": value} for key, value in values.items()),
                *({"ParameterKey": key, "UsePreviousValue": True} for key in sorted(kept)),
            ],
            "Tags": [{"Key": key, "Value": value} for key, value in tags.items()],
        }
        with explained("cloudformation:CreateChangeSet"):
            id_ = self._client.create_change_set(**request)["Id"]
        return self._proposed(id_, is_new)

    def discard(self, proposal: ChangeSet) -> None:
        """Remove a change set that is not executed, and with it the stack that was made to hold it."""
        with explained("cloudformation:DeleteChangeSet"):
            self._client.delete_change_set(ChangeSetName=proposal.id)
        if proposal.is_new and self.describe().status == _REVIEW:
            self.delete()

    def execute(self, proposal: ChangeSet, tell: Tell) -> None:
        """Execute a change set and follow the stack's events to the end.

        Raises:
            StackError: it failed, and CloudFormation has taken everything back; the text has the first failure's reason.
        """
        seen = {event.id for event in self._events(self.name)}
        with explained("cloudformation:ExecuteChangeSet"):
            self._client.execute_change_set(ChangeSetName=proposal.id)
        status, failures = self._follow(self.name, seen, tell)
        if status not in ("CREATE_COMPLETE", "UPDATE_COMPLETE"):
            raise StackError(f"the stack {self.name} is {status}: {_reason(failures)}")

    def failure(self) -> str:
        """The reason of the stack's latest failure; empty if its events have none."""
        for event in self._events(self.name):
            if event.is_failure:
                return f"{event.resource}: {event.reason or event.status}"
        return ""

    def delete(self, tell: Tell = lambda event: None) -> None:
        """Delete the stack, if it is there, and wait until it is gone.

        Raises:
            StackError: a resource could not be deleted; the text has the reason.
        """
        found = self.describe()
        if not found.id:
            return
        seen = {event.id for event in self._events(self.name)}
        with explained("cloudformation:DeleteStack"):
            self._client.delete_stack(StackName=self.name)
        status, failures = self._follow(found.id, seen, tell, ("", "DELETE_COMPLETE", "DELETE_FAILED"))
        if status == "DELETE_FAILED":
            raise StackError(f"the stack {self.name} could not be deleted: {_reason(failures)}")

    # -- steps

    def _check_ready(self, status: str) -> None:
        if status in UNMADE:
            raise StackError(f"the stack {self.name} is {status}: it was never made, and has to be deleted first")
        if status == "DELETE_FAILED":
            raise StackError(
                f"the stack {self.name} is half deleted ({self.failure()}): finish with segloop aws destroy"
            )
        if status == "UPDATE_ROLLBACK_FAILED":
            raise StackError(
                f"the stack {self.name} could not be taken back ({self.failure()}): mend what is named, then "
                f"aws cloudformation continue-update-rollback --stack-name {self.name}"
            )
        if status.endswith("_IN_PROGRESS") and status != _REVIEW:
            raise StackError(f"the stack {self.name} is {status}: somebody changes it now; wait until that has ended")

    def _proposed(self, id_: str, is_new: bool) -> ChangeSet:
        with explained("cloudformation:DescribeChangeSet"):
            # what the answer says of a change set that failed is more than the waiter's error
            with suppress(WaiterError):
                self._client.get_waiter("change_set_create_complete").wait(
                    ChangeSetName=id_, WaiterConfig={"Delay": _PAUSE_S, "MaxAttempts": _WAIT_S // _PAUSE_S}
                )
            pages = list(self._client.get_paginator("describe_change_set").paginate(ChangeSetName=id_))
        status, reason = pages[0]["Status"], pages[0].get("StatusReason", "")
        if status == "CREATE_COMPLETE":
            changes = [change_of(item["ResourceChange"]) for page in pages for item in page["Changes"]]
            return ChangeSet(id_, self.name, is_new, tuple(changes))
        if status != "FAILED":
            raise StackError(f"the change set of the stack {self.name} {_LATE}")
        empty = ChangeSet(id_, self.name, is_new, ())
        self.discard(empty)
        if any(text in reason for text in _NO_CHANGES):
            return empty
        raise StackError(f"CloudFormation refuses the change of the stack {self.name}: {reason}")

    def _follow(self, id_: str, seen: set[str], tell: Tell, ends: Collection[str] = ()) -> tuple[str, list[Event]]:
        """Tell every event that is not `seen` until the stack has one of the statuses `ends` (empty: it is gone), by
        default until it is at rest after an event; its status and the failures."""
        before = len(seen)
        failures: list[Event] = []
        end_s = time.monotonic() + _WAIT_S
        while time.monotonic() < end_s:
            # the status first: what follows it then has every event up to it
            status = self.describe(id_).status
            for event in reversed([event for event in self._events(id_) if event.id not in seen]):
                seen.add(event.id)
                failures.extend([event] if event.is_failure else [])
                tell(event)
            # just after a request, the status may be that of before
            if status in ends if ends else len(seen) > before and not status.endswith("_IN_PROGRESS"):
                return status, failures
            time.sleep(_PAUSE_S)
        raise StackError(f"the stack {self.name} {_LATE}")

    def _events(self, id_: str) -> Iterator[Event]:
        """The stack's events, the latest first; none where it is not there."""
        with explained("cloudformation:DescribeStackEvents"):
            try:
                for page in self._client.get_paginator("describe_stack_events").paginate(StackName=id_):
                    for item in page["StackEvents"]:
                        yield Event(
                            item["EventId"],
                            item["LogicalResourceId"],
                            item.get("PhysicalResourceId", ""),
                            item.get("ResourceType", ""),
                            item.get("ResourceStatus", ""),
                            item.get("ResourceStatusReason", ""),
                        )
            except ClientError as error:
                if not re.search(_NO_STACK, str(error)):
                    raise


def _reason(failures: list[Event]) -> str:
    if not failures:
        return "CloudFormation gives no reason; look at the stack's events in the console"
    return f"{failures[0].resource} ({failures[0].type}): {failures[0].reason or failures[0].status}"
