"""A Label Studio project connected to a route: its two storages, its description in the artifacts bucket, its webhook."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from pydantic import SecretStr

from segloop.aws.clients import Clients, explained
from segloop.aws.route.stack import Stack
from segloop.aws.uploads import Bucket
from segloop.errors import LabelStudioError, LabelStudioUnreachable, SettingsError, StackError
from segloop.labelstudio import SECRET_HEADER, Keys, LabelStudio, SourceStorage, TargetStorageEntry
from segloop.payloads import project_key
from segloop.settings import Settings

#: The images that become tasks, as Label Studio matches them with whole keys.
IMAGES = r"(?i).*\.(jpe?g|png|webp|bmp|gif|tiff?)$"
_PRESIGN_MINUTES = 32767


@dataclass(frozen=True)
class Storages:
    """How Label Studio reaches the buckets.

    Args:
        keys: the access key that it gets.
        endpoint: address of an S3 that is not AWS's. Empty: AWS's.
        regex: which keys of the source bucket become tasks.
        presign: whether browsers load images from S3 by signed addresses; otherwise through Label Studio.
        presign_minutes: how long such an address is valid.

    Raises:
        SettingsError: a value that cannot be used.
    """

    keys: Keys = field(default_factory=Keys)
    endpoint: str = ""
    regex: str = IMAGES
    presign: bool = True
    presign_minutes: int = 60

    def __post_init__(self) -> None:
        if not 1 <= self.presign_minutes <= _PRESIGN_MINUTES:
            raise SettingsError(f"--presign-minutes {self.presign_minutes}: use 1 to {_PRESIGN_MINUTES}")


def keys_of(settings: Settings) -> Keys:
    """The access key of the settings.

    Raises:
        SettingsError: one half of it is missing.
    """
    if bool(settings.storage_access_key_id) != bool(settings.storage_secret_access_key.get_secret_value()):
        raise SettingsError(
            "SEGLOOP_STORAGE_ACCESS_KEY_ID and SEGLOOP_STORAGE_SECRET_ACCESS_KEY go together: set both, or none."
        )
    return Keys(settings.storage_access_key_id, settings.storage_secret_access_key)


@dataclass(frozen=True)
class Connected:
    """What was done to a part of the connection.

    Args:
        place: where the part is.
        changed: what an update changed.
        synced: of a storage, the new tasks or the written annotations.
    """

    what: Literal["source storage", "target storage", "description", "webhook"]
    done: Literal["created", "updated", "unchanged"]
    place: str
    changed: tuple[str, ...] = ()
    synced: int | None = None


class Connection:
    """A project's connection to the route `name`.

    Raises (every method):
        StackError: there is no such route.
        LabelStudioError: Label Studio refuses something; LabelStudioUnreachable, it cannot be reached now.
        TrainingError: AWS refused; TrainerUnavailable, it cannot be reached now.
    """

    def __init__(
        self, clients: Clients, name: str, label_studio: LabelStudio, project_id: int, storages: Storages
    ) -> None:
        stack = Stack(clients, name).describe()
        self._outputs, self._parameters = stack.outputs, stack.parameters
        if "WebhookUrl" not in self._outputs:
            raise StackError(
                f"there is no route {name} in {clients.region}: deploy it first, by segloop aws deploy --name {name}"
            )
        self._clients, self._name, self._label_studio, self._storages = clients, name, label_studio, storages
        self._project = label_studio.projects.get(project_id)
        self._id = project_id
        self._prefix = f"projects/{project_id}"

    def make(self, webhook_url: str = "") -> list[Connected]:
        """Connect the project; doing it again changes what differs and syncs.

        Args:
            webhook_url: address of the webhook, in place of the route's own: a domain of one's own.

        Returns:
            What was done, in order.
        """
        self._open_prefix()
        source, target = self._source(), self._target()
        images = self._storage("source storage", source)
        # before the target storage: each annotation that its sync writes is counted by the description
        description = self._description()
        annotations = self._storage("target storage", target)
        return [images, annotations, description, self._webhook(webhook_url or self._outputs["WebhookUrl"])]

    def _source(self) -> SourceStorage:
        given = self._storages
        return SourceStorage(
            title=f"segloop {self._name}: images",
            bucket=self._outputs["SourceBucketName"],
            prefix=self._prefix,
            region_name=self._clients.region,
            regex_filter=given.regex,
            s3endpoint=given.endpoint,
            presign=given.presign,
            presign_ttl=given.presign_minutes,
        )

    def _target(self) -> TargetStorageEntry:
        return TargetStorageEntry(
            title=f"segloop {self._name}: annotations",
            bucket=self._outputs["TargetBucketName"],
            prefix=self._prefix,
            region_name=self._clients.region,
            s3endpoint=self._storages.endpoint,
        )

    def _storage(
        self, what: Literal["source storage", "target storage"], storage: SourceStorage | TargetStorageEntry
    ) -> Connected:
        ensured = self._label_studio.storages.ensure(self._id, storage, self._storages.keys)
        synced = self._label_studio.storages.sync(ensured.id, storage)
        return Connected(what, ensured.done, f"s3://{storage.bucket}/{storage.prefix}/", ensured.changed, synced)

    def _open_prefix(self) -> None:
        """Label Studio takes no source storage whose prefix has no object: a folder's marker is one, and no task."""
        bucket = self._outputs["SourceBucketName"]
        with explained("s3:ListBucket"):
            found = self._clients.s3.list_objects_v2(Bucket=bucket, Prefix=f"{self._prefix}/", MaxKeys=1)
        if not found.get("KeyCount"):
            with explained("s3:PutObject"):
                self._clients.s3.put_object(Bucket=bucket, Key=f"{self._prefix}/", Body=b"")

    def _description(self) -> Connected:
        bucket, key = (
            Bucket(self._clients, f"s3://{self._outputs['ArtifactsBucketName']}"),
            f"{self._prefix}/project.json",
        )
        content = {
            "project": self._id,
            "key": project_key(self._project),
            "title": self._project.get("title", ""),
            "label_config": self._project.get("label_config", ""),
            "settings": self._settings(),
            "source": f"s3://{self._outputs['SourceBucketName']}/{self._prefix}/",
            "target": f"s3://{self._outputs['TargetBucketName']}/{self._prefix}/",
        }
        data = bucket.read(key)
        before = None if data is None else _object(data)
        changed = [name for name, value in content.items() if not before or before.get(name) != value]
        if changed:
            bucket.put(key, json.dumps(content, ensure_ascii=False, indent=1).encode())
        if before is None:
            return Connected("description", "created", bucket.uri(key))
        return Connected("description", "updated" if changed else "unchanged", bucket.uri(key), tuple(changed))

    def _settings(self) -> object:
        """The project's own settings, as its ML backend has them; none where it is not known which backend is segloop."""
        try:
            backend = self._label_studio.backends.find(self._id)
        except LabelStudioUnreachable:
            raise
        except LabelStudioError:
            return None
        return None if backend is None else backend.get("extra_params")

    def _webhook(self, url: str) -> Connected:
        with explained("secretsmanager:GetSecretValue"):
            arn = self._outputs["WebhookSecretArn"]
            secret = SecretStr(self._clients.client("secretsmanager").get_secret_value(SecretId=arn)["SecretString"])
        ensured = self._label_studio.webhooks.ensure(
            self._id, url, headers={SECRET_HEADER: secret}, actions=actions_of(self._parameters)
        )
        return Connected("webhook", ensured.done, url, ensured.changed)


def _object(data: bytes) -> dict[str, object]:
    """A JSON object; empty where the data is none."""
    try:
        found = json.loads(data)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def actions_of(parameters: Mapping[str, str]) -> tuple[str, ...]:
    """The events that a route with these parameters of its stack makes use of."""
    actions = ["ANNOTATION_CREATED", "ANNOTATIONS_CREATED"]
    if parameters.get("CountUpdates") == "true":
        actions.append("ANNOTATION_UPDATED")
    if parameters.get("EndpointName"):
        actions.append("TASKS_CREATED")
    return tuple(actions)
