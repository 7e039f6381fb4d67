"""Batches of messages, as SQS and Lambda exchange them."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping
from typing import Any

from logs import fields

#: `{"Records": [{"messageId", "body"}]}`
Batch = Mapping[str, list[dict[str, str]]]
#: `{"batchItemFailures": [{"itemIdentifier"}]}`, which names the messages that come again.
BatchAnswer = dict[str, list[dict[str, str]]]


def handle_batch(batch: Batch, handle: Callable[[Any], None], logger: logging.Logger) -> BatchAnswer:
    """Handle each message of a batch, parsed; the answer names those that failed, which come again."""
    failed: list[dict[str, str]] = []
    for record in batch["Records"]:
        try:
            handle(json.loads(record["body"]))
        except Exception:
            logger.exception("a message was not handled", extra=fields(message_id=record["messageId"]))
            failed.append({"itemIdentifier": record["messageId"]})
    return {"batchItemFailures": failed}
