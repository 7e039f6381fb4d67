"""Predictions that Label Studio stores, and their scores."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any, Final

from segloop.errors import LabelStudioError, LabelStudioUnreachable
from segloop.labelstudio.api import Api, decoded

_log = logging.getLogger(__name__)

_NOT_FOUND: Final = 404


class Predictions:
    """Stores predictions and sets their scores."""

    def __init__(self, api: Api) -> None:
        self._api = api

    def create(self, project_id: int, predictions: Sequence[Mapping[str, object]]) -> int:
        """Store `predictions` (each `{"task", "result", "score", "model_version"}`) and return how many were stored.

        Predictions for tasks that are gone are left out and logged.
        """
        if not predictions:
            return 0
        path = f"/api/projects/{project_id}/import/predictions"
        try:
            return int(self._api.request("POST", path, json=list(predictions))["created"])
        except LabelStudioUnreachable:
            raise
        except LabelStudioError:
            if len(predictions) > 1:
                # one of them is refused: each is sent alone
                return sum(self.create(project_id, [prediction]) for prediction in predictions)
            task_id = predictions[0]["task"]
            if not self._is_gone(task_id):
                raise
            _log.warning("project %s: task %s is gone, its prediction is dropped", project_id, task_id)
            return 0

    def set_score(self, task_id: int, version: str, score: float) -> None:
        """Give the predictions of a version for a task another score, in [0, 1]; doing it again changes nothing.

        A task or prediction that is gone is left out and logged.
        """
        for prediction in self._of_task(task_id):
            if prediction["model_version"] != version or prediction["score"] == score:
                continue
            path = f"/api/predictions/{prediction['id']}/"
            response = self._api.send("PATCH", path, json={"score": score})
            if response.status_code == _NOT_FOUND:
                _log.warning("task %s: prediction %s is gone, and its score with it", task_id, prediction["id"])
            else:
                decoded(self._api.url, f"PATCH {path}", response)

    def _of_task(self, task_id: int) -> list[dict[str, Any]]:
        try:
            return list(self._api.request("GET", "/api/predictions/", params={"task": task_id}))
        except LabelStudioError:
            # Of a task that is gone Label Studio says no more than that it cannot be chosen.
            if not self._is_gone(task_id):
                raise
            _log.warning("task %s is gone, and its score with it", task_id)
            return []

    def _is_gone(self, task_id: object) -> bool:
        return self._api.send("GET", f"/api/tasks/{task_id}/").status_code == _NOT_FOUND
