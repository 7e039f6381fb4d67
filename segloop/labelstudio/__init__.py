"""Label Studio over its API: credentials, a project's tasks, predictions, and the backend's own entry there."""

from __future__ import annotations

from segloop.labelstudio.annotated import Annotated, Totals
from segloop.labelstudio.api import Credentials
from segloop.labelstudio.backends import SECRET_HEADER, UNCERTAINTY_SAMPLING, Backends
from segloop.labelstudio.inspection import Inspection, Refusals
from segloop.labelstudio.storages import EnsuredStorage, Keys, SourceStorage, Storages, TargetStorageEntry
from segloop.labelstudio.target import TargetStorage
from segloop.labelstudio.views import Views
from segloop.labelstudio.webhooks import ANNOTATION_ACTIONS, EnsuredWebhook
from segloop.settings import Settings

__all__ = [
    "ANNOTATION_ACTIONS",
    "SECRET_HEADER",
    "UNCERTAINTY_SAMPLING",
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


class LabelStudio(Annotated, Storages, Views, Backends, Inspection):
    """What segloop asks of Label Studio and tells it. Thread-safe; `close()` when done.

    Every method raises LabelStudioError where Label Studio refuses a request, and its subclass
    LabelStudioUnreachable where it cannot be reached now.
    """

    @classmethod
    def from_settings(cls, settings: Settings) -> LabelStudio:
        """The Label Studio that `settings` name."""
        url = settings.label_studio_url
        return cls(url, Credentials(url, settings.label_studio_api_key))
