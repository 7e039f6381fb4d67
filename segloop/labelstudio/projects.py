"""Projects as Label Studio describes them."""

from __future__ import annotations

from typing import Any, Final

from segloop.labelstudio.api import Api

_SECRETS: Final = frozenset({"task_data_password", "token"})


class Projects:
    """Reads projects and sets their fields."""

    def __init__(self, api: Api) -> None:
        self._api = api

    def get(self, project_id: int) -> dict[str, Any]:
        """A project (`id`, `title`, `label_config`, `created_at`, ...) without its secrets."""
        project = self._api.request("GET", f"/api/projects/{project_id}/")
        return {name: value for name, value in project.items() if name not in _SECRETS}

    def change(self, project_id: int, **fields: Any) -> None:
        """Set fields of a project, such as `sampling` or `model_version`."""
        self._api.request("PATCH", f"/api/projects/{project_id}/", json=fields)
