"""The store that is a prefix of an S3 bucket."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from segloop.aws.clients import ClientOptions, aws_errors, code_of, s3_client
from segloop.errors import RegistryError, SettingsError
from segloop.registry.store import Blob

#: For what is small: a server's requests may wait for it.
_QUICK = ClientOptions(connect_timeout_s=3, read_timeout_s=10, attempts=3)

_MISSING = {"NoSuchKey", "404"}
# S3's answer to a read with If-None-Match, which has no body to name an error in.
_UNCHANGED = "304"
# 412: somebody else wrote; 409: somebody else is writing now; 404: the key that If-Match names is gone.
_LOST = {"PreconditionFailed", "ConditionalRequestConflict", "NoSuchKey"}


class S3Store:
    """A store at `s3://bucket/prefix`, with boto3's default chain of credentials; safe with several machines.

    `write_if` is S3's conditional PUT (If-Match, If-None-Match).
    """

    def __init__(self, url: str) -> None:
        self._url = url
        self._bucket, _, prefix = url.removeprefix("s3://").partition("/")
        if not self._bucket:
            raise SettingsError(f"setting store: {url!r} names no bucket; write s3://bucket/prefix")
        self._prefix = f"{prefix.strip('/')}/" if prefix.strip("/") else ""
        with self._errors():
            self._client = s3_client(_QUICK)
            # bundles: hundreds of megabytes, in threads that nobody waits for
            self._files = s3_client()

    def read(self, key: str) -> Blob | None:
        with self._errors():
            try:
                reply = self._client.get_object(Bucket=self._bucket, Key=self._prefix + key)
            except aws_errors() as error:
                if code_of(error) in _MISSING:
                    return None
                raise
            return Blob(reply["Body"].read(), reply["ETag"])

    def reread(self, key: str, known: Blob) -> Blob | None:
        with self._errors():
            try:
                reply = self._client.get_object(Bucket=self._bucket, Key=self._prefix + key, IfNoneMatch=known.tag)
            except aws_errors() as error:
                if code_of(error) == _UNCHANGED:
                    return known
                if code_of(error) in _MISSING:
                    return None
                raise
            return Blob(reply["Body"].read(), reply["ETag"])

    def size(self, key: str) -> int | None:
        with self._errors():
            try:
                return int(self._client.head_object(Bucket=self._bucket, Key=self._prefix + key)["ContentLength"])
            except aws_errors() as error:
                if code_of(error) in _MISSING:
                    return None
                raise

    def write(self, key: str, data: bytes) -> None:
        with self._errors():
            self._client.put_object(Bucket=self._bucket, Key=self._prefix + key, Body=data)

    def write_if(self, key: str, data: bytes, tag: str | None) -> bool:
        condition: Any = {"IfNoneMatch": "*"} if tag is None else {"IfMatch": tag}
        with self._errors():
            try:
                self._client.put_object(Bucket=self._bucket, Key=self._prefix + key, Body=data, **condition)
            except aws_errors() as error:
                if code_of(error) not in _LOST:
                    raise
                # boto3 repeats a PUT whose answer got lost, and is then refused by its own first write.
                current = self.read(key)
                return current is not None and current.data == data
        return True

    def folders(self, prefix: str) -> list[str]:
        start = self._prefix + prefix
        with self._errors():
            pages = self._client.get_paginator("list_objects_v2").paginate(
                Bucket=self._bucket, Prefix=start, Delimiter="/"
            )
            found = [entry["Prefix"] for page in pages for entry in page.get("CommonPrefixes", [])]
        return sorted(name.removeprefix(start).rstrip("/") for name in found)

    def upload(self, path: Path, key: str) -> None:
        with self._errors():
            self._files.upload_file(str(path), self._bucket, self._prefix + key)

    def download(self, key: str, path: Path) -> None:
        with self._errors():
            self._files.download_file(self._bucket, self._prefix + key, str(path))

    def delete(self, key: str) -> None:
        with self._errors():
            self._client.delete_object(Bucket=self._bucket, Key=self._prefix + key)

    def local(self, prefix: str) -> Path | None:
        return None

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except aws_errors() as error:
            raise RegistryError(f"the store {self._url} cannot be used: {error}") from error
