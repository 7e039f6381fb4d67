"""Receives webhooks of Label Studio: checks who calls and what they say, and hands over to a queue, in milliseconds.

Label Studio waits one second for the answer, inside the annotator's Submit, and never asks again.
"""

from __future__ import annotations

import base64
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from typing import Any, TypeVar

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from credentials import SharedSecret
from events import BadEvent, Event, parse_event, project_id
from logs import fields, get_logger

logger = get_logger("receiver")

Item = TypeVar("Item")

SECRET_HEADER = "x-segloop-secret"  # noqa: S105 - the name of the header
#: The largest event that is read, in bytes; Lambda takes no larger one.
BODY_BYTES = 6 * 2**20
#: Annotations of a message, which may have 256 KB: a name has 60 bytes at the most.
ANNOTATIONS = 1000
#: Tasks of a message: those that an endpoint predicts within a function's time.
TASKS = 10


#: A request of API Gateway, payload format 2.0, and an answer to it: `statusCode`, `headers` and `body`.
Request = Mapping[str, Any]
Answer = dict[str, object]


class Receiver:
    """Answers requests of API Gateway.

    Args:
        sqs: client of SQS.
        task_queue: URL of the queue for new tasks; empty where none are pre-labelled.
    """

    def __init__(self, secret: SharedSecret, sqs: Any, queue: str, task_queue: str, *, count_updates: bool) -> None:
        self._secret, self._sqs = secret, sqs
        self._queue, self._task_queue = queue, task_queue
        self._count_updates = count_updates

    def answer(self, request: Request) -> Answer:
        """The answer to a request: 202 once the queue has what counts, 200 where nothing does, 4xx, or 503."""
        try:
            if not self._secret.matches(_header(request, SECRET_HEADER)):
                logger.warning("refused: the secret is wrong or missing", extra=fields(source=_source(request)))
                return _reply(401, "the header X-Segloop-Secret is missing or wrong")
            body = _body(request)
            if len(body) > BODY_BYTES:
                return _reply(413, f"the event is larger than {BODY_BYTES} bytes")
            event = parse_event(body, count_updates=self._count_updates)
            return self._hand_over(event)
        except BadEvent as error:
            logger.warning("refused: %s", error)
            return _reply(400, str(error))
        except (ClientError, BotoCoreError):
            logger.exception("an event was not handed over")
            return _reply(503, "the event could not be handed over; see the receiver's log")

    def _hand_over(self, event: Event) -> Answer:
        counts = [{"project": event.project, "annotations": part} for part in _parts(event.annotations, ANNOTATIONS)]
        self._send(self._queue, counts)
        tasks = event.tasks if self._task_queue else ()
        self._send(
            self._task_queue,
            [{"project": int(project_id(event.project)), "tasks": part} for part in _parts(tasks, TASKS)],
        )
        told = {"annotations": len(event.annotations), "tasks": len(tasks)}
        logger.info("event", extra=fields(action=event.action, project=event.project, **told))
        if not any(told.values()):
            return _reply(200, f"{event.action} changes nothing here")
        return _reply(202, "handed over", **told)

    def _send(self, queue: str, messages: Sequence[Mapping[str, object]]) -> None:
        for message in messages:
            self._sqs.send_message(QueueUrl=queue, MessageBody=json.dumps(message, separators=(",", ":")))


def lambda_handler(event: Request, context: object) -> Answer:
    """What API Gateway calls."""
    return _receiver().answer(event)


@cache
def _receiver() -> Receiver:
    config = Config(connect_timeout=1, read_timeout=3, retries={"mode": "standard", "total_max_attempts": 3})
    secret = SharedSecret(boto3.client("secretsmanager", config=config), os.environ["WEBHOOK_SECRET_ARN"])
    return Receiver(
        secret,
        boto3.client("sqs", config=config),
        os.environ["QUEUE_URL"],
        os.environ.get("TASK_QUEUE_URL", ""),
        count_updates=os.environ.get("COUNT_UPDATES") == "true",
    )


def _header(request: Request, name: str) -> str:
    headers = request.get("headers") or {}
    return next((str(value) for key, value in headers.items() if key.lower() == name), "")


def _source(request: Request) -> str:
    http = (request.get("requestContext") or {}).get("http") or {}
    return str(http.get("sourceIp", ""))


def _body(request: Request) -> bytes:
    body = request.get("body") or ""
    if not request.get("isBase64Encoded"):
        return body.encode("utf-8", "replace")
    try:
        return base64.b64decode(body, validate=True)
    except ValueError as error:
        raise BadEvent(f"the body is not base64: {error}") from error


def _parts(items: Sequence[Item], size: int) -> Iterator[Sequence[Item]]:
    for start in range(0, len(items), size):
        yield items[start : start + size]


def _reply(status: int, message: str, **more: int) -> Answer:
    return {
        "statusCode": status,
        "headers": {"content-type": "application/json"},
        "body": json.dumps({"message": message, **more}),
    }
