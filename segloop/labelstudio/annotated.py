"""The annotated tasks of a project: how many there are, which changed, and whole.

What is known of Label Studio 1.23 (its source, and a running one), and what the reading here rests on:
saving an annotation (submit, update, skip) and deleting one through its API or the Data Manager set the task's
`updated_at`; a deleted task leaves nothing; moving annotations between duplicates and deletions that cascade in
its database set no `updated_at`. Every listing counts the tasks of its filter and their submitted annotations.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, Final, NamedTuple

import httpx
import orjson

from segloop.labelstudio.api import Api, decoded

_IDS_PAGE: Final = 200
# Each task of a full page carries every annotation's run-length codes.
_FULL_PAGE: Final = 20

Filter = dict[str, Any]


class Totals(NamedTuple):
    """What a range of task ids holds, by Label Studio's own count, and its clock at the answer."""

    tasks: int
    #: Submitted ones; a skip is none.
    annotations: int
    clock: datetime


class Annotated(Api):
    """Counts and reads the tasks that people annotated. Ranges are of task ids: past `after`, up to and with `upto`."""

    def totals(self, project_id: int, after: int = 0, upto: int | None = None) -> Totals:
        """How many tasks with a submitted annotation there are, and how many such annotations; one light request."""
        body, response = self._page(project_id, [*_labelled(), *_range(after, upto)], size=1)
        return Totals(int(body["total"]), int(body["total_annotations"]), _clock(response))

    def labelled_ids(self, project_id: int, after: int = 0, upto: int | None = None) -> list[int]:
        """Ids of the tasks with a submitted annotation, ascending."""
        pages = self._pages(project_id, _labelled(), after, upto, size=_IDS_PAGE)
        return [task["id"] for page in pages for task in page]

    def annotated_pages(
        self, project_id: int, *, since: datetime | None = None, after: int = 0, upto: int | None = None
    ) -> Iterator[list[dict[str, Any]]]:
        """Pages of the tasks with an annotation (a skip too), whole; with `since`, those updated since then.

        Each task is `{"id", "data", "annotations"}` with annotations as Label Studio serves them; addresses in
        `data` are not resolved (an s3:// address stays one). Ids ascend through the tasks with a submitted
        annotation, then through those that are skipped only. Tasks added or labelled meanwhile never hide
        another one.
        """
        updated = [] if since is None else [_updated_since(since)]
        for kind in (_labelled(), _skipped_only()):
            for page in self._pages(project_id, [*kind, *updated], after, upto, size=_FULL_PAGE, whole=True):
                yield [{name: task[name] for name in ("id", "data", "annotations")} for task in page]

    def _pages(
        self, project_id: int, filters: list[Filter], after: int, upto: int | None, *, size: int, whole: bool = False
    ) -> Iterator[list[dict[str, Any]]]:
        # Pages by id, not by number: tasks that enter or leave the filter meanwhile would shift numbered pages.
        while True:
            body, _ = self._page(project_id, [*_range(after, upto), *filters], size=size, whole=whole)
            page = body["tasks"]
            if page:
                yield page
            # An installation may have a smaller limit on pages than what was asked for.
            if not page or len(page) == body["total"]:
                return
            after = page[-1]["id"]

    def _page(
        self, project_id: int, filters: list[Filter], *, size: int, whole: bool = False
    ) -> tuple[dict[str, Any], httpx.Response]:
        """The first page of tasks by id. Not through the SDK: its models take longer than Label Studio's answer."""
        query = {"filters": {"conjunction": "and", "items": filters}, "ordering": ["tasks:id"]}
        parameters: dict[str, str | int] = {
            "project": project_id,
            "query": json.dumps(query),
            "page": 1,
            "page_size": size,
            "fields": "all" if whole else "task_only",
            "resolve_uri": "false",
        }
        response = self._send("GET", "/api/tasks/", params=parameters)
        try:
            body = orjson.loads(response.content) if response.is_success else None
        except ValueError:
            body = None
        if not isinstance(body, dict):
            body = decoded(self.url, f"listing tasks of project {project_id}", response)
        return body, response


def _labelled() -> list[Filter]:
    return [_filter("total_annotations", "greater", "Number", 0)]


def _skipped_only() -> list[Filter]:
    return [
        _filter("total_annotations", "equal", "Number", 0),
        _filter("cancelled_annotations", "greater", "Number", 0),
    ]


def _range(after: int, upto: int | None) -> list[Filter]:
    last = [] if upto is None else [_filter("id", "less_or_equal", "Number", upto)]
    return [_filter("id", "greater", "Number", after), *last]


def _updated_since(since: datetime) -> Filter:
    stamp = since.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    return _filter("updated_at", "greater_or_equal", "Datetime", stamp)


def _filter(column: str, operator: str, kind: str, value: Any) -> Filter:
    return {"filter": f"filter:tasks:{column}", "operator": operator, "type": kind, "value": value}


def _clock(response: httpx.Response) -> datetime:
    """When Label Studio answered, by its own clock; by this machine's where the answer has no readable date."""
    try:
        return parsedate_to_datetime(response.headers["Date"]).astimezone(UTC)
    except (KeyError, ValueError):
        return datetime.now(UTC)
