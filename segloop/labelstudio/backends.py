"""ML backends in a project's settings: this backend's own entry, its title, and its webhook."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import httpx
from pydantic import SecretStr

from segloop.errors import LabelStudioError, LabelStudioUnreachable
from segloop.labelstudio.api import Api, decoded, same_url
from segloop.labelstudio.projects import Projects
from segloop.labelstudio.webhooks import EnsuredWebhook, Webhooks

#: Header of the secret that `/webhook` accepts.
SECRET_HEADER: Final = "X-Segloop-Secret"  # noqa: S105 - the name of the header
UNCERTAINTY_SAMPLING: Final = "Uncertainty sampling"
_FORBIDDEN: Final = 403
_BAD_REQUEST: Final = 400

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


@dataclass(frozen=True)
class Refusals:
    """Why Label Studio would not take an address as a backend's, and as a webhook's; empty where it would."""

    backend: str = ""
    webhook: str = ""
    #: Which of the two it blocks because they lead to a private network.
    blocked: frozenset[str] = frozenset()


@dataclass(frozen=True)
class BackendSpec:
    """The entry that a project is to have for this backend, and the secret of its webhook."""

    url: str
    title: str
    basic_auth: tuple[str, SecretStr] | None = None
    webhook_secret: SecretStr = field(default=SecretStr(""), repr=False)
    interactive: bool = True
    #: None: whatever the entry has stays.
    extra_params: Mapping[str, object] | None = None

    def fields(self) -> dict[str, object]:
        """The fields of the entry as Label Studio names them."""
        found: dict[str, object] = {"url": self.url, "title": self.title, "is_interactive": self.interactive}
        if self.extra_params is not None:
            found["extra_params"] = self.extra_params
        if self.basic_auth is not None:
            user, password = self.basic_auth
            found |= {
                "auth_method": "BASIC_AUTH",
                "basic_auth_user": user,
                "basic_auth_pass": password.get_secret_value(),
            }
        return found


@dataclass(frozen=True)
class Connected:
    """What `Backends.connect` did: the entry, and the names of its fields that changed.

    A webhook that Label Studio refuses is None with the reason: no error, because changes are polled too.
    """

    backend: dict[str, Any]
    created: bool
    changed: tuple[str, ...]
    webhook: EnsuredWebhook | None
    webhook_problem: str | None


class Backends:
    """Finds, connects and titles ML backends."""

    def __init__(self, api: Api, projects: Projects, webhooks: Webhooks) -> None:
        self._api = api
        self._projects = projects
        self._webhooks = webhooks

    def all(self, project_id: int) -> list[dict[str, Any]]:
        """The ML backends of a project, each as Label Studio finds it now: it asks all of them for their health."""
        return list(self._api.request("GET", "/api/ml/", params={"project": project_id}))

    def find(self, project_id: int, public_url: str = "") -> dict[str, Any] | None:
        """The entry of this backend in a project: the one at `public_url`, else the only one; None if there is none.

        Raises:
            LabelStudioError: several are connected and `public_url` is empty, or none of them has it.
        """
        backends = self.all(project_id)
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
            backend = self._update(backend, {"title": version})
        project_id = backend["project"]
        model_version = self._projects.get(project_id).get("model_version")
        if model_version != version and (not model_version or model_version == before):
            self._projects.change(project_id, model_version=version)
        return backend

    def connect(self, project_id: int, spec: BackendSpec) -> Connected:
        """Connect the backend at `spec.url` to a project; doing it again updates what is there.

        Label Studio calls the backend meanwhile, so it must be up. The secret goes into a header of the
        webhook that Label Studio makes for a backend, because it sends no basic auth with annotation events.
        """
        fields = {"project": project_id, **spec.fields()}
        before = self._at(project_id, spec.url)
        backend = self._update(before, fields) if before is not None else self._add(project_id, fields)
        webhook, problem = self._connect_webhook(project_id, spec)
        changed = [] if before is None else [name for name in fields if before.get(name) != backend.get(name)]
        return Connected(backend, before is None, tuple(changed), webhook, problem)

    def refusals(self, project_id: int, backend_url: str) -> Refusals:
        """What Label Studio says of a backend's address and of its webhook's.

        It is asked with a field that it can't accept, so it adds neither; it judges the address all the same
        (ml/serializers.py, webhooks/serializers.py).
        """
        asked = {
            "backend": ("/api/ml/", {"project": project_id, "url": backend_url, "timeout": "none"}),
            "webhook": (
                "/api/webhooks/",
                {"project": project_id, "url": f"{backend_url}/webhook", "actions": ["none"]},
            ),
        }
        answers = {what: self._api.send("POST", path, json=body) for what, (path, body) in asked.items()}
        return Refusals(
            **{what: self._refusal(answer) for what, answer in answers.items()},
            blocked=frozenset(what for what, answer in answers.items() if _is_block(answer)),
        )

    def _at(self, project_id: int, url: str) -> dict[str, Any] | None:
        return next((backend for backend in self.all(project_id) if same_url(backend["url"], url)), None)

    def _add(self, project_id: int, fields: Mapping[str, object]) -> dict[str, Any]:
        try:
            return dict(self._api.request("POST", "/api/ml/", json=fields))
        except LabelStudioUnreachable:
            raise
        except LabelStudioError:
            # With half of its address protection off, Label Studio adds the backend and answers 403 over the webhook.
            backend = self._at(project_id, str(fields["url"]))
            if backend is None:
                raise
            return backend

    def _update(self, backend: dict[str, Any], changes: Mapping[str, object]) -> dict[str, Any]:
        kept = {name: backend[name] for name in _KEPT_FIELDS if backend.get(name) is not None}
        if backend.get("auth_method") == "BASIC_AUTH":
            # An empty password keeps the stored one.
            kept |= {
                "auth_method": "BASIC_AUTH",
                "basic_auth_user": backend.get("basic_auth_user"),
                "basic_auth_pass": "",
            }
        return dict(self._api.request("PATCH", f"/api/ml/{backend['id']}", json={**kept, **changes}))

    def _connect_webhook(self, project_id: int, spec: BackendSpec) -> tuple[EnsuredWebhook | None, str | None]:
        url = f"{spec.url.rstrip('/')}/webhook"
        headers = {SECRET_HEADER: spec.webhook_secret} if spec.webhook_secret.get_secret_value() else {}
        try:
            return self._webhooks.ensure(project_id, url, headers=headers), None
        except LabelStudioUnreachable:
            raise
        except LabelStudioError as error:
            return None, str(error)

    def _refusal(self, answer: httpx.Response) -> str:
        body = _object(answer)
        if answer.status_code == _BAD_REQUEST:
            return " ".join(map(str, (body.get("validation_errors") or {}).get("url", ())))
        if answer.status_code in (401, 404):
            decoded(self._api.url, "asking about an address", answer)
        return str(body.get("detail") or f"it answered {answer.status_code}")


def _object(answer: httpx.Response) -> dict[str, Any]:
    try:
        body = answer.json()
    except ValueError:
        return {}
    return body if isinstance(body, dict) else {}


def _is_block(answer: httpx.Response) -> bool:
    """Whether a refusal is of the address: 403 is also the answer to a user without the right to change a project."""
    return answer.status_code == _FORBIDDEN and "network address" in str(_object(answer).get("detail"))
