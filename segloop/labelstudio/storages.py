"""A project's S3 storages in Label Studio: found, made, kept as they have to be, and synced."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Any, Final, Literal

import httpx
from pydantic import SecretStr

from segloop.errors import LabelStudioError
from segloop.labelstudio.api import Api, refused, unreachable

_WAIT_S: Final = 600.0
_POLL_S: Final = 1.0
_UNDER_WAY: Final = ("initialized", "queued", "in_progress")

Done = Literal["created", "updated", "unchanged"]


@dataclass(frozen=True)
class SourceStorage:
    """Where a project's images come from, each object a task. `presign_ttl` is in minutes; an empty endpoint is AWS's own."""

    title: str
    bucket: str
    prefix: str
    region_name: str
    regex_filter: str
    s3endpoint: str = ""
    presign: bool = True
    presign_ttl: int = 60
    use_blob_urls: bool = True
    recursive_scan: bool = True


@dataclass(frozen=True)
class TargetStorageEntry:
    """Where Label Studio writes a project's annotations, each an object whose key is the prefix, a slash and its id."""

    title: str
    bucket: str
    prefix: str
    region_name: str
    s3endpoint: str = ""
    can_delete_objects: bool = True


@dataclass(frozen=True)
class Keys:
    """An access key for a storage; without an id Label Studio uses its machine's own role."""

    id: str = ""
    secret: SecretStr = field(default=SecretStr(""), repr=False)

    def fields(self) -> dict[str, str]:
        """The key as fields of a storage; none without an id."""
        if not self.id:
            return {}
        return {"aws_access_key_id": self.id, "aws_secret_access_key": self.secret.get_secret_value()}


@dataclass(frozen=True)
class EnsuredStorage:
    """What `Storages.ensure` did. `changed` names the fields that were not as wanted; a key is stored anew without being one."""

    id: int
    done: Done
    changed: tuple[str, ...] = ()


class Storages:
    """Reads and sets the S3 storages of projects."""

    def __init__(self, api: Api) -> None:
        self._api = api

    def sources(self, project_id: int) -> list[dict[str, Any]]:
        """The S3 source storages of a project."""
        return list(self._api.request("GET", "/api/storages/s3/", params={"project": project_id}))

    def ensure(self, project_id: int, wanted: SourceStorage | TargetStorageEntry, keys: Keys) -> EnsuredStorage:
        """Have a storage as wanted: the one of its title, or else of its bucket and prefix, or a new one.

        Label Studio looks into the bucket each time, also where nothing is changed. It shows no access key, so one that
        is given is stored again.

        Raises:
            LabelStudioError: it refuses, or cannot reach the bucket with the key.
        """
        client = self._client(wanted)
        fields = asdict(wanted)
        with self._named_errors(f"looking up the storages of project {project_id}"):
            found = _matching(client.list(project=project_id), wanted)
        if found is None:
            with self._named_errors(f"making the storage {wanted.title}"):
                return EnsuredStorage(int(client.create(project=project_id, **fields, **keys.fields()).id), "created")
        changed = tuple(name for name, value in fields.items() if (getattr(found, name) or type(value)()) != value)
        with self._named_errors(f"setting the storage {wanted.title}"):
            if changed or keys.id:
                client.update(found.id, project=project_id, **fields, **keys.fields())
            else:
                # with an id, Label Studio takes the key that it has
                client.validate(id=found.id, project=project_id, **fields)
        return EnsuredStorage(int(found.id), "updated" if changed else "unchanged", changed)

    def sync(self, storage_id: int, wanted: SourceStorage | TargetStorageEntry) -> int:
        """Sync a storage and wait for the end; how many tasks are new, or how many annotations were written.

        Raises:
            LabelStudioError: the sync failed; the text has Label Studio's reason.
        """
        client = self._client(wanted)
        deadline = time.monotonic() + _WAIT_S
        with self._named_errors(f"syncing the storage {wanted.title}"):
            synced = client.sync(storage_id)
            while synced.status in _UNDER_WAY:
                if time.monotonic() > deadline:
                    raise LabelStudioError(
                        f"the storage {wanted.title} is {synced.status} for more than {_WAIT_S:.0f} s"
                    )
                time.sleep(_POLL_S)
                synced = client.get(storage_id)
        if synced.status != "completed":
            reason = (synced.traceback or "no reason given").strip().splitlines()[-1]
            raise LabelStudioError(f"the sync of the storage {wanted.title} is {synced.status}: {reason[:500]}")
        return int(synced.last_sync_count or 0)

    def _client(self, wanted: SourceStorage | TargetStorageEntry) -> Any:
        kind = self._sdk.import_storage if isinstance(wanted, SourceStorage) else self._sdk.export_storage
        return kind.s3

    @cached_property
    def _sdk(self) -> Any:
        # Imported here: the SDK takes seconds to import, and a server process has no need of it.
        from label_studio_sdk.client import LabelStudio as Sdk

        # The SDK joins paths as a browser does: without the slash it would drop Label Studio's own path. The client
        # authenticates, so that there is one place for it: the key is a placeholder.
        return Sdk(base_url=f"{self._api.url}/", api_key="-", httpx_client=self._api.http)  # type: ignore[no-untyped-call]

    @contextmanager
    def _named_errors(self, action: str) -> Iterator[None]:
        from label_studio_sdk.core.api_error import ApiError

        try:
            yield
        except ApiError as error:
            raise refused(self._api.url, action, error.status_code or 0, error.body) from error
        except httpx.HTTPError as error:
            raise unreachable(self._api.url, action, error) from error


def _matching(found: list[Any], wanted: SourceStorage | TargetStorageEntry) -> Any:
    place = (wanted.bucket, wanted.prefix.rstrip("/"))
    by_title = [storage for storage in found if storage.title == wanted.title]
    by_place = [storage for storage in found if (storage.bucket, (storage.prefix or "").rstrip("/")) == place]
    return next(iter([*by_title, *by_place]), None)
