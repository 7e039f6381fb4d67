"""Tabs of the Data Manager: one that shows the tasks to label in the order in which people get them."""

from __future__ import annotations

from typing import Any, Final

from segloop.labelstudio.api import Api
from segloop.labelstudio.tasks import LEAST_SURE_FIRST, TO_LABEL

#: Title of the tab that `keep_ordered` keeps.
ORDERED_VIEW: Final = "Most uncertain first"


class Views:
    """Makes and corrects tabs of projects."""

    def __init__(self, api: Api) -> None:
        self._api = api

    def keep_ordered(self, project_id: int) -> dict[str, Any]:
        """Add the tab ORDERED_VIEW of the tasks to label to a project, or correct its filters and order; its entry.

        What people changed of the tab otherwise (columns, widths) stays.
        """
        wanted = {
            "title": ORDERED_VIEW,
            "filters": {"conjunction": "and", "items": list(TO_LABEL)},
            "ordering": list(LEAST_SURE_FIRST),
        }
        views = self._api.request("GET", "/api/dm/views/", params={"project": project_id})
        view = next((view for view in views if view["data"].get("title") == ORDERED_VIEW), None)
        if view is None:
            data = {"type": "list", "target": "tasks", **wanted}
            view = self._api.request("POST", "/api/dm/views/", json={"project": project_id, "data": data})
        elif any(view["data"].get(name) != value for name, value in wanted.items()):
            body = {"project": project_id, "data": {**view["data"], **wanted}}
            view = self._api.request("PATCH", f"/api/dm/views/{view['id']}/", json=body)
        return dict(view)
