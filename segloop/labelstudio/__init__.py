"""Label Studio over its API: credentials, a project's tasks, predictions, and the backend's own entry there."""

from __future__ import annotations

from segloop.labelstudio.annotations import Annotations
from segloop.labelstudio.api import TIMEOUT_S, Api, Credentials
from segloop.labelstudio.backends import (
    SECRET_HEADER,
    UNCERTAINTY_SAMPLING,
    Backends,
    BackendSpec,
    Connected,
    Refusals,
)
from segloop.labelstudio.imports import Imports
from segloop.labelstudio.predictions import Predictions
from segloop.labelstudio.projects import Projects
from segloop.labelstudio.storages import EnsuredStorage, Keys, SourceStorage, Storages, TargetStorageEntry
from segloop.labelstudio.target import TargetStorage
from segloop.labelstudio.tasks import Tasks, Totals
from segloop.labelstudio.views import Views
from segloop.labelstudio.webhooks import ANNOTATION_ACTIONS, EnsuredWebhook, Webhooks
from segloop.settings import Settings

__all__ = [
    "ANNOTATION_ACTIONS",
    "SECRET_HEADER",
    "UNCERTAINTY_SAMPLING",
    "BackendSpec",
    "Connected",
    "Credentials",
    "EnsuredStorage",
    "EnsuredWebhook",
    "Keys",
    "LabelStudio",
    "Refusals",
    "SourceStorage",
    "TargetStorage",
    "TargetStorageEntry",
    "Totals",
]


class LabelStudio:
    """What segloop reads from Label Studio and writes to it: a part for each kind of thing. Thread-safe; `close()` it.

    Every method raises LabelStudioError where Label Studio refuses a request, and its subclass
    LabelStudioUnreachable where it cannot be reached now.
    """

    def __init__(self, url: str, credentials: Credentials, timeout_s: float = TIMEOUT_S) -> None:
        self.api = Api(url, credentials, timeout_s)
        self.projects = Projects(self.api)
        self.tasks = Tasks(self.api)
        self.predictions = Predictions(self.api)
        self.annotations = Annotations(self.api)
        self.imports = Imports(self.api)
        self.views = Views(self.api)
        self.storages = Storages(self.api)
        self.webhooks = Webhooks(self.api)
        self.backends = Backends(self.api, self.projects, self.webhooks)

    @classmethod
    def from_settings(cls, settings: Settings, timeout_s: float = TIMEOUT_S) -> LabelStudio:
        """The Label Studio that `settings` name."""
        url = settings.label_studio_url
        return cls(url, Credentials(url, settings.label_studio_api_key), timeout_s)

    @property
    def url(self) -> str:
        """Its address, without a slash at the end."""
        return self.api.url

    def release(self) -> str:
        """Its version, such as "1.23.2"; empty where it does not say. Needs no token."""
        body = self.api.request("GET", "/api/version", auth=None)
        return str(body.get("release") or "") if isinstance(body, dict) else ""

    def whoami(self) -> str:
        """The e-mail address of the token's user."""
        return str(self.api.request("GET", "/api/current-user/whoami").get("email") or "")

    def close(self) -> None:
        """Close the connections."""
        self.api.http.close()
