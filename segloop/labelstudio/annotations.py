"""Annotations that segloop makes in Label Studio, and takes back."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any, Final

from segloop.errors import LabelStudioNotFound
from segloop.labelstudio.api import Api, decoded, refused

_log = logging.getLogger(__name__)

_NOT_FOUND: Final = 404
_CONFLICT: Final = 409


class Annotations:
    """Makes, reads and deletes annotations."""

    def __init__(self, api: Api) -> None:
        self._api = api

    def create(self, task_id: int, annotation: Mapping[str, object]) -> bool:
        """Annotate a task; False where it is gone, or where an annotation of the same `unique_id` is there."""
        path = f"/api/tasks/{task_id}/annotations/"
        response = self._api.send("POST", path, json=dict(annotation))
        if response.status_code in (_NOT_FOUND, _CONFLICT):
            _log.info("task %s is not annotated: Label Studio answered %s", task_id, response.status_code)
            return False
        decoded(self._api.url, f"POST {path}", response)
        return True

    def get(self, annotation_id: int) -> dict[str, Any] | None:
        """An annotation as Label Studio has it; None if it is gone."""
        try:
            return dict(self._api.request("GET", f"/api/annotations/{annotation_id}/"))
        except LabelStudioNotFound:
            return None

    def delete(self, annotation_id: int) -> bool:
        """Delete an annotation; False where it is gone."""
        path = f"/api/annotations/{annotation_id}/"
        response = self._api.send("DELETE", path)
        if response.status_code == _NOT_FOUND:
            return False
        if not response.is_success:
            raise refused(self._api.url, f"DELETE {path}", response.status_code, None)
        return True
