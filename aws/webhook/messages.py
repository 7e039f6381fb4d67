"""Batches of messages, as SQS and Lambda exchange them."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from typing import Any, TypedDict

from logs import fields


class Record(TypedDict):
    messageId: str
    body: str


class Batch(TypedDict):
    Records: list[Record]


class Failure(TypedDict):
    itemIdentifier: str


class BatchAnswer(TypedDict):
    batchItemFailures: list[Failure]


def handle_batch(batch: Batch, handle: Callable[[Any], None], logger: logging.Logger) -> BatchAnswer:
    """Handle each message of a batch, parsed; the answer names those that failed, which come again."""
    failed: list[Failure] = []
    for record in batch["Records"]:
        try:
            handle(json.loads(record["body"]))
        except Exception:
            logger.exception("a message was not handled", extra=fields(message_id=record["messageId"]))
            failed.append({"itemIdentifier": record["messageId"]})
    return {"batchItemFailures": failed}
