"""Folders in S3 that are named by their content, so that each is uploaded once."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from segloop.aws.clients import CONNECTIONS, MISSING, Clients, explained, none_if
from segloop.errors import SettingsError

#: Files below this size are sent whole; boto3's transfers, with threads of their own, pay for larger ones.
_WHOLE_BYTES = 64 * 2**20


@dataclass(frozen=True)
class Folder:
    """Files for a prefix `key/` of the bucket; `last` is written when all the others are there, and so says that they are."""

    key: str
    files: Mapping[str, Path]
    last: str


def digest_of(files: Mapping[str, Path]) -> str:
    """sha256 in hex over names and contents."""
    total = hashlib.sha256()
    for name in sorted(files):
        with files[name].open("rb") as file:
            total.update(f"{name}\0{hashlib.file_digest(file, 'sha256').hexdigest()}\n".encode())
    return total.hexdigest()


def split_s3(url: str, setting: str) -> tuple[str, str]:
    """Bucket and key of s3://bucket/key.

    Raises:
        SettingsError: it is no such address.
    """
    bucket, _, key = url.removeprefix("s3://").partition("/")
    if not url.startswith("s3://") or not bucket:
        raise SettingsError(f"SEGLOOP_{setting.upper()} is {url!r}: write s3://bucket/prefix.")
    return bucket, key


class Bucket:
    """The bucket and prefix of the setting `sagemaker_s3`.

    Raises (every method):
        TrainingError: AWS refused.
        TrainerUnavailable: S3 cannot be reached now.
    """

    def __init__(self, clients: Clients, url: str) -> None:
        self._client = clients.s3
        self.name, prefix = split_s3(url, "sagemaker_s3")
        self._prefix = f"{prefix.strip('/')}/" if prefix.strip("/") else ""

    def uri(self, key: str) -> str:
        """Address of a key, or of a folder where it ends with a slash."""
        return f"s3://{self.name}/{self._prefix}{key}"

    def upload(self, folder: Folder, *, earlier: str = "") -> int:
        """Put a folder there unless it is there; the number of files sent.

        What the folder `earlier/` has under the same names is copied within S3: the names must tell the content.
        """
        if self._has(f"{folder.key}/{folder.last}"):
            return 0
        there = self._names(earlier) if earlier else frozenset()
        names = [name for name in folder.files if name != folder.last]
        with ThreadPoolExecutor(CONNECTIONS) as pool:
            copied = [name for name in names if name in there]
            sent = [name for name in names if name not in there]
            # to list the results raises the first error
            list(pool.map(lambda name: self._copy(f"{earlier}/{name}", f"{folder.key}/{name}"), copied))
            list(pool.map(lambda name: self.put(f"{folder.key}/{name}", folder.files[name]), sent))
        self.put(f"{folder.key}/{folder.last}", folder.files[folder.last])
        return len(sent) + 1

    def download(self, key: str, names: Sequence[str], folder: Path) -> int:
        """Get files of a folder `key/`, by names that nobody else chose; how many."""
        for parent in {(folder / name).parent for name in names}:
            parent.mkdir(parents=True, exist_ok=True)
        with ThreadPoolExecutor(CONNECTIONS) as pool:
            # to list the results raises the first error
            return len(list(pool.map(lambda name: self._get(f"{key}/{name}", folder / name), names)))

    def put(self, key: str, content: Path | bytes) -> None:
        """Write one object."""
        with explained("s3:PutObject"):
            if isinstance(content, bytes):
                self._client.put_object(Bucket=self.name, Key=self._prefix + key, Body=content)
            elif content.stat().st_size < _WHOLE_BYTES:
                with content.open("rb") as file:
                    self._client.put_object(Bucket=self.name, Key=self._prefix + key, Body=file)
            else:
                self._client.upload_file(str(content), self.name, self._prefix + key)

    def read(self, key: str) -> bytes | None:
        """A small object; None if there is none."""
        with explained("s3:GetObject"):
            found = none_if(MISSING, self._client.get_object, Bucket=self.name, Key=self._prefix + key)
            return None if found is None else found["Body"].read()

    def _get(self, key: str, path: Path) -> None:
        with explained("s3:GetObject"):
            self._client.download_file(self.name, self._prefix + key, str(path))

    def _has(self, key: str) -> bool:
        with explained("s3:GetObject"):
            return none_if(MISSING, self._client.head_object, Bucket=self.name, Key=self._prefix + key) is not None

    def _names(self, folder: str) -> frozenset[str]:
        start = f"{self._prefix}{folder}/"
        with explained("s3:ListBucket"):
            pages = self._client.get_paginator("list_objects_v2").paginate(Bucket=self.name, Prefix=start)
            return frozenset(found["Key"].removeprefix(start) for page in pages for found in page.get("Contents", []))

    def _copy(self, source: str, key: str) -> None:
        with explained("s3:PutObject"):
            self._client.copy_object(
                Bucket=self.name,
                Key=self._prefix + key,
                CopySource={"Bucket": self.name, "Key": self._prefix + source},
            )
