"""Pre-labels new tasks: their images to a SageMaker endpoint of segloop's, its predictions to Label Studio.

The endpoint answers whole tasks (segloop/aws/endpoints/handler.py), so that nothing here has to know masks or networks. Images come
from the route's source bucket, or are uploads of Label Studio; tasks with others are left alone, and the log says so.
"""

from __future__ import annotations

import base64
import json
import os
import re
from collections.abc import Iterator
from functools import cache
from typing import Any

import boto3
from botocore.config import Config
from messages import Batch, BatchAnswer, handle_batch

from credentials import SharedSecret
from http_requests import Failed
from labelling import Json, LabelStudio
from logs import fields, get_logger

logger = get_logger("prelabelling")

#: Bytes of a task's images: as base64 they stay below the 25 MB that SageMaker takes.
IMAGE_BYTES = 18 * 10**6
_IMAGE = re.compile(r"\.(jpe?g|png|webp|bmp|tiff?|gif)$", re.IGNORECASE)
_DEPTH = 8


class Unusable(Exception):
    """A task that will never be pre-labelled; the text says why."""


class NotPreLabelled(Exception):
    """Tasks of a message that are to be tried again."""


class PreLabeller:
    """Pre-labels the tasks of messages.

    Args:
        s3, runtime: clients of S3 and of SageMaker's runtime.
        bucket: the source bucket; no other is read.
    """

    def __init__(self, s3: Any, runtime: Any, label_studio: LabelStudio, *, bucket: str, endpoint: str) -> None:
        self._s3, self._runtime, self._label_studio = s3, runtime, label_studio
        self._bucket, self._endpoint = bucket, endpoint

    def handle(self, batch: Batch) -> BatchAnswer:
        """Pre-label the tasks of a batch from SQS; the answer names the messages that are to come again."""
        return handle_batch(batch, self._prelabel, logger)

    def _prelabel(self, message: Json) -> None:
        """Pre-label the tasks of a message of the receiver's, `{"project", "tasks"}`."""
        project = int(message["project"])
        label_config = self._label_studio.label_config(project)
        # what an earlier try has predicted is not asked for again
        tasks = self._label_studio.unpredicted(project, [int(number) for number in message["tasks"]])
        failed = sum(not self._prelabel_task(project, task, label_config) for task in tasks)
        if failed:
            raise NotPreLabelled(f"{failed} of {len(tasks)} tasks; they come again")

    def _prelabel_task(self, project: int, task: Json, label_config: str) -> bool:
        """Pre-label a task; false where another try may do better."""
        about = {"project": project, "task": task["id"]}
        try:
            prediction = self._predict(task, label_config)
            self._label_studio.store({"task": task["id"], **prediction})
        except Unusable as error:
            logger.warning("a task is left alone: %s", error, extra=fields(**about))
        except Exception:
            logger.exception("a task was not pre-labelled", extra=fields(**about))
            return False
        else:
            logger.info("pre-labelled", extra=fields(**about, model_version=prediction["model_version"]))
        return True

    def _predict(self, task: Json, label_config: str) -> Json:
        images = self._images(task["data"])
        if not images:
            raise Unusable(f"it has no image in s3://{self._bucket}/ and no upload")
        request = {"label_config": label_config, "task": task, "images": images}
        try:
            reply = self._runtime.invoke_endpoint(
                EndpointName=self._endpoint,
                ContentType="application/json",
                Accept="application/json",
                Body=json.dumps(request).encode(),
            )
        except self._runtime.exceptions.ModelError as error:
            if 400 <= error.response.get("OriginalStatusCode", 500) < 500:
                raise Unusable(f"the endpoint refuses it: {error.response.get('OriginalMessage', '')[:300]}") from error
            raise
        with reply["Body"] as stream:
            prediction: Json = json.loads(stream.read())
        if prediction["score"] is None:
            raise Unusable("the endpoint could not predict it; its log says why")
        return prediction

    def _images(self, data: object) -> dict[str, str]:
        """The images that a task's data name, as base64 by their addresses."""
        images: dict[str, str] = {}
        left = IMAGE_BYTES
        for address in dict.fromkeys(_texts(data)):
            content = self._image(address, left)
            if content is None:
                continue
            left -= len(content)
            if left < 0:
                raise Unusable(f"its images have more than {IMAGE_BYTES} bytes")
            images[address] = base64.b64encode(content).decode("ascii")
        return images

    def _image(self, address: str, limit: int) -> bytes | None:
        """At most one byte more than the limit; None for what is no image here."""
        prefix = f"s3://{self._bucket}/"
        if address.startswith(prefix) and _IMAGE.search(address):
            try:
                reply = self._s3.get_object(Bucket=self._bucket, Key=address.removeprefix(prefix))
            except self._s3.exceptions.NoSuchKey as error:
                raise Unusable(f"{address} is gone") from error
            with reply["Body"] as stream:
                content: bytes = stream.read(limit + 1)
            return content
        try:
            return self._label_studio.upload(address, limit + 1)
        except Failed as error:
            if error.status == 404:
                raise Unusable(str(error)) from error
            raise


def lambda_handler(event: Batch, context: object) -> BatchAnswer:
    """What Lambda calls with messages of the queue of tasks."""
    return _prelabeller().handle(event)


@cache
def _prelabeller() -> PreLabeller:
    config = Config(connect_timeout=2, read_timeout=70, retries={"mode": "standard", "total_max_attempts": 2})
    secret = SharedSecret(boto3.client("secretsmanager", config=config), os.environ["LABEL_STUDIO_TOKEN_ARN"])
    return PreLabeller(
        boto3.client("s3", config=config),
        boto3.client("sagemaker-runtime", config=config),
        LabelStudio(os.environ["LABEL_STUDIO_URL"], secret.value),
        bucket=os.environ["SOURCE_BUCKET"],
        endpoint=os.environ["ENDPOINT_NAME"],
    )


def _texts(value: object, depth: int = 0) -> Iterator[str]:
    """All texts within a task's data."""
    if isinstance(value, str):
        yield value
    elif depth < _DEPTH and isinstance(value, (dict, list)):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _texts(item, depth + 1)
