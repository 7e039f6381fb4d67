"""The order in which people get tasks to label: their scores, and a tab of the Data Manager that shows them in it."""

from __future__ import annotations

import json
import logging
from typing import Any, Final

from segloop.errors import LabelStudioError
from segloop.labelstudio.api import Api, decoded

_log = logging.getLogger(__name__)

#: Title of the tab that `keep_ordered_view` keeps.
ORDERED_VIEW: Final = "Most uncertain first"

# Label Studio fills the score in where it sorts by it: the mean of the predictions of the project's model version.
# Tasks without one come last.
_LEAST_SURE_FIRST: Final = ("tasks:predictions_score",)
_TO_LABEL: Final = tuple(
    {"filter": f"filter:tasks:{column}", "operator": "equal", "type": "Number", "value": 0}
    for column in ("total_annotations", "cancelled_annotations")
)
_NOT_FOUND: Final = 404


class Views(Api):
    """Reads and sets the order of a project's tasks."""

    def least_sure_tasks(
        self, project_id: int, limit: int, *, predicted_by: str | None = None, not_predicted_by: str | None = None
    ) -> list[dict[str, Any]]:
        """Up to `limit` tasks that nobody labelled or skipped and that have a score, the lowest score first.

        Each is `{"id", "data", "score"}`; scores are of the project's current model version. With `predicted_by`, only
        tasks with a prediction of that version; with `not_predicted_by`, only tasks without. An installation may
        give fewer than asked for: as many as its longest page has.
        """
        versions = [("contains", predicted_by), ("not_contains", not_predicted_by)]
        items = [*_TO_LABEL, *(_version_filter(operator, version) for operator, version in versions if version)]
        query = {"filters": {"conjunction": "and", "items": items}, "ordering": _LEAST_SURE_FIRST}
        parameters = {
            "project": project_id,
            "query": json.dumps(query),
            "page": 1,
            "page_size": limit,
            "fields": "task_only",
            "resolve_uri": "false",
        }
        tasks = self._request("GET", "/api/tasks/", params=parameters)["tasks"]
        return [
            {"id": task["id"], "data": task["data"], "score": score}
            for task in tasks
            if (score := task.get("predictions_score")) is not None
        ]

    def set_score(self, task_id: int, version: str, score: float) -> None:
        """Give the predictions of a version for a task another score, in [0, 1]; doing it again changes nothing.

        A task or prediction that is gone is left out and logged.
        """
        for prediction in self._predictions(task_id):
            if prediction["model_version"] != version or prediction["score"] == score:
                continue
            path = f"/api/predictions/{prediction['id']}/"
            response = self._send("PATCH", path, json={"score": score})
            if response.status_code == _NOT_FOUND:
                _log.warning("task %s: prediction %s is gone, and its score with it", task_id, prediction["id"])
            else:
                decoded(self.url, f"PATCH {path}", response)

    def _predictions(self, task_id: int) -> list[dict[str, Any]]:
        try:
            return list(self._request("GET", "/api/predictions/", params={"task": task_id}))
        except LabelStudioError:
            # Of a task that is gone Label Studio says no more than that it cannot be chosen.
            if self._send("GET", f"/api/tasks/{task_id}/").status_code != _NOT_FOUND:
                raise
            _log.warning("task %s is gone, and its score with it", task_id)
            return []

    def keep_ordered_view(self, project_id: int) -> dict[str, Any]:
        """Add the tab ORDERED_VIEW of the tasks to label to a project, or set its filters and order right; its entry.

        What people changed of the tab otherwise (columns, widths) stays.
        """
        wanted = {
            "title": ORDERED_VIEW,
            "filters": {"conjunction": "and", "items": list(_TO_LABEL)},
            "ordering": list(_LEAST_SURE_FIRST),
        }
        views: list[dict[str, Any]] = self._request("GET", "/api/dm/views/", params={"project": project_id})
        view = next((view for view in views if view["data"].get("title") == ORDERED_VIEW), None)
        if view is None:
            data = {"type": "list", "target": "tasks", **wanted}
            view = self._request("POST", "/api/dm/views/", json={"project": project_id, "data": data})
        elif any(view["data"].get(name) != value for name, value in wanted.items()):
            data = {**view["data"], **wanted}
            view = self._request("PATCH", f"/api/dm/views/{view['id']}/", json={"project": project_id, "data": data})
        return dict(view)


def _version_filter(operator: str, version: str) -> dict[str, Any]:
    return {
        "filter": "filter:tasks:predictions_model_versions",
        "operator": operator,
        "type": "List",
        "value": [version],
    }
