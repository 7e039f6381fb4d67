"""The backend's own entry in a project's settings: its title, its webhook, the project's sampling."""

from __future__ import annotations

from typing import Any, Final

from pydantic import SecretStr

from segloop.errors import LabelStudioError, LabelStudioUnreachable
from segloop.labelstudio.api import same_url
from segloop.labelstudio.webhooks import EnsuredWebhook, Webhooks

#: Header of the secret that `/webhook` accepts.
SECRET_HEADER: Final = "X-Segloop-Secret"  # noqa: S105 - the name of the header
UNCERTAINTY_SAMPLING: Final = "Uncertainty sampling"

#: What a PATCH of a backend must repeat: Label Studio calls the backend with what the request holds, not with what it stored.
_KEPT_FIELDS: Final = (
    "url",
    "project",
    "title",
    "description",
    "is_interactive",
    "extra_params",
    "timeout",
    "auto_update",
)


class Backends(Webhooks):
    """Finds, connects and titles ML backends."""

    def find_backend(self, project_id: int, public_url: str = "") -> dict[str, Any] | None:
        """The ML backend entry of this segloop in a project: the one at `public_url`, else the only one; None if there is none.

        Raises:
            LabelStudioError: several are connected and `public_url` is empty, or none of them has it.
        """
        backends: list[dict[str, Any]] = self._request("GET", "/api/ml/", params={"project": project_id})
        if not backends:
            return None
        here = [backend for backend in backends if not public_url or same_url(backend["url"], public_url)]
        if len(here) == 1 or (here and public_url):
            return here[-1]
        urls = ", ".join(backend["url"] for backend in backends)
        raise LabelStudioError(
            f"project {project_id} has ML backends at {urls}: set SEGLOOP_PUBLIC_URL to the one that is this segloop"
        )

    def set_title(self, backend: dict[str, Any], version: str) -> dict[str, Any]:
        """Title a backend entry with the version it serves, and keep all its other fields; the entry as it is now.

        The project's model version follows where it was empty or the old title, because Label Studio filters
        scores by it. Doing it again changes nothing.
        """
        before = backend.get("title")
        if before != version:
            backend = self._update_backend(backend, {"title": version})
        project_id = backend["project"]
        model_version = self.project(project_id).get("model_version")
        if model_version != version and (not model_version or model_version == before):
            self.change_project(project_id, model_version=version)
        return backend

    def _update_backend(self, backend: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
        kept = {name: backend[name] for name in _KEPT_FIELDS if backend.get(name) is not None}
        if backend.get("auth_method") == "BASIC_AUTH":
            # An empty password keeps the stored one.
            kept |= {
                "auth_method": "BASIC_AUTH",
                "basic_auth_user": backend.get("basic_auth_user"),
                "basic_auth_pass": "",
            }
        updated: dict[str, Any] = self._request("PATCH", f"/api/ml/{backend['id']}", json=kept | changes)
        return updated

    def connect(
        self,
        project_id: int,
        backend_url: str,
        *,
        title: str,
        basic_auth: tuple[str, SecretStr] | None = None,
        webhook_secret: SecretStr | None = None,
        interactive: bool = True,
        extra_params: dict[str, Any] | None = None,
        uncertainty_sampling: bool = False,
    ) -> dict[str, Any]:
        """Connect the backend at `backend_url` to a project; doing it again updates what is there.

        Label Studio calls the backend meanwhile, so it must be up. The secret goes into a header of the
        webhook that Label Studio makes for a backend, because it sends no basic auth with annotation events.

        Returns:
            `{"backend": entry, "created": bool, "changed": names of the entry's fields, "webhook": id or None,
            "webhook_done": EnsuredWebhook or None, "webhook_problem": str or None, "sampling": str}`; a webhook that
            Label Studio refuses is no error, because changes are polled too.
        """
        fields: dict[str, Any] = {
            "url": backend_url,
            "project": project_id,
            "title": title,
            "is_interactive": interactive,
        }
        if extra_params is not None:
            fields["extra_params"] = extra_params
        if basic_auth is not None:
            user, password = basic_auth
            fields |= {
                "auth_method": "BASIC_AUTH",
                "basic_auth_user": user,
                "basic_auth_pass": password.get_secret_value(),
            }
        before = self._backend_at(project_id, backend_url)
        backend = self._update_backend(before, fields) if before is not None else self._add_backend(project_id, fields)
        webhook, problem = self._connect_webhook(project_id, backend_url, webhook_secret)
        project: dict[str, Any] = {}
        if uncertainty_sampling:
            project = self.change_project(project_id, sampling=UNCERTAINTY_SAMPLING)
        return {
            "backend": backend,
            "created": before is None,
            "changed": [name for name in fields if before is not None and before.get(name) != backend.get(name)],
            "webhook": None if webhook is None else webhook.id,
            "webhook_done": webhook,
            "webhook_problem": problem,
            "sampling": (project or self.project(project_id)).get("sampling"),
        }

    def change_project(self, project_id: int, **fields: Any) -> dict[str, Any]:
        """Set fields of a project, such as `sampling` or `model_version`; the project as it is now."""
        project: dict[str, Any] = self._request("PATCH", f"/api/projects/{project_id}/", json=fields)
        return project

    def _backend_at(self, project_id: int, url: str) -> dict[str, Any] | None:
        backends: list[dict[str, Any]] = self._request("GET", "/api/ml/", params={"project": project_id})
        return next((backend for backend in backends if same_url(backend["url"], url)), None)

    def _add_backend(self, project_id: int, fields: dict[str, Any]) -> dict[str, Any]:
        try:
            added: dict[str, Any] = self._request("POST", "/api/ml/", json=fields)
        except LabelStudioUnreachable:
            raise
        except LabelStudioError:
            # With half of its address protection off, Label Studio adds the backend and answers 403 over the webhook.
            backend = self._backend_at(project_id, fields["url"])
            if backend is None:
                raise
            return backend
        return added

    def _connect_webhook(
        self, project_id: int, backend_url: str, secret: SecretStr | None
    ) -> tuple[EnsuredWebhook | None, str | None]:
        url = f"{backend_url.rstrip('/')}/webhook"
        headers = {SECRET_HEADER: secret} if secret is not None and secret.get_secret_value() else {}
        try:
            return self.ensure_webhook(project_id, url, headers=headers), None
        except LabelStudioUnreachable:
            raise
        except LabelStudioError as error:
            return None, str(error)
