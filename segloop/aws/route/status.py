"""What goes on in a route: its stacks, counts, launches, queues and pipeline. It only reads."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from botocore.exceptions import ClientError

from segloop.aws.clients import Clients, code_of, explained
from segloop.aws.route.deploy import sagemaker_name
from segloop.aws.route.stack import Stack

#: How many launches and executions are shown, the latest first.
SHOWN = 10
_COUNTS = ("ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible")
# The counts' table, as aws/webhook/counting.py and launching.py keep it.
_PROJECTS = "projects"
_LAUNCHES = "launches"


def look(clients: Clients, name: str) -> dict[str, Any]:
    """The state of the route `name`.

    Returns:
        `stacks`: each `{"name", "status", "changed_at", "failure"}`, none where there is no such route;
        `projects`: each `{"project", "pending", "counted", "generation"}`, the key with the project's creation;
        `annotations_per_training`; `launches`: each `{"project", "generation", "claimed_at", "started_at", "started_as"}`;
        `queue` and `dead_letters`: `{"waiting", "in_flight"}`; `executions` of the pipeline: each
        `{"execution", "status", "started_at", "failure"}`; `last_error`: the latest failure of any of them, or "".
        Times are in ISO 8601, UTC.

    Raises:
        TrainingError: AWS refused.
        TrainerUnavailable: AWS cannot be reached now.
    """
    route = Stack(clients, name)
    stacks = [_stack(stack) for stack in (route, Stack(clients, sagemaker_name(name)))]
    outputs, parameters = route.outputs(), route.parameters()
    found: dict[str, Any] = {
        "name": name,
        "region": clients.region,
        "stacks": [stack for stack in stacks if stack["status"]],
        "annotations_per_training": int(parameters.get("AnnotationsPerTraining", 0)),
        "projects": [],
        "launches": [],
        "queue": {},
        "dead_letters": {},
        "executions": [],
    }
    if "TableName" in outputs:
        found["projects"] = [_project(row) for row in _rows(clients, outputs["TableName"], _PROJECTS)]
        launches = [_launch(row) for row in _rows(clients, outputs["TableName"], _LAUNCHES)]
        found["launches"] = sorted(launches, key=lambda launch: launch["claimed_at"], reverse=True)[:SHOWN]
        found["queue"] = _queue(clients, outputs["QueueUrl"])
        found["dead_letters"] = _queue(clients, outputs["DeadLetterQueueUrl"])
    if parameters.get("Target") == "pipeline":
        found["executions"] = _executions(clients, outputs["PipelineName"])
    found["last_error"] = _last_error(found)
    return found


def _stack(stack: Stack) -> dict[str, Any]:
    described = stack.describe()
    if described is None:
        return {"name": stack.name, "status": ""}
    status = described["StackStatus"]
    is_well = status in ("CREATE_COMPLETE", "UPDATE_COMPLETE") or status.endswith("_IN_PROGRESS")
    changed = described.get("LastUpdatedTime") or described["CreationTime"]
    failure = "" if is_well else stack.failure()
    return {"name": stack.name, "status": status, "changed_at": _iso(changed), "failure": failure}


def _rows(clients: Clients, table: str, pk: str) -> list[dict[str, Any]]:
    with explained("dynamodb:Query"):
        pages = (
            clients.client("dynamodb")
            .get_paginator("query")
            .paginate(TableName=table, KeyConditionExpression="pk = :pk", ExpressionAttributeValues={":pk": {"S": pk}})
        )
        return [row for page in pages for row in page["Items"]]


def _project(row: Mapping[str, Any]) -> dict[str, Any]:
    numbers = {name: int(row.get(name, {}).get("N", 0)) for name in ("pending", "counted", "generation")}
    return {"project": row["sk"]["S"], **numbers}


def _launch(row: Mapping[str, Any]) -> dict[str, Any]:
    project, _, generation = row["sk"]["S"].rpartition("#")
    return {
        "project": project,
        "generation": int(generation),
        "claimed_at": _seconds(row.get("claimed_at")),
        "started_at": _seconds(row.get("started_at")),
        "started_as": row.get("started_as", {}).get("S", ""),
    }


def _queue(clients: Clients, url: str) -> dict[str, int]:
    with explained("sqs:GetQueueAttributes"):
        found = clients.client("sqs").get_queue_attributes(QueueUrl=url, AttributeNames=list(_COUNTS))["Attributes"]
    waiting, in_flight = (int(found.get(name, 0)) for name in _COUNTS)
    return {"waiting": waiting, "in_flight": in_flight}


def _executions(clients: Clients, pipeline: str) -> list[dict[str, Any]]:
    with explained("sagemaker:ListPipelineExecutions"):
        try:
            found = clients.sagemaker.list_pipeline_executions(
                PipelineName=pipeline, SortBy="CreationTime", SortOrder="Descending", MaxResults=SHOWN
            )
        except ClientError as error:
            if code_of(error) in ("ResourceNotFound", "ValidationException"):
                return []
            raise
    return [
        {
            "execution": item["PipelineExecutionArn"].rpartition("/")[2],
            "status": item.get("PipelineExecutionStatus", ""),
            "started_at": _iso(item["StartTime"]) if "StartTime" in item else "",
            "failure": item.get("PipelineExecutionFailureReason", ""),
        }
        for item in found["PipelineExecutionSummaries"]
    ]


def _last_error(found: Mapping[str, Any]) -> str:
    for stack in found["stacks"]:
        if stack["failure"]:
            return f"the stack {stack['name']} is {stack['status']}: {stack['failure']}"
    if found["dead_letters"].get("waiting"):
        return f"{found['dead_letters']['waiting']} events could not be handled; the functions' logs say why"
    for launch in found["launches"]:
        if not launch["started_at"]:
            return f"launch {launch['generation']} of project {launch['project']} is not started yet; the sweeper tries again"
    for execution in found["executions"]:
        if execution["status"] == "Failed":
            return f"execution {execution['execution']} failed: {execution['failure'] or 'no reason given'}"
    return ""


def _seconds(value: Mapping[str, str] | None) -> str:
    return "" if value is None else _iso(datetime.fromtimestamp(int(value["N"]), UTC))


def _iso(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat(timespec="seconds")
