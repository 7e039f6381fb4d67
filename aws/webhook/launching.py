"""Launches trainings: one for each N annotations, each exactly once.

A launch is claimed in one transaction (N fewer pending, a generation more, a row for the launch), started with a token
that follows from the project, the generation and the try, and then noted as started. Whoever dies in between leaves a row
that the sweeper finds; SageMaker answers the same token with the same execution.

A launch that fails does not use up its annotations: it is tried again, later each time, and after its last try they are
pending again. The project then waits a day, so that what is wrong can be mended before the next series of tries.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import boto3
from botocore.config import Config

from credentials import SharedSecret
from events import project_id
from http_requests import Failed, request
from logs import fields, get_logger

logger = get_logger("launching")

PROJECTS = "projects"
LAUNCHES = "launches"
#: How long a launch that was started is remembered, in seconds.
HISTORY_S = 90 * 86400
#: Tries of a launch that AWS does not train, for want of a quota, of instances or of a permission: half a day of them.
REFUSALS = 8
#: Tries of a launch whose training ran and failed: each of them costs.
FAILURES = 2
#: Waits before the second try and, doubled each time, up to the longest, in seconds.
FIRST_WAIT_S = 300
LONGEST_WAIT_S = 4 * 3600
#: How long a project's launches rest after the last try of one, in seconds.
REST_S = 86400
_TRIES = 20
_LONGEST_PAUSE_S = 0.1
_TIMEOUT_S = 10.0
_REASON_CHARACTERS = 1000

#: An item as DynamoDB has it: {name: {type: text}}.
Row = Mapping[str, Mapping[str, str]]


@dataclass(frozen=True)
class Launch:
    """A training that is due: of a project (its key), the how manieth, at which try; and what it was started as, if it was."""

    project: str
    generation: int
    attempt: int = 0
    reference: str = ""


#: Starts a training and names it; starting the same launch again must not start another.
Start = Callable[[Launch], str]


class NotStarted(Exception):
    """What trains did not take the launch."""


class Launches:
    """The launches of all projects.

    Args:
        dynamodb: client of DynamoDB.
        per_training: annotations that start one training.
        clock: seconds since 1970.
    """

    def __init__(
        self, dynamodb: Any, table: str, per_training: int, start: Start, *, clock: Callable[[], float] = time.time
    ) -> None:
        self._dynamodb, self._table, self._start, self._clock = dynamodb, table, start, clock
        self._per_training = per_training

    def launch_due(self, project: str) -> int:
        """Launch what a project's pending annotations make due; how many could not be started, and are left behind.

        Raises:
            NotStarted: others went on counting or claiming.
            ClientError, BotoCoreError: DynamoDB does not answer.
        """
        failed = 0
        while launch := self._claim(project):
            failed += not self.start(launch)
        return failed

    def start(self, launch: Launch) -> bool:
        """Start a claimed launch and note it; false where it cannot be started now, for the reason in the log."""
        about = {"project": launch.project, "generation": launch.generation}
        try:
            reference = self._start(launch)
        except Exception as error:
            logger.exception("a training was not started; the sweeper tries again", extra=fields(**about))
            self.failed(launch, f"it could not be started: {error}", REFUSALS)
            return False
        now = int(self._clock())
        change = "SET started_at = :now, started_as = :reference, expires = :expires"
        values = {":now": now, ":expires": now + HISTORY_S}
        self._dynamodb.update_item(**self._update(_key(launch), change, values, reference=reference))
        logger.info("started", extra=fields(**about, reference=reference))
        return True

    def failed(self, launch: Launch, problem: str, tries: int) -> None:
        """Note why a launch failed; it is tried again later, or, after so many tries, its annotations are pending again."""
        now = int(self._clock())
        values = {":tried": launch.attempt, ":next": launch.attempt + 1}
        change = "SET attempt = :next, problem = :problem"
        where = "(attempt = :tried OR attribute_not_exists(attempt)) AND attribute_not_exists(outcome)"
        if launch.attempt + 1 < tries:
            values[":at"] = now + min(FIRST_WAIT_S * 2**launch.attempt, LONGEST_WAIT_S)
            change += ", next_at = :at REMOVE started_at, started_as, expires"
            items = [self._update(_key(launch), change, values, condition=where, problem=problem)]
        else:
            values |= {":now": now, ":at": now + REST_S, ":expires": now + HISTORY_S}
            change += ", outcome = :outcome, ended_at = :now, next_at = :at, expires = :expires"
            taken = {":taken": self._per_training, ":until": now + REST_S}
            project = {"pk": {"S": PROJECTS}, "sk": {"S": launch.project}}
            items = [
                self._update(_key(launch), change, values, condition=where, problem=problem, outcome="released"),
                self._update(project, "SET rests_until = :until ADD pending :taken", taken),
            ]
        logger.warning(
            "a launch failed: %s",
            problem,
            extra=fields(project=launch.project, generation=launch.generation, attempt=launch.attempt),
        )
        for _ in range(_TRIES):
            try:
                self._dynamodb.transact_write_items(TransactItems=[{"Update": item} for item in items])
            except self._dynamodb.exceptions.TransactionCanceledException as error:
                codes = [reason.get("Code") for reason in error.response["CancellationReasons"]]
                if "ConditionalCheckFailed" in codes:
                    # another has noted it
                    return
                time.sleep(random.uniform(0, _LONGEST_PAUSE_S))  # noqa: S311 - no secret
            else:
                return
        raise NotStarted(f"project {launch.project}: {_TRIES} conflicts in a row at noting a failure")

    def ended(self, launch: Launch, outcome: str) -> None:
        """Note how a launch that was started has ended."""
        values = {":now": int(self._clock())}
        change = "SET outcome = :outcome, ended_at = :now REMOVE problem"
        self._dynamodb.update_item(**self._update(_key(launch), change, values, outcome=outcome))

    def running(self) -> Iterator[Launch]:
        """Launches that were started, and of which it is not noted how they ended."""
        for row in self._query(LAUNCHES, "attribute_exists(started_as) AND attribute_not_exists(outcome)"):
            yield _launch(row)

    def left_behind(self, older_s: float) -> Iterator[Launch]:
        """Launches that were claimed so many seconds ago and not started, and whose next try is due."""
        condition = (
            "attribute_not_exists(started_at) AND attribute_not_exists(outcome) AND claimed_at <= :cut"
            " AND (attribute_not_exists(next_at) OR next_at <= :now)"
        )
        now = int(self._clock())
        for row in self._query(LAUNCHES, condition, {":cut": int(now - older_s), ":now": now}):
            yield _launch(row)

    def due(self) -> Iterator[str]:
        """Projects whose pending annotations make a training due, and that do not rest."""
        condition = "pending >= :cut AND (attribute_not_exists(rests_until) OR rests_until <= :now)"
        for row in self._query(PROJECTS, condition, {":cut": self._per_training, ":now": int(self._clock())}):
            yield row["sk"]["S"]

    def troubled(self) -> int:
        """How many launches failed and wait for their next try, and how many projects rest after a last one."""
        waiting = "attribute_exists(problem) AND attribute_not_exists(outcome) AND attribute_not_exists(started_at)"
        launches = self._query(LAUNCHES, waiting)
        projects = self._query(PROJECTS, "rests_until > :now", {":now": int(self._clock())})
        return sum(1 for _ in launches) + sum(1 for _ in projects)

    def _claim(self, project: str) -> Launch | None:
        """Take N of the pending annotations for a launch; None where there are fewer."""
        key = {"pk": {"S": PROJECTS}, "sk": {"S": project}}
        for _ in range(_TRIES):
            row = self._dynamodb.get_item(TableName=self._table, Key=key, ConsistentRead=True).get("Item")
            if row is None or int(row["pending"]["N"]) < self._per_training:
                return None
            if int(row.get("rests_until", {"N": "0"})["N"]) > self._clock():
                return None
            generation = int(row["generation"]["N"])
            launch = Launch(project, generation + 1)
            take = {
                "TableName": self._table,
                "Key": key,
                "UpdateExpression": "SET pending = pending - :taken, generation = :next",
                "ConditionExpression": "pending >= :taken AND generation = :before",
                "ExpressionAttributeValues": {
                    ":taken": {"N": str(self._per_training)},
                    ":before": {"N": str(generation)},
                    ":next": {"N": str(launch.generation)},
                },
            }
            note = {
                "TableName": self._table,
                "Item": {**_key(launch), "claimed_at": {"N": str(int(self._clock()))}},
                "ConditionExpression": "attribute_not_exists(pk)",
            }
            try:
                self._dynamodb.transact_write_items(TransactItems=[{"Update": take}, {"Put": note}])
            except self._dynamodb.exceptions.TransactionCanceledException:
                # another took it, or is counting at this moment
                time.sleep(random.uniform(0, _LONGEST_PAUSE_S))  # noqa: S311 - no secret
                continue
            return launch
        raise NotStarted(f"project {project}: {_TRIES} conflicts in a row at claiming a launch")

    def _update(
        self, key: Row, change: str, numbers: Mapping[str, int], *, condition: str = "", **texts: str
    ) -> dict[str, Any]:
        """A request to change an item; `:name` in it are the numbers, and the texts by their names."""
        values: dict[str, dict[str, str]] = {name: {"N": str(number)} for name, number in numbers.items()}
        values |= {f":{name}": {"S": text[:_REASON_CHARACTERS]} for name, text in texts.items()}
        request = {
            "TableName": self._table,
            "Key": key,
            "UpdateExpression": change,
            "ExpressionAttributeValues": values,
        }
        return {**request, "ConditionExpression": condition} if condition else request

    def _query(self, pk: str, condition: str, numbers: Mapping[str, int] = MappingProxyType({})) -> Iterator[Row]:
        pages = self._dynamodb.get_paginator("query").paginate(
            TableName=self._table,
            KeyConditionExpression="pk = :pk",
            FilterExpression=condition,
            ExpressionAttributeValues={
                ":pk": {"S": pk},
                **{name: {"N": str(number)} for name, number in numbers.items()},
            },
            ConsistentRead=True,
        )
        for page in pages:
            yield from page["Items"]


class Pipeline:
    """Starts executions of a SageMaker pipeline.

    Args:
        client: of SageMaker.
        table: what the generations are counted in: another table begins anew.
    """

    def __init__(self, client: Any, name: str, table: str) -> None:
        self._client, self._name, self._table = client, name, table

    def __call__(self, launch: Launch) -> str:
        answer = self._client.start_pipeline_execution(
            PipelineName=self._name,
            ClientRequestToken=self.token(launch),
            PipelineParameters=[
                {"Name": "ProjectId", "Value": project_id(launch.project)},
                {"Name": "Generation", "Value": str(launch.generation)},
            ],
        )
        return str(answer["PipelineExecutionArn"])

    def token(self, launch: Launch) -> str:
        """64 characters; SageMaker asks for 32 to 128."""
        again = f"/{launch.attempt}" if launch.attempt else ""
        return hashlib.sha256(f"{self._table}/{launch.project}/{launch.generation}{again}".encode()).hexdigest()


class Segloop:
    """Asks a segloop to train, at its /webhook; one that is training joins the launch to that.

    Args:
        url: its address, with or without /webhook.
        secret: its webhook secret.
    """

    def __init__(self, url: str, secret: SharedSecret) -> None:
        self._url = f"{url.rstrip('/').removesuffix('/webhook')}/webhook"
        self._secret = secret

    def __call__(self, launch: Launch) -> str:
        body = json.dumps({"action": "START_TRAINING", "project": launch.project}).encode()
        headers = {"Content-Type": "application/json", "X-Segloop-Secret": self._secret.value()}
        try:
            answer = json.loads(request(self._url, headers=headers, body=body, timeout_s=_TIMEOUT_S))
        except (Failed, ValueError) as error:
            raise NotStarted(f"segloop does not take the training: {error}") from error
        return str(answer.get("job", "")) if isinstance(answer, dict) else ""


def starter(table: str) -> Start:
    """What starts trainings, by the environment."""
    config = Config(connect_timeout=2, read_timeout=8, retries={"mode": "standard", "total_max_attempts": 2})
    if name := os.environ.get("PIPELINE_NAME"):
        return Pipeline(boto3.client("sagemaker", config=config), name, table)
    secret = SharedSecret(boto3.client("secretsmanager", config=config), os.environ["SEGLOOP_SECRET_ARN"])
    return Segloop(os.environ["SEGLOOP_URL"], secret)


def launches(config: Config) -> Launches:
    """The launches of this function's environment."""
    table = os.environ["TABLE_NAME"]
    per_training = int(os.environ["ANNOTATIONS_PER_TRAINING"])
    return Launches(boto3.client("dynamodb", config=config), table, per_training, starter(table))


def _launch(row: Row) -> Launch:
    project, _, generation = row["sk"]["S"].rpartition("#")
    attempt, reference = row.get("attempt", {"N": "0"})["N"], row.get("started_as", {"S": ""})["S"]
    return Launch(project, int(generation), int(attempt), reference)


def _key(launch: Launch) -> Row:
    return {"pk": {"S": LAUNCHES}, "sk": {"S": f"{launch.project}#{launch.generation:09d}"}}
