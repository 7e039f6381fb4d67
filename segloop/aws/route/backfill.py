"""Annotations of the target bucket told to the route's counter again: those that were missed are counted, the others not."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from typing import Final

from segloop.aws.clients import Clients, explained
from segloop.aws.route.stack import Stack
from segloop.errors import StackError

#: Keys of annotations, as aws/webhook/events.py knows them.
_SAVED: Final = re.compile(r"projects/\d+/\d+(\.json)?")
#: Most messages of a request to SQS.
_AT_ONCE: Final = 10


class Backfill:
    """The annotations that Label Studio has saved in the target bucket of the route `name`, of one project or of all.

    Raises (every method):
        StackError: there is no such route, or its queue does not take a message.
        TrainingError: AWS refused; TrainerUnavailable, it cannot be reached now.
    """

    def __init__(self, clients: Clients, name: str, project_id: int | None = None) -> None:
        outputs = Stack(clients, name).describe().outputs
        if "QueueUrl" not in outputs:
            raise StackError(f"there is no route {name} in {clients.region}: deploy it first")
        self._s3, self._sqs = clients.s3, clients.client("sqs")
        self._bucket, self._queue = outputs["TargetBucketName"], outputs["QueueUrl"]
        self._prefix = "projects/" if project_id is None else f"projects/{project_id}/"

    def run(self, tell: Callable[[int], None] = lambda told: None) -> int:
        """Tell the counter of each object, as EventBridge does when Label Studio saves it.

        Args:
            tell: is given how many were told so far.

        Returns:
            How many there are.
        """
        told = 0
        for keys in self._keys():
            entries = [
                {
                    "Id": str(number),
                    "MessageBody": json.dumps({"detail": {"bucket": {"name": self._bucket}, "object": {"key": key}}}),
                }
                for number, key in enumerate(keys)
            ]
            with explained("sqs:SendMessage"):
                answer = self._sqs.send_message_batch(QueueUrl=self._queue, Entries=entries)
            for failed in answer.get("Failed", []):
                reason = failed.get("Message", failed["Code"])
                raise StackError(f"the queue does not take {keys[int(failed['Id'])]}: {reason}; run it again")
            told += len(keys)
            tell(told)
        return told

    def _keys(self) -> Iterator[list[str]]:
        """Keys of annotations, as many at a time as go into a request."""
        with explained("s3:ListBucket"):
            for page in self._s3.get_paginator("list_objects_v2").paginate(Bucket=self._bucket, Prefix=self._prefix):
                keys = [item["Key"] for item in page.get("Contents", []) if _SAVED.fullmatch(item["Key"])]
                yield from (keys[start : start + _AT_ONCE] for start in range(0, len(keys), _AT_ONCE))
