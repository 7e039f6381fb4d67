"""Annotations in the S3 target storage of a Label Studio project, instead of its API.

Label Studio 1.23 writes an object at each save of an annotation (its io_storages/base_models.py): the key is the bare
annotation id, the value the annotation with its task inside; or, with FUTURE_SAVE_TASK_TO_STORAGE, the task id, with
`.json` by a second setting, and the task with its annotations inside. It deletes an annotation's object only where
the storage has "can delete objects".
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import orjson

from segloop.aws.clients import aws_errors, code_of, s3_client
from segloop.errors import LabelStudioError, LabelStudioUnreachable

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

_KEY: Final = re.compile(r"\d+(\.json)?")
_READERS: Final = 8
_LARGEST_ID: Final = 2**63 - 1
#: Codes of S3 that no repetition mends.
_FINAL: Final = frozenset({"AccessDenied", "NoSuchBucket", "InvalidAccessKeyId", "SignatureDoesNotMatch", "403", "404"})


class Parsed(NamedTuple):
    """The content of an object: annotations of a task, or the problem with it; neither, if it is another project's."""

    task: int = 0
    data: Mapping[str, Any] = {}
    annotations: tuple[Mapping[str, Any], ...] = ()
    problem: str = ""


class TargetStorage:
    """A target storage at `s3://bucket/prefix`, read through boto3's default chain of credentials.

    Raises:
        LabelStudioError: of every method, where S3 refuses; LabelStudioUnreachable, where it may answer later.
    """

    def __init__(self, url: str, project_id: int) -> None:
        self.url = url.replace("{project}", str(project_id)).rstrip("/")
        self._project_id = project_id
        self._bucket, _, prefix = self.url.removeprefix("s3://").partition("/")
        self._prefix = f"{prefix}/" if prefix else ""

    def pages(self) -> Iterator[list[tuple[str, str]]]:
        """The keys of annotations or tasks with their ETags, up to a thousand at a time."""
        with self._named_errors():
            pages = self._client.get_paginator("list_objects_v2").paginate(
                Bucket=self._bucket, Prefix=self._prefix, Delimiter="/"
            )
            for page in pages:
                yield [
                    (entry["Key"], entry["ETag"])
                    for entry in page.get("Contents", [])
                    if _KEY.fullmatch(entry["Key"].removeprefix(self._prefix))
                ]

    def read(self, keys: Iterable[str]) -> Iterator[tuple[str, Parsed | None]]:
        """The content of objects, in the order of the keys; None for one that is gone."""
        with self._named_errors(), ThreadPoolExecutor(_READERS) as pool:
            for key, body in pool.map(self._body, keys):
                yield key, None if body is None else parse_object(body, self._project_id)

    def _body(self, key: str) -> tuple[str, bytes | None]:
        try:
            return key, self._client.get_object(Bucket=self._bucket, Key=key)["Body"].read()
        except self._client.exceptions.NoSuchKey:
            return key, None

    @cached_property
    def _client(self) -> S3Client:
        return s3_client()

    @contextmanager
    def _named_errors(self) -> Iterator[None]:
        sentence = f"the target storage {self.url} (annotations_from) cannot be read"
        try:
            yield
        except aws_errors() as error:
            final = code_of(error) in _FINAL
            raise (LabelStudioError if final else LabelStudioUnreachable)(f"{sentence}: {error}") from error


def parse_object(body: bytes, project_id: int) -> Parsed:
    """The content of an object of a target storage, in any of Label Studio's forms."""
    try:
        value = orjson.loads(body)
        task = value if "annotations" in value else value["task"]
        annotations = value["annotations"] if task is value else [value]
        if not isinstance(task, dict):
            return Parsed(problem=f"it names its task {task!r} without the task's data")
        project = task.get("project", value.get("project"))
        if project not in (None, project_id):
            return Parsed()
        for annotation in annotations:
            _check_id(annotation["id"])
            datetime.fromisoformat(annotation["updated_at"]).astimezone(UTC)
        _check_id(task["id"])
        return Parsed(task["id"], dict(task["data"]), tuple(annotations))
    except (ValueError, TypeError, KeyError, AttributeError, OverflowError) as error:
        return Parsed(problem=f"it is no annotation of Label Studio ({type(error).__name__}: {error})")


def _check_id(value: object) -> None:
    """Refuse what is no id of Label Studio's database: nothing else can be kept, or told from another one."""
    if type(value) is not int or not 0 < value <= _LARGEST_ID:
        raise ValueError(f"the id {value!r:.40} is no number of a row")
