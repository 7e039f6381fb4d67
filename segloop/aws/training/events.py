"""Ends of training jobs, told by EventBridge through an SQS queue (setting `sagemaker_events`)."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable

from segloop.aws.clients import ClientOptions, aws_client, explained
from segloop.aws.training.requests import RUN
from segloop.aws.training.route import RouteTraining, route_training
from segloop.settings import Settings

logger = logging.getLogger(__name__)

RouteCall = Callable[[RouteTraining], None]

_DETAIL_TYPE = "SageMaker Training Job State Change"
_ENDED = ("Completed", "Failed", "Stopped")
_MESSAGES = 10


class Events:
    """The queue of a segloop's events; of no use to anybody else, so that every message is taken off it.

    Args:
        url: address of the SQS queue.
    """

    def __init__(self, settings: Settings, url: str) -> None:
        # Longer than the longest wait of SQS, 20 s.
        self._client = aws_client("sqs", ClientOptions(settings.sagemaker_region, read_timeout_s=30, attempts=3))
        self._url = url

    def take(self, ended: Callable[[str], None], on_route: RouteCall | None = None, wait_s: int = 0) -> int:
        """Call `ended` with the id of each run whose training job ended, and `on_route` with each training of a managed
        route that began, went on or ended; the number of messages taken.

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
            parsed = parse_message(message["Body"])
            if isinstance(parsed, str):
                ended(parsed)
            elif parsed is not None and on_route is not None:
                on_route(parsed)
            with explained("sqs:DeleteMessage"):
                self._client.delete_message(QueueUrl=self._url, ReceiptHandle=message["ReceiptHandle"])
        return len(messages)


def parse_message(body: str) -> str | RouteTraining | None:
    """The id of a run of segloop's that has ended, or a route's training; None where an event is about neither."""
    try:
        event = json.loads(body)
        detail = event["detail"]
        if event["detail-type"] != _DETAIL_TYPE:
            return None
        hyperparameters, status = detail["HyperParameters"], detail["TrainingJobStatus"]
        if RUN in hyperparameters:
            return str(hyperparameters[RUN]) if status in _ENDED else None
        training = route_training(str(detail["TrainingJobName"]), hyperparameters)
    except (ValueError, KeyError, TypeError, AttributeError):
        training = None
    if training is None:
        logger.warning("a message in the queue of events is none of a training job of segloop's: %.200s", body)
    return training
