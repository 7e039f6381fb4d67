"""What Label Studio says of a project and of what is connected to it, as far as `segloop doctor` looks at it."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict

from segloop.payloads import project_key

#: Text that Label Studio gives as null where there is none.
Text = Annotated[str, BeforeValidator(lambda value: "" if value is None else value)]


class _Entry(BaseModel):
    model_config = ConfigDict(frozen=True)


class ProjectEntry(_Entry):
    """A project; `model_version` is the version whose predictions it shows."""

    id: int
    title: Text = ""
    label_config: Text = ""
    model_version: Text = ""
    show_collab_predictions: bool = True
    created_at: str | None = None

    @property
    def key(self) -> str:
        """The key that segloop knows the project by."""
        return project_key({"id": self.id, "created_at": self.created_at})


class BackendEntry(_Entry):
    """An ML backend of a project: `state` is CO (connected), DI (no answer), ER (an error) or another."""

    url: str
    state: str
    title: Text = ""
    model_version: Text = ""
    error_message: Text = ""
    extra_params: Any = None


class WebhookEntry(_Entry):
    """A webhook of a project. Its `headers` hold secrets."""

    url: str
    is_active: bool
    send_payload: bool
    send_for_all_actions: bool
    actions: tuple[str, ...]
    headers: Annotated[dict[str, str], BeforeValidator(lambda value: value or {})] = {}


class StorageEntry(_Entry):
    """An S3 source storage of a project; with `presign` browsers fetch its files from S3."""

    bucket: str
    title: Text = ""
    region_name: Text = ""
    s3_endpoint: Text = ""
    presign: bool = False


class TaskEntry(_Entry):
    """A task, its addresses not resolved."""

    id: int
    data: dict[str, Any]
