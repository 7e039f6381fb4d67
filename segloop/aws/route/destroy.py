"""The route removed: its stacks, and those of its buckets that hold nothing or are not wanted. It may be repeated."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from segloop.aws.clients import Clients, explained
from segloop.aws.route.buckets import Buckets
from segloop.aws.route.change_sets import Event
from segloop.aws.route.deploy import sagemaker_name
from segloop.aws.route.stack import Stack

#: The route's buckets, by their names in the template.
_BUCKETS = ("SourceBucket", "TargetBucket", "ArtifactsBucket")


@dataclass(frozen=True)
class Plan:
    """What a removal takes away and what it leaves: stacks with their status, names of buckets.

    `others` are buckets that the route uses and did not make: they stay, whatever is asked for.
    """

    stacks: dict[str, str]
    removed: tuple[str, ...]
    kept: tuple[str, ...]
    others: tuple[str, ...] = ()

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to take away."""
        return not self.stacks and not self.removed


class Removal:
    """Takes the route `name` away.

    Args:
        delete_data: take its buckets away with what is in them too; else only empty ones, and the one with the code.

    Raises (every method):
        StackError: a stack or an object could not be deleted, with the reason.
        TrainingError: AWS refused.
        TrainerUnavailable: AWS cannot be reached now.
    """

    def __init__(self, clients: Clients, name: str, *, delete_data: bool) -> None:
        self._clients, self._buckets = clients, Buckets(clients)
        self._name, self._delete_data = name, delete_data
        # the second stack uses what the first has
        self._stacks = [Stack(clients, each) for each in (sagemaker_name(name), name)]

    def plan(self) -> Plan:
        """What a removal would do now; it changes nothing."""
        code = self._buckets.code_bucket(self._name)
        removed: list[str] = []
        kept: list[str] = []
        # of buckets that are gone, somebody else may have one of the same name
        parameters = self._stacks[-1].describe().parameters
        given = {parameters.get(f"Existing{name}", "") for name in _BUCKETS} - {""}
        # those that an earlier stack of this name made, and this one took up, have names by CloudFormation's rule
        ours = re.compile(rf"{re.escape(self._name)}-({'|'.join(_BUCKETS).lower()})-[a-z0-9]+")
        made = self._stacks[-1].buckets() | {bucket for bucket in given if ours.fullmatch(bucket)}
        for bucket in sorted(made & self._buckets.own()):
            (removed if self._delete_data or self._buckets.is_empty(bucket) else kept).append(bucket)
        if self._buckets.exists(code):
            removed.append(code)
        stacks = {stack.name: status for stack in self._stacks if (status := stack.describe().status)}
        return Plan(stacks, tuple(removed), tuple(kept), tuple(sorted(given - made)))

    def run(self, say: Callable[[str], None], tell: Callable[[Event], None]) -> dict[str, list[str]]:
        """Take away; the stacks and buckets that are gone, and the buckets that are kept."""
        plan = self.plan()
        for stack in self._stacks:
            if stack.name in plan.stacks:
                self._empty_group(stack.describe().outputs.get("ModelPackageGroupName"), say)
                say(f"Deleting the stack {stack.name}")
                stack.delete(tell)
        for bucket in plan.removed:
            count = self._buckets.remove(bucket)
            say(f"Deleted the bucket {bucket} with {count} objects")
        return {"stacks": list(plan.stacks), "buckets": list(plan.removed), "kept": [*plan.kept, *plan.others]}

    def _empty_group(self, group: str | None, say: Callable[[str], None]) -> None:
        """Take the models out of the stack's group, which could not be deleted with them; their files stay."""
        if group is None:
            return
        with explained("sagemaker:ListModelPackages"):
            pages = self._clients.sagemaker.get_paginator("list_model_packages").paginate(ModelPackageGroupName=group)
            models = [item["ModelPackageArn"] for page in pages for item in page["ModelPackageSummaryList"]]
        for model in models:
            with explained("sagemaker:DeleteModelPackage"):
                self._clients.sagemaker.delete_model_package(ModelPackageName=model)
        if models:
            say(f"Took {len(models)} models out of the group {group}")
