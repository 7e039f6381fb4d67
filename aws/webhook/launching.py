"""Launches trainings: one for each N annotations, each exactly once.

A launch is claimed in one transaction (N fewer pending, a generation more, a row for the launch), started with a token
that follows from the project and the generation, and then noted as started. Whoever dies in between leaves a row that
the sweeper finds; SageMaker answers the same token with the same execution.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
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
_TRIES = 20
_LONGEST_WAIT_S = 0.1
_TIMEOUT_S = 10.0

#: An item as DynamoDB has it: {name: {type: text}}.
Row = Mapping[str, Mapping[str, str]]


@dataclass(frozen=True)
class Launch:
    """A training that is due: of a project (its key), the how manieth."""

    project: str
    generation: int


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
        except Exception:
            logger.exception("a training was not started; the sweeper tries again", extra=fields(**about))
            return False
        now = int(self._clock())
        self._dynamodb.update_item(
            TableName=self._table,
            Key=_key(launch),
            UpdateExpression="SET started_at = :now, started_as = :reference, expires = :expires",
            ExpressionAttributeValues={
                ":now": {"N": str(now)},
                ":reference": {"S": reference},
                ":expires": {"N": str(now + HISTORY_S)},
            },
        )
        logger.info("started", extra=fields(**about, reference=reference))
        return True

    def left_behind(self, older_s: float) -> Iterator[Launch]:
        """Launches that were claimed so many seconds ago and not started."""
        rows = self._query(
            LAUNCHES, "attribute_not_exists(started_at) AND claimed_at <= :cut", int(self._clock() - older_s)
        )
        for row in rows:
            project, _, generation = row["sk"]["S"].rpartition("#")
            yield Launch(project, int(generation))

    def due(self) -> Iterator[str]:
        """Projects whose pending annotations make a training due."""
        for row in self._query(PROJECTS, "pending >= :cut", self._per_training):
            yield row["sk"]["S"]

    def _claim(self, project: str) -> Launch | None:
        """Take N of the pending annotations for a launch; None where there are fewer."""
        key = {"pk": {"S": PROJECTS}, "sk": {"S": project}}
        for _ in range(_TRIES):
            row = self._dynamodb.get_item(TableName=self._table, Key=key, ConsistentRead=True).get("Item")
            if row is None or int(row["pending"]["N"]) < self._per_training:
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
                time.sleep(random.uniform(0, _LONGEST_WAIT_S))  # noqa: S311 - no secret
                continue
            return launch
        raise NotStarted(f"project {project}: {_TRIES} conflicts in a row at claiming a launch")

    def _query(self, pk: str, condition: str, cut: int) -> Iterator[Row]:
        pages = self._dynamodb.get_paginator("query").paginate(
            TableName=self._table,
            KeyConditionExpression="pk = :pk",
            FilterExpression=condition,
            ExpressionAttributeValues={":pk": {"S": pk}, ":cut": {"N": str(cut)}},
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
        return hashlib.sha256(f"{self._table}/{launch.project}/{launch.generation}".encode()).hexdigest()


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


def _key(launch: Launch) -> Row:
    return {"pk": {"S": LAUNCHES}, "sk": {"S": f"{launch.project}#{launch.generation:09d}"}}
