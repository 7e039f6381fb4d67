"""Files and annotated tasks that are brought into a project."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from segloop.labelstudio.api import Api


class Imports:
    """Uploads files and imports tasks."""

    def __init__(self, api: Api) -> None:
        self._api = api

    def upload(self, project_id: int, files: Sequence[tuple[str, bytes]]) -> list[str]:
        """Upload files (name and content) without making tasks of them; their addresses, in the same order."""
        # Label Studio keeps one file per field name.
        fields = {f"file{place:03}": file for place, file in enumerate(files)}
        path = f"/api/projects/{project_id}/import"
        done = self._api.request("POST", path, params={"commit_to_project": "false"}, files=fields)
        addresses = [
            self._api.request("GET", f"/api/import/file-upload/{ident}")["file"] for ident in done["file_upload_ids"]
        ]
        return [f"/data/{address.removeprefix('/data/').lstrip('/')}" for address in addresses]

    def tasks(self, project_id: int, tasks: Sequence[Mapping[str, Any]]) -> list[int]:
        """Import tasks, each `{"data", "annotations"}`; their ids, in the same order."""
        path = f"/api/projects/{project_id}/import"
        done = self._api.request("POST", path, params={"return_task_ids": "true"}, json=list(tasks))
        return [int(number) for number in done["task_ids"]]
