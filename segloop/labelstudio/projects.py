"""Projects as Label Studio describes them."""

from __future__ import annotations

from typing import Any

from segloop.labelstudio.api import Api


class Projects:
    """Reads projects and sets their fields."""

    def __init__(self, api: Api) -> None:
        self._api = api

    def get(self, project_id: int) -> dict[str, Any]:
        """A project (`id`, `title`, `label_config`, `created_at`, ...) without its secrets."""
        project: dict[str, Any] = self._api.request("GET", f"/api/projects/{project_id}/")
        project.pop("task_data_password", None)
        project.pop("token", None)
        return project

    def change(self, project_id: int, **fields: Any) -> None:
        """Set fields of a project, such as `sampling` or `model_version`."""
        self._api.request("PATCH", f"/api/projects/{project_id}/", json=fields)
