"""A project's webhook: found, made, and kept as it has to be."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

from pydantic import SecretStr

from segloop.labelstudio.api import Api, refused, same_url

#: The events of annotations that Label Studio 1.23 sends. START_TRAINING needs no webhook: it goes to the backend itself.
ANNOTATION_ACTIONS: Final = ("ANNOTATION_CREATED", "ANNOTATION_UPDATED", "ANNOTATIONS_CREATED", "ANNOTATIONS_DELETED")
_NOT_FOUND: Final = 404


@dataclass(frozen=True)
class EnsuredWebhook:
    """What `Webhooks.ensure` did. `changed` names the fields that were not as wanted; it holds no values."""

    id: int
    done: Literal["created", "updated", "unchanged"]
    changed: tuple[str, ...] = ()


class Webhooks:
    """Reads and sets the webhooks of projects."""

    def __init__(self, api: Api) -> None:
        self._api = api

    def all(self, project_id: int) -> list[dict[str, Any]]:
        """The webhooks of a project as Label Studio lists them, oldest first. Their `headers` hold secrets."""
        found = self._api.request("GET", "/api/webhooks/", params={"project": project_id})
        return sorted(found, key=lambda webhook: int(webhook["id"]))

    def ensure(
        self,
        project_id: int,
        url: str,
        *,
        headers: Mapping[str, SecretStr],
        actions: Collection[str] = ANNOTATION_ACTIONS,
    ) -> EnsuredWebhook:
        """Have one active webhook of a project at `url` that sends `actions`, these alone, with `headers`.

        Doing it again changes nothing. A header that somebody added under another name stays; further webhooks of
        the project at the same address, which would send everything twice, are removed.

        Raises:
            LabelStudioError: Label Studio refuses the webhook: 403 over a private address, 400 over a host without
                a dot.
        """
        here = [webhook for webhook in self.all(project_id) if same_url(webhook["url"], url)]
        if not here:
            fields = {"project": project_id, **_wanted(url, {}, headers, actions)}
            return EnsuredWebhook(int(self._api.request("POST", "/api/webhooks/", json=fields)["id"]), "created")
        webhook, *others = here
        wanted = _wanted(url, webhook.get("headers") or {}, headers, actions)
        changed = [name for name, value in wanted.items() if _comparable(webhook.get(name)) != _comparable(value)]
        if changed:
            # all fields: Label Studio takes a PATCH without actions as one that removes them
            self._api.request("PATCH", f"/api/webhooks/{webhook['id']}/", json=wanted)
        for other in others:
            self._remove(other["id"])
            changed.append("duplicate")
        return EnsuredWebhook(int(webhook["id"]), "updated" if changed else "unchanged", tuple(changed))

    def _remove(self, webhook_id: int) -> None:
        path = f"/api/webhooks/{webhook_id}/"
        response = self._api.send("DELETE", path)
        if not response.is_success and response.status_code != _NOT_FOUND:
            raise refused(self._api.url, f"DELETE {path}", response.status_code, None)


def _wanted(
    url: str, existing: Mapping[str, str], headers: Mapping[str, SecretStr], actions: Collection[str]
) -> dict[str, object]:
    own = {name.lower() for name in headers}
    others = {name: value for name, value in existing.items() if name.lower() not in own}
    return {
        "url": url,
        "is_active": True,
        "send_payload": True,
        "send_for_all_actions": False,
        "actions": sorted(actions),
        "headers": others | {name: value.get_secret_value() for name, value in headers.items()},
    }


def _comparable(value: Any) -> Any:
    return sorted(value) if isinstance(value, list) else value
