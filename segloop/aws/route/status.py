"""What goes on in a route: its stacks, counts, launches, queues and pipeline. It only reads."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime

from segloop.aws.clients import Clients, explained, none_if
from segloop.aws.route.deploy import sagemaker_name
from segloop.aws.route.stack import Stack

#: How many launches and executions are shown, the latest first.
SHOWN = 10
_COUNTS = ("ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible")
# The counts' table, as aws/webhook/counting.py and launching.py keep it.
_PROJECTS = "projects"
_LAUNCHES = "launches"
_NO_PIPELINE = r"\((ResourceNotFound|ValidationException)\)"

Row = Mapping[str, Mapping[str, str]]


@dataclass(frozen=True)
class StackStatus:
    """A stack of the route; `failure` is the reason of its latest one, where it is not well."""

    name: str
    status: str
    changed_at: str
    failure: str


@dataclass(frozen=True)
class ProjectCount:
    """What is counted of a project, by its key: annotations not yet trained on, all of them, and launches so far."""

    project: str
    pending: int
    counted: int
    generation: int


@dataclass(frozen=True)
class Launch:
    """A training that was due, and when and as what it was started; empty where it was not yet.

    Args:
        tries: how often it failed.
        problem: why it failed at its last try.
        next_at: when it is tried again; of one that is released, when the project's launches begin again.
        outcome: trained, released (its annotations are pending again), stopped or unknown; empty where it has not ended.
    """

    project: str
    generation: int
    claimed_at: str
    started_at: str
    started_as: str
    tries: int = 0
    problem: str = ""
    next_at: str = ""
    outcome: str = ""


@dataclass(frozen=True)
class PipelineExecution:
    """An execution of the route's pipeline."""

    execution: str
    status: str
    started_at: str
    failure: str


@dataclass(frozen=True)
class RouteStatus:
    """The state of a route; without `stacks` there is none. Times are in ISO 8601, UTC.

    `queue` and `dead_letters` have `waiting` and `in_flight`, the latest launches and executions stand first, and
    `last_error` is the latest failure of any of them, or "".
    """

    name: str
    region: str
    stacks: tuple[StackStatus, ...]
    annotations_per_training: int
    projects: tuple[ProjectCount, ...] = ()
    launches: tuple[Launch, ...] = ()
    queue: dict[str, int] = field(default_factory=dict)
    dead_letters: dict[str, int] = field(default_factory=dict)
    executions: tuple[PipelineExecution, ...] = ()
    last_error: str = ""


def route_status(clients: Clients, name: str) -> RouteStatus:
    """The state of the route `name`.

    Raises:
        TrainingError: AWS refused.
        TrainerUnavailable: AWS cannot be reached now.
    """
    route = Stack(clients, name)
    described = route.describe()
    outputs, parameters = described.outputs, described.parameters
    stacks = [found for stack in (route, Stack(clients, sagemaker_name(name))) if (found := _stack(stack)) is not None]
    status = RouteStatus(name, clients.region, tuple(stacks), int(parameters.get("AnnotationsPerTraining", 0)))
    if "TableName" in outputs:
        launches = [_launch(row) for row in _rows(clients, outputs["TableName"], _LAUNCHES)]
        status = replace(
            status,
            projects=tuple(_project(row) for row in _rows(clients, outputs["TableName"], _PROJECTS)),
            launches=tuple(sorted(launches, key=lambda launch: launch.claimed_at, reverse=True)[:SHOWN]),
            queue=_queue(clients, outputs["QueueUrl"]),
            dead_letters=_queue(clients, outputs["DeadLetterQueueUrl"]),
        )
    if parameters.get("Target") == "pipeline":
        status = replace(status, executions=tuple(_executions(clients, outputs["PipelineName"])))
    return replace(status, last_error=_last_error(status))


def _stack(stack: Stack) -> StackStatus | None:
    found = stack.describe()
    if not found.id:
        return None
    is_well = found.status in ("CREATE_COMPLETE", "UPDATE_COMPLETE") or found.status.endswith("_IN_PROGRESS")
    return StackStatus(stack.name, found.status, _iso(found.changed_at), "" if is_well else stack.failure())


def _rows(clients: Clients, table: str, pk: str) -> list[Row]:
    """The items of a partition, as DynamoDB has them: {name: {type: text}}."""
    with explained("dynamodb:Query"):
        pages = (
            clients.client("dynamodb")
            .get_paginator("query")
            .paginate(TableName=table, KeyConditionExpression="pk = :pk", ExpressionAttributeValues={":pk": {"S": pk}})
        )
        return [row for page in pages for row in page["Items"]]


def _project(row: Row) -> ProjectCount:
    pending, counted, generation = (int(row.get(name, {}).get("N", 0)) for name in ("pending", "counted", "generation"))
    return ProjectCount(row["sk"]["S"], pending, counted, generation)


def _launch(row: Row) -> Launch:
    project, _, generation = row["sk"]["S"].rpartition("#")
    return Launch(
        project,
        int(generation),
        _seconds(row.get("claimed_at")),
        _seconds(row.get("started_at")),
        row.get("started_as", {}).get("S", ""),
        int(row.get("attempt", {}).get("N", 0)),
        row.get("problem", {}).get("S", ""),
        _later(row.get("next_at")),
        row.get("outcome", {}).get("S", ""),
    )


def _queue(clients: Clients, url: str) -> dict[str, int]:
    with explained("sqs:GetQueueAttributes"):
        found = clients.client("sqs").get_queue_attributes(QueueUrl=url, AttributeNames=list(_COUNTS))["Attributes"]
    waiting, in_flight = (int(found.get(name, 0)) for name in _COUNTS)
    return {"waiting": waiting, "in_flight": in_flight}


def _executions(clients: Clients, pipeline: str) -> list[PipelineExecution]:
    with explained("sagemaker:ListPipelineExecutions"):
        request = {"PipelineName": pipeline, "SortBy": "CreationTime", "SortOrder": "Descending", "MaxResults": SHOWN}
        found = none_if(_NO_PIPELINE, clients.sagemaker.list_pipeline_executions, **request)
    return [
        PipelineExecution(
            item["PipelineExecutionArn"].rpartition("/")[2],
            item.get("PipelineExecutionStatus", ""),
            _iso(item["StartTime"]) if "StartTime" in item else "",
            item.get("PipelineExecutionFailureReason", ""),
        )
        for item in (found or {}).get("PipelineExecutionSummaries", [])
    ]


def _last_error(found: RouteStatus) -> str:
    for stack in found.stacks:
        if stack.failure:
            return f"the stack {stack.name} is {stack.status}: {stack.failure}"
    if found.dead_letters.get("waiting"):
        return f"{found.dead_letters['waiting']} events could not be handled; the functions' logs say why"
    for launch in found.launches:
        about = f"launch {launch.generation} of project {launch.project}"
        if launch.outcome == "released":
            return f"{about} failed {launch.tries} times, and its annotations are pending again: {launch.problem}"
        if launch.problem and not launch.outcome:
            again = f", is tried again at {launch.next_at}" if launch.next_at else ""
            return f"{about} failed {launch.tries} times{again}: {launch.problem}"
        if not launch.started_at and not launch.outcome:
            return f"{about} is not started yet; the sweeper tries again"
    for execution in found.executions:
        if execution.status == "Failed":
            return f"execution {execution.execution} failed: {execution.failure or 'no reason given'}"
    return ""


def _seconds(value: Mapping[str, str] | None) -> str:
    return "" if value is None else _iso(datetime.fromtimestamp(int(value["N"]), UTC))


def _later(value: Mapping[str, str] | None) -> str:
    """A moment that is still to come; empty for one that has passed."""
    return _seconds(value) if value is not None and int(value["N"]) > time.time() else ""


def _iso(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat(timespec="seconds")
