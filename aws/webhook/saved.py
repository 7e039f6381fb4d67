"""What Label Studio saved in the target bucket, told by S3 through EventBridge or by `segloop aws backfill`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from events import BadEvent, parse_saved, project_key, saved_project
from logs import fields, get_logger

logger = get_logger("saved")

#: The largest object that is read, in bytes: an annotation of millions of runs has a third of it.
OBJECT_BYTES = 32 * 2**20


class NotConnected(Exception):
    """A project without a description; the message comes again, and is a dead letter unless it is connected meanwhile."""


class Saved:
    """Reads objects of the target bucket.

    Args:
        s3: client of S3.
        target: the bucket that Label Studio writes annotations to.
        artifacts: the bucket with projects' descriptions, as `segloop aws connect` writes them.
    """

    def __init__(self, s3: Any, target: str, artifacts: str, *, count_updates: bool) -> None:
        self._s3, self._target, self._artifacts = s3, target, artifacts
        self._count_updates = count_updates

    def annotations(self, event: Mapping[str, Any]) -> tuple[str, tuple[str, ...]]:
        """The project's key and the names of what counts; none where the object is gone or is no annotation's.

        Args:
            event: as EventBridge has it: `{"detail": {"bucket": {"name"}, "object": {"key"}}}`.

        Raises:
            NotConnected: the project has no description.
            ClientError, BotoCoreError: S3 does not answer.
        """
        bucket, key = event["detail"]["bucket"]["name"], event["detail"]["object"]["key"]
        project = saved_project(key) if bucket == self._target else None
        if project is None:
            return "", ()
        body = self._read(bucket, key)
        try:
            names = () if body is None else parse_saved(body, project, count_updates=self._count_updates)
        except BadEvent as error:
            logger.warning("an object is no annotation: %s", error, extra=fields(bucket=bucket, key=key))
            return "", ()
        return (self._key(project), names) if names else ("", ())

    def _key(self, project: int) -> str:
        place = f"projects/{project}/project.json"
        description = self._read(self._artifacts, place)
        if description is None:
            raise NotConnected(f"s3://{self._artifacts}/{place} is not there: segloop aws connect --project {project}")
        told = json.loads(description)
        # a key has the form of the webhook's; a description by hand may have Label Studio's own fields
        key = told.get("key")
        return key if isinstance(key, str) and key else project_key({"id": project, **told})

    def _read(self, bucket: str, key: str) -> bytes | None:
        """An object; None for one that is gone."""
        try:
            reply = self._s3.get_object(Bucket=bucket, Key=key)
        except self._s3.exceptions.NoSuchKey:
            return None
        with reply["Body"] as stream:
            body: bytes = stream.read(OBJECT_BYTES + 1)
        if len(body) > OBJECT_BYTES:
            raise ValueError(f"s3://{bucket}/{key} has more than {OBJECT_BYTES} bytes")
        return body
