"""Counts annotations exactly once, however often and in whatever order their events come.

Two things tell of each: Label Studio's webhook, and the object that Label Studio saves in the target bucket (saved.py).
Both name it alike.

A transaction writes a marker for each of some annotations, if there is none, and adds to the project's pending count:
either both happen or neither. What is due is launched after each message, also after one that told nothing new: whoever
counted before may have died in between.

The table, by `pk` and `sk`:

- `projects`, project: `pending` (counted and not yet trained on), `counted`, `generation` (launches so far)
- `project#KEY`, `annotation#NAME`: a marker, kept for good: Label Studio may write an object anew at any time
- `launches`, `KEY#generation`: a launch (launching.py)
"""

from __future__ import annotations

import os
import random
import time
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

import boto3
from botocore.config import Config
from messages import Batch, BatchAnswer, handle_batch

from launching import PROJECTS, Launches, launches
from logs import fields, get_logger
from saved import Saved

logger = get_logger("counting")

#: Of a transaction's 100 items one is the project's.
_AT_ONCE = 99
_TRIES = 8
_LONGEST_WAIT_S = 0.4
_PASSING = frozenset({"TransactionConflict", "ThrottlingError", "ProvisionedThroughputExceeded"})


class Conflict(Exception):
    """Others went on counting the same project; the message comes again."""


class Counter:
    """Counts the annotations of messages.

    Args:
        dynamodb: client of DynamoDB.
    """

    def __init__(self, dynamodb: Any, table: str, launches: Launches, saved: Saved) -> None:
        self._dynamodb, self._table, self._launches, self._saved = dynamodb, table, launches, saved

    def handle(self, batch: Batch) -> BatchAnswer:
        """Count the messages of a batch from SQS; the answer names those that are to come again."""
        return handle_batch(batch, self._count_message, logger)

    def _count_message(self, message: Mapping[str, Any]) -> None:
        if "detail" in message:
            project, names = self._saved.annotations(message)
            if not names:
                return
        else:
            project, names = message["project"], message["annotations"]
            if not isinstance(project, str) or not isinstance(names, list):
                raise TypeError("project is no text, or annotations is no list")
        new = self.count(project, [str(name) for name in names])
        logger.info("counted", extra=fields(project=project, annotations=len(names), new=new))
        self._launches.launch_due(project)

    def count(self, project: str, names: Sequence[str]) -> int:
        """Count what was not counted before; how many that were.

        Raises:
            Conflict: others went on counting the same project.
            ClientError, BotoCoreError: DynamoDB does not answer.
        """
        once = list(dict.fromkeys(names))
        return sum(self._count(project, once[start : start + _AT_ONCE]) for start in range(0, len(once), _AT_ONCE))

    def _count(self, project: str, left: Sequence[str]) -> int:
        tries = 0
        while left:
            try:
                self._dynamodb.transact_write_items(TransactItems=self._transaction(project, left))
            except self._dynamodb.exceptions.TransactionCanceledException as error:
                codes = [reason.get("Code") for reason in error.response["CancellationReasons"]]
                new = [name for name, code in zip(left, codes, strict=False) if code != "ConditionalCheckFailed"]
                if new == left:
                    tries += 1
                    if not _PASSING.intersection(codes):
                        raise
                    if tries == _TRIES:
                        raise Conflict(f"project {project}: {tries} conflicts in a row") from error
                    time.sleep(random.uniform(0, min(_LONGEST_WAIT_S, 0.01 * 2**tries)))  # noqa: S311 - no secret
                left = new
            else:
                return len(left)
        return 0

    def _transaction(self, project: str, names: Sequence[str]) -> list[dict[str, object]]:
        markers: list[dict[str, object]] = [
            {
                "Put": {
                    "TableName": self._table,
                    "Item": {"pk": {"S": f"project#{project}"}, "sk": {"S": f"annotation#{name}"}},
                    "ConditionExpression": "attribute_not_exists(pk)",
                }
            }
            for name in names
        ]
        count: dict[str, object] = {
            "Update": {
                "TableName": self._table,
                "Key": {"pk": {"S": PROJECTS}, "sk": {"S": project}},
                "UpdateExpression": "SET generation = if_not_exists(generation, :zero) ADD pending :new, counted :new",
                "ExpressionAttributeValues": {":new": {"N": str(len(names))}, ":zero": {"N": "0"}},
            }
        }
        return [*markers, count]


def lambda_handler(event: Batch, context: object) -> BatchAnswer:
    """What Lambda calls with messages of the queue."""
    return _counter().handle(event)


@cache
def _counter() -> Counter:
    config = Config(connect_timeout=2, read_timeout=5, retries={"mode": "standard", "total_max_attempts": 3})
    saved = Saved(
        boto3.client("s3", config=config),
        os.environ["TARGET_BUCKET"],
        os.environ["ARTIFACTS_BUCKET"],
        count_updates=os.environ.get("COUNT_UPDATES") == "true",
    )
    return Counter(boto3.client("dynamodb", config=config), os.environ["TABLE_NAME"], launches(config), saved)
