"""Questions that change nothing: what Label Studio is, who asks, and what it would refuse."""

from __future__ import annotations

import base64
from dataclasses import dataclass
from typing import Any, Final

import httpx

from segloop.labelstudio.api import Api, decoded, refused

_FORBIDDEN: Final = 403
_BAD_REQUEST: Final = 400


@dataclass(frozen=True)
class Refusals:
    """Why Label Studio would not take an address as a backend's, and as a webhook's; empty where it would."""

    backend: str = ""
    webhook: str = ""
    #: Which of the two it blocks because they lead to a private network.
    blocked: frozenset[str] = frozenset()


class Inspection(Api):
    """Asks Label Studio about itself and about a project."""

    def release(self) -> str:
        """Its version, such as "1.23.2"; empty where it does not say. Needs no token."""
        body = self._request("GET", "/api/version", auth=None)
        return str(body.get("release") or "") if isinstance(body, dict) else ""

    def whoami(self) -> str:
        """The e-mail address of the token's user."""
        return str(self._request("GET", "/api/current-user/whoami").get("email") or "")

    def backends(self, project_id: int) -> list[dict[str, Any]]:
        """The ML backends of a project, each as Label Studio finds it now: it asks all of them for their health."""
        found: list[dict[str, Any]] = self._request("GET", "/api/ml/", params={"project": project_id})
        return found

    def s3_storages(self, project_id: int) -> list[dict[str, Any]]:
        """The S3 source storages of a project."""
        found: list[dict[str, Any]] = self._request("GET", "/api/storages/s3/", params={"project": project_id})
        return found

    def first_task(self, project_id: int) -> dict[str, Any] | None:
        """A task of a project, `{"id", "data"}` with addresses not resolved; None if it has none."""
        params = {"project": project_id, "page": 1, "page_size": 1, "fields": "task_only", "resolve_uri": "false"}
        tasks = self._request("GET", "/api/tasks/", params=params)["tasks"]
        return {"id": tasks[0]["id"], "data": tasks[0]["data"]} if tasks else None

    def resolved(self, task_id: int, file_uri: str) -> str:
        """Where Label Studio sends a browser that wants a file of a cloud storage: a signed URL (a secret), or empty
        where it serves the file itself."""
        encoded = base64.urlsafe_b64encode(file_uri.encode()).decode()
        response = self._send("GET", f"/tasks/{task_id}/resolve/", params={"fileuri": encoded}, follow_redirects=False)
        if response.is_redirect:
            return str(response.headers["location"])
        if not response.is_success:
            raise refused(self.url, f"resolving a file of task {task_id}", response.status_code, None)
        return ""

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
        answers = {what: self._send("POST", path, json=body) for what, (path, body) in asked.items()}
        return Refusals(
            **{what: self._refusal(answer) for what, answer in answers.items()},
            blocked=frozenset(what for what, answer in answers.items() if _is_block(answer)),
        )

    def _refusal(self, answer: httpx.Response) -> str:
        body = _object(answer)
        if answer.status_code == _BAD_REQUEST:
            return " ".join(map(str, (body.get("validation_errors") or {}).get("url", ())))
        if answer.status_code in (401, 404):
            decoded(self.url, "asking about an address", answer)
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
