"""Label Studio's API, as far as pre-labelling needs it."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from typing import Any
from urllib.parse import urlencode

from http_requests import request

_TIMEOUT_S = 20.0
# An access token lives 300 s.
_TOKEN_S = 240.0
_UPLOADS = "/data/upload/"
_JSON = {"Content-Type": "application/json"}

Json = dict[str, Any]


class LabelStudio:
    """Requests to a Label Studio at an address.

    Args:
        token: gives a personal access token, which is exchanged for one that lives minutes, or a legacy token.
        clock: seconds that go on.
    """

    def __init__(self, url: str, token: Callable[[], str], *, clock: Callable[[], float] = time.monotonic) -> None:
        self._url, self._token, self._clock = url.rstrip("/"), token, clock
        self._access: tuple[str, str, float] = ("", "", float("-inf"))

    def label_config(self, project: int) -> str:
        """The label config of a project.

        Raises:
            Failed (http_requests): Label Studio does not answer, or refuses; so do the other methods.
        """
        return str(self._json(f"/api/projects/{project}/")["label_config"])

    def unpredicted(self, project: int, tasks: Sequence[int]) -> list[Json]:
        """Those of some tasks that are there and have no prediction: `{"id", "data"}` of each, with addresses as they are stored."""
        anyone = [_filter("id", number) for number in tasks]
        query = {"filters": {"conjunction": "or", "items": anyone}, "ordering": ["tasks:id"]}
        arguments = {
            "project": project,
            "query": json.dumps(query),
            "page": 1,
            "page_size": len(tasks),
            "fields": "task_only",
            "resolve_uri": "false",
        }
        found = self._json(f"/api/tasks/?{urlencode(arguments)}")["tasks"]
        return [{"id": task["id"], "data": task["data"]} for task in found if not task.get("total_predictions")]

    def store(self, prediction: Json) -> None:
        """Store a prediction: `{"task", "result", "score", "model_version"}`."""
        self._json("/api/predictions/", prediction)

    def upload(self, address: str, most: int) -> bytes | None:
        """A file that was uploaded to Label Studio, that many bytes at the most; None for other addresses."""
        path = address.removeprefix(self._url)
        if not path.startswith(_UPLOADS) or ".." in path:
            return None
        return request(f"{self._url}{path}", headers=self._headers(), timeout_s=_TIMEOUT_S, most=most)

    def _json(self, path: str, body: object = None) -> Any:
        content = None if body is None else json.dumps(body).encode()
        headers = {**_JSON, **self._headers()}
        return json.loads(request(f"{self._url}{path}", headers=headers, body=content, timeout_s=_TIMEOUT_S))

    def _headers(self) -> dict[str, str]:
        token = self._token()
        if token.count(".") != 2:
            return {"Authorization": f"Token {token}"}
        of, access, until = self._access
        if of != token or self._clock() >= until:
            until = self._clock() + _TOKEN_S
            access = self._exchange(token)
            self._access = (token, access, until)
        return {"Authorization": f"Bearer {access}"}

    def _exchange(self, token: str) -> str:
        url = f"{self._url}/api/token/refresh/"
        body = json.dumps({"refresh": token}).encode()
        answer = json.loads(request(url, headers=_JSON, body=body, timeout_s=_TIMEOUT_S))
        return str(answer["access"])


def _filter(column: str, value: object) -> Json:
    return {"filter": f"filter:tasks:{column}", "operator": "equal", "type": "Number", "value": value}
