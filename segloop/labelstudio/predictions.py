"""Predictions that Label Studio stores, and their scores."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any, Final

from segloop.errors import LabelStudioError, LabelStudioNotFound, LabelStudioUnreachable
from segloop.labelstudio.api import Api, decoded, refused

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
        stored = 0
        try:
            stored = int(self._api.request("POST", path, json=list(predictions))["created"])
        except LabelStudioUnreachable:
            raise
        except LabelStudioError as error:
            _log.info("project %s: predictions are sent one by one: %s", project_id, error)
        if stored == len(predictions):
            return stored
        # Of a refused import nothing is stored. From others Label Studio leaves out, without a word, what its check does not
        # know, such as the tags of a Repeater's pages; a prediction that comes alone it takes as it is.
        missing = [one for one in predictions if not stored or not self._is_stored(one)]
        return stored + sum(self._create_alone(project_id, one) for one in missing)

    def _create_alone(self, project_id: int, prediction: Mapping[str, object]) -> int:
        try:
            self._api.request("POST", "/api/predictions/", json=dict(prediction))
        except LabelStudioUnreachable:
            raise
        except LabelStudioError:
            task_id = prediction["task"]
            if not self._is_gone(task_id):
                raise
            _log.warning("project %s: task %s is gone, its prediction is dropped", project_id, task_id)
            return 0
        return 1

    def _is_stored(self, prediction: Mapping[str, object]) -> bool:
        known = self._of_task(prediction["task"])
        return any(one["model_version"] == prediction["model_version"] for one in known)

    def get(self, prediction_id: int) -> dict[str, Any] | None:
        """A prediction as Label Studio stores it; None if it is gone."""
        try:
            return dict(self._api.request("GET", f"/api/predictions/{prediction_id}/"))
        except LabelStudioNotFound:
            return None

    def remove(self, task_id: int, version: str) -> int:
        """Delete the predictions of a version for a task, which may be gone; how many there were."""
        mine = [one for one in self._of_task(task_id) if one["model_version"] == version]
        for one in mine:
            path = f"/api/predictions/{one['id']}/"
            response = self._api.send("DELETE", path)
            if not response.is_success and response.status_code != _NOT_FOUND:
                raise refused(self._api.url, f"DELETE {path}", response.status_code, None)
        return len(mine)

    def set_score(self, task_id: int, version: str, score: float) -> None:
        """Give the predictions of a version for a task another score, in [0, 1]; doing it again changes nothing.

        A task or prediction that is gone is left out and logged.
        """
        for prediction in self._of_task(task_id):
            if prediction["model_version"] == version and prediction["score"] != score:
                self._change(prediction, score=score)

    def fill(self, prediction: Mapping[str, object]) -> int:
        """Put a prediction, as of `create`, in the place of those of its version that have no score; how many there were."""
        empty = [
            one
            for one in self._of_task(prediction["task"])
            if one["model_version"] == prediction["model_version"] and one["score"] is None
        ]
        for one in empty:
            self._change(one, result=prediction["result"], score=prediction["score"])
        return len(empty)

    def hide(self, prediction: Mapping[str, Any]) -> None:
        """Put an empty prediction of the same score and version in the place of one, as blind tasks have; it is of now."""
        fields = {name: prediction[name] for name in ("task", "score", "model_version")}
        others = [one for one in self._of_task(prediction["task"]) if one["model_version"] == fields["model_version"]]
        if all(one["result"] for one in others):
            self._create_alone(int(prediction.get("project") or 0), {**fields, "result": []})
        for one in others:
            if one["result"]:
                path = f"/api/predictions/{one['id']}/"
                response = self._api.send("DELETE", path)
                if not response.is_success and response.status_code != _NOT_FOUND:
                    raise refused(self._api.url, f"DELETE {path}", response.status_code, None)

    def _change(self, prediction: Mapping[str, Any], **fields: object) -> None:
        path = f"/api/predictions/{prediction['id']}/"
        response = self._api.send("PATCH", path, json=fields)
        if response.status_code == _NOT_FOUND:
            _log.warning("task %s: prediction %s is gone, and its score with it", prediction["task"], prediction["id"])
        else:
            decoded(self._api.url, f"PATCH {path}", response)

    def _of_task(self, task_id: object) -> list[dict[str, Any]]:
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
