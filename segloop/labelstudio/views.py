"""Tabs of the Data Manager: the tasks to label in the order in which people get them, and those with suspected labels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from segloop.formats import SUSPECT_MODEL
from segloop.labelstudio.api import Api
from segloop.labelstudio.tasks import LEAST_SURE_FIRST, TO_LABEL, Filter, with_prediction_of

#: Title of the tab that `keep_ordered` keeps.
ORDERED_VIEW: Final = "Most uncertain first"
#: Title of the tab that `keep_suspects` keeps.
SUSPECTS_VIEW: Final = "Suspected labels"


class Views:
    """Makes and corrects tabs of projects."""

    def __init__(self, api: Api) -> None:
        self._api = api

    def keep_ordered(self, project_id: int) -> dict[str, Any]:
        """Add the tab ORDERED_VIEW of the tasks to label to a project, or correct its filters and order; its entry.

        What people changed of the tab otherwise (columns, widths) stays.
        """
        return self._keep(project_id, ORDERED_VIEW, TO_LABEL, LEAST_SURE_FIRST)

    def keep_suspects(self, project_id: int) -> dict[str, Any]:
        """Add the tab SUSPECTS_VIEW of the tasks with a prediction of SUSPECT_MODEL to a project, or correct it; its entry.

        What people changed of the tab otherwise (columns, widths) stays.
        """
        return self._keep(project_id, SUSPECTS_VIEW, with_prediction_of(SUSPECT_MODEL), ())

    def _keep(self, project_id: int, title: str, filters: Sequence[Filter], ordering: Sequence[str]) -> dict[str, Any]:
        wanted = {
            "title": title,
            "filters": {"conjunction": "and", "items": list(filters)},
            "ordering": list(ordering),
        }
        views = self._api.request("GET", "/api/dm/views/", params={"project": project_id})
        view = next((view for view in views if view["data"].get("title") == title), None)
        if view is None:
            data = {"type": "list", "target": "tasks", **wanted}
            view = self._api.request("POST", "/api/dm/views/", json={"project": project_id, "data": data})
        elif any(view["data"].get(name) != value for name, value in wanted.items()):
            body = {"project": project_id, "data": {**view["data"], **wanted}}
            view = self._api.request("PATCH", f"/api/dm/views/{view['id']}/", json=body)
        return dict(view)
