"""A project's unlabelled tasks as the SDK lists them, and the predictions that go back."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Any, Final

import httpx

from segloop.errors import LabelStudioError, LabelStudioUnreachable
from segloop.labelstudio.api import Api, refused, unreachable

_log = logging.getLogger(__name__)

_LIGHT_PAGE: Final = 200


class Tasks(Api):
    """Reads the tasks of projects; stores predictions."""

    def unlabelled_tasks(self, project_id: int, without_version: str) -> Iterator[dict[str, Any]]:
        """Tasks without an annotation and without a prediction of version `without_version`, in the order of their ids.

        Each is `{"id", "data"}`. A task that a person skipped counts as unlabelled.
        """
        filters = [
            _filter("total_annotations", "equal", "Number", 0),
            _filter("predictions_model_versions", "not_contains", "List", [without_version]),
        ]
        # Pages by id, not by number: tasks that enter or leave the filter meanwhile would shift numbered pages.
        last_id = 0
        while True:
            items = [_filter("id", "greater", "Number", last_id), *filters]
            page, total = self._sdk_page(project_id, items)
            yield from page
            # An installation may have a smaller limit on pages than what was asked for.
            if not page or len(page) == total:
                return
            last_id = page[-1]["id"]

    def _sdk_page(self, project_id: int, items: list[dict[str, Any]]) -> tuple[list[dict[str, Any]], int | None]:
        """A page of tasks, and how many tasks there are for the filters in all."""
        from label_studio_sdk.core.api_error import ApiError

        action = f"listing tasks of project {project_id}"
        query = {"filters": {"conjunction": "and", "items": items}, "ordering": ["tasks:id"]}
        try:
            pager = self._sdk.tasks.list(
                project=project_id,
                query=json.dumps(query),
                page=1,
                page_size=_LIGHT_PAGE,
                fields="task_only",
                resolve_uri=False,
            )
        except ApiError as error:
            raise refused(self.url, action, error.status_code or 0, error.body) from error
        except httpx.HTTPError as error:
            raise unreachable(self.url, action, error) from error
        page = [{"id": task.id, "data": task.data} for task in pager.items or ()]
        return page, pager.response.total

    @cached_property
    def _sdk(self) -> Any:
        # Imported here: the SDK takes seconds to import, and a server process has no need of it.
        from label_studio_sdk.client import LabelStudio as Sdk

        # The SDK joins paths as a browser does: without the slash it would drop Label Studio's own path. The client
        # authenticates, so that there is one place for it: the key is a placeholder.
        return Sdk(base_url=f"{self.url}/", api_key="-", httpx_client=self._http)  # type: ignore[no-untyped-call]

    def create_predictions(self, project_id: int, predictions: Sequence[dict[str, Any]]) -> int:
        """Store `predictions` (each `{"task", "result", "score", "model_version"}`) and return how many were stored.

        Predictions for tasks that are gone are left out and logged.
        """
        if not predictions:
            return 0
        path = f"/api/projects/{project_id}/import/predictions"
        try:
            created: int = self._request("POST", path, json=list(predictions))["created"]
        except LabelStudioUnreachable:
            raise
        except LabelStudioError as error:
            if len(predictions) == 1:
                # Whoever calls has asked for this one task: gone tasks are no error, anything else is.
                if self._is_gone(predictions[0]["task"]):
                    _log.warning(
                        "project %s: task %s is gone, its prediction is dropped", project_id, predictions[0]["task"]
                    )
                    return 0
                raise error
            return sum(self.create_predictions(project_id, [prediction]) for prediction in predictions)
        return created

    def _is_gone(self, task_id: int) -> bool:
        response = self._send("GET", f"/api/tasks/{task_id}/")
        return response.status_code == 404


def _filter(column: str, operator: str, kind: str, value: Any) -> dict[str, Any]:
    return {"filter": f"filter:tasks:{column}", "operator": operator, "type": kind, "value": value}
