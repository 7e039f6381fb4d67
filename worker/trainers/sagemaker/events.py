"""Ends of training jobs, told by EventBridge through an SQS queue (setting `sagemaker_events`)."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from typing import Any

import boto3
from botocore.config import Config

from segloop.settings import Settings
from worker.trainers.sagemaker.clients import explained
from worker.trainers.sagemaker.requests import RUN

logger = logging.getLogger(__name__)

_DETAIL_TYPE = "SageMaker Training Job State Change"
_ENDED = ("Completed", "Failed", "Stopped")
_MESSAGES = 10


class Events:
    """The queue of a segloop's events; of no use to anybody else, so that every message is taken off it.

    Args:
        url: address of the SQS queue.
    """

    def __init__(self, settings: Settings, url: str) -> None:
        session = boto3.session.Session(region_name=settings.sagemaker_region or None)
        # Longer than the longest wait of SQS, 20 s.
        config = Config(connect_timeout=5, read_timeout=30, retries={"mode": "standard", "total_max_attempts": 3})
        self._client: Any = session.client("sqs", config=config)
        self._url = url

    def take(self, ended: Callable[[str], None], wait_s: int = 0) -> int:
        """Call `ended` with the id of each run whose training job ended; the number of messages taken.

        A message is deleted after its call: one whose call raises comes again. One event may come twice, and ends may
        come without any: polling stays the truth.

        Raises:
            TrainingError: AWS refused.
            TrainerUnavailable: SQS cannot be reached now.
        """
        with explained("sqs:ReceiveMessage"):
            reply = self._client.receive_message(
                QueueUrl=self._url, MaxNumberOfMessages=_MESSAGES, WaitTimeSeconds=wait_s
            )
        messages = reply.get("Messages", [])
        for message in messages:
            run_id = run_of(message["Body"])
            if run_id is not None:
                ended(run_id)
            with explained("sqs:DeleteMessage"):
                self._client.delete_message(QueueUrl=self._url, ReceiptHandle=message["ReceiptHandle"])
        return len(messages)


def run_of(body: str) -> str | None:
    """The id of the run whose end an event tells; None for any other message."""
    try:
        event = json.loads(body)
        detail = event["detail"]
        if event["detail-type"] != _DETAIL_TYPE or detail["TrainingJobStatus"] not in _ENDED:
            return None
        run_id = detail["HyperParameters"][RUN]
    except (ValueError, KeyError, TypeError):
        logger.warning("a message in the queue of events is none of a training job of segloop's: %.200s", body)
        return None
    return str(run_id)
