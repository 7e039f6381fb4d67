"""The tasks of a project: how many are annotated, which changed, and which are still to be labelled.

What is known of Label Studio 1.23 (its source, and a running one), and what the reading here rests on:
saving an annotation (submit, update, skip) and deleting one through its API or the Data Manager set the task's
`updated_at`; a deleted task leaves nothing; moving annotations between duplicates and deletions that cascade in
its database set no `updated_at`. Every listing counts the tasks of its filter and their submitted annotations.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, Final, NamedTuple

import httpx

from segloop.errors import LabelStudioNotFound
from segloop.labelstudio.api import Api, decoded, refused

_LIGHT_PAGE: Final = 200
# Each task of a full page carries every annotation's run-length codes.
_FULL_PAGE: Final = 20

Filter = dict[str, object]


def _filter(column: str, operator: str, kind: str, value: object) -> Filter:
    return {"filter": f"filter:tasks:{column}", "operator": operator, "type": kind, "value": value}


def with_prediction_of(version: str) -> tuple[Filter, ...]:
    """The tasks with a prediction of a version."""
    return (_filter("predictions_model_versions", "contains", "List", [version]),)


_LABELLED: Final = (_filter("total_annotations", "greater", "Number", 0),)
_UNLABELLED: Final = (_filter("total_annotations", "equal", "Number", 0),)
_SKIPPED_ONLY: Final = (*_UNLABELLED, _filter("cancelled_annotations", "greater", "Number", 0))
#: The tasks that nobody labelled or skipped.
TO_LABEL: Final = (*_UNLABELLED, _filter("cancelled_annotations", "equal", "Number", 0))
# Label Studio fills the score in where it sorts by it: the mean of the predictions of the project's model version.
# Tasks without one come last.
LEAST_SURE_FIRST: Final = ("tasks:predictions_score",)


class Totals(NamedTuple):
    """What a range of task ids holds, by Label Studio's own count, and its clock at the answer."""

    tasks: int
    #: Submitted ones; a skip is none.
    annotations: int
    clock: datetime


@dataclass(frozen=True)
class _Listing:
    """One page of a project's tasks: those that all `filters` let through, with annotations if it is `whole`."""

    project_id: int
    filters: tuple[Filter, ...]
    size: int
    ordering: tuple[str, ...] = ("tasks:id",)
    whole: bool = False
    page: int = 1

    def parameters(self) -> dict[str, str | int]:
        query = {"filters": {"conjunction": "and", "items": self.filters}, "ordering": self.ordering}
        return {
            "project": self.project_id,
            "query": json.dumps(query),
            "page": self.page,
            "page_size": self.size,
            "fields": "all" if self.whole else "task_only",
            "resolve_uri": "false",
        }


class Tasks:
    """Counts and reads the tasks of projects. Ranges are of task ids: past `after`, up to and with `upto`."""

    def __init__(self, api: Api) -> None:
        self._api = api

    def totals(self, project_id: int, after: int = 0, upto: int | None = None) -> Totals:
        """How many tasks with a submitted annotation there are, and how many such annotations; one light request."""
        body, response = self._page(_Listing(project_id, (_past(after), *_up_to(upto), *_LABELLED), size=1))
        return Totals(int(body["total"]), int(body["total_annotations"]), _clock(response))

    def count(self, project_id: int) -> int:
        """How many tasks a project has; one light request."""
        body, _ = self._page(_Listing(project_id, (), size=1))
        return int(body["total"])

    def labelled_ids(self, project_id: int, after: int = 0, upto: int | None = None) -> list[int]:
        """Ids of the tasks with a submitted annotation, ascending."""
        listing = _Listing(project_id, (*_up_to(upto), *_LABELLED), _LIGHT_PAGE)
        return [task["id"] for page in self._pages(listing, after) for task in page]

    def annotated_pages(
        self, project_id: int, *, since: datetime | None = None, after: int = 0, upto: int | None = None
    ) -> Iterator[list[dict[str, Any]]]:
        """Pages of the tasks with an annotation (a skip too), whole; with `since`, those updated since then.

        Each task is `{"id", "data", "annotations"}` with annotations as Label Studio serves them, and `"predictions"` where
        these began as some; addresses in `data` are not resolved (an s3:// address stays one). Ids ascend through the
        tasks with a submitted annotation, then through those that are skipped only. Tasks added or labelled meanwhile
        never hide another one.
        """
        updated = () if since is None else (_updated_since(since),)
        for kind in (_LABELLED, _SKIPPED_ONLY):
            listing = _Listing(project_id, (*_up_to(upto), *kind, *updated), _FULL_PAGE, whole=True)
            for page in self._pages(listing, after):
                yield [_whole(task) for task in page]

    def data(self, project_id: int) -> Iterator[dict[str, Any]]:
        """The `data` of every task of a project, in the order of their ids, addresses not resolved."""
        for page in self._pages(_Listing(project_id, (), _LIGHT_PAGE)):
            yield from (task["data"] for task in page)

    def unlabelled(self, project_id: int, without_version: str | None = None) -> Iterator[dict[str, Any]]:
        """Tasks without an annotation, and without a prediction of `without_version` if one is named, in the order of
        their ids.

        Each is `{"id", "data"}`. A task that a person skipped counts as unlabelled.
        """
        filters: tuple[Filter, ...] = _UNLABELLED
        if without_version is not None:
            filters = (*filters, _filter("predictions_model_versions", "not_contains", "List", [without_version]))
        for page in self._pages(_Listing(project_id, filters, _LIGHT_PAGE)):
            yield from ({"id": task["id"], "data": task["data"]} for task in page)

    def without_score(self, project_id: int, version: str) -> Iterator[dict[str, Any]]:
        """Tasks without an annotation whose prediction of a version has no score: an empty one, of a task that could not
        be predicted. The version has to be the project's current one. In the order of their ids, as `{"id", "data"}`."""
        predicted = _filter("predictions_model_versions", "contains", "List", [version])
        unscored = _filter("predictions_score", "empty", "Number", True)
        for page in self._pages(_Listing(project_id, (*_UNLABELLED, predicted, unscored), _LIGHT_PAGE)):
            yield from ({"id": task["id"], "data": task["data"]} for task in page)

    def least_sure(
        self, project_id: int, limit: int, *, predicted_by: str | None = None, not_predicted_by: str | None = None
    ) -> list[dict[str, Any]]:
        """Up to `limit` tasks that nobody labelled or skipped and that have a score, the lowest score first.

        Each is `{"id", "data", "score"}`; scores are of the project's current model version. With `predicted_by`, only
        tasks with a prediction of that version; with `not_predicted_by`, only tasks without. An installation may
        give fewer than asked for: as many as its longest page has.
        """
        versions = [("contains", predicted_by), ("not_contains", not_predicted_by)]
        predicted = [
            _filter("predictions_model_versions", operator, "List", [version])
            for operator, version in versions
            if version
        ]
        body, _ = self._page(_Listing(project_id, (*TO_LABEL, *predicted), limit, LEAST_SURE_FIRST))
        return [
            {"id": task["id"], "data": task["data"], "score": score}
            for task in body["tasks"]
            if (score := task.get("predictions_score")) is not None
        ]

    def scored(self, project_id: int, version: str) -> list[dict[str, Any]]:
        """The tasks that nobody labelled or skipped and that have a score and a prediction of a version, which has to be
        the project's current one; the lowest score first. Each is `{"id", "data", "score"}`. Tasks that are labelled
        meanwhile may hide others.
        """
        predicted = _filter("predictions_model_versions", "contains", "List", [version])
        listing = _Listing(project_id, (*TO_LABEL, predicted), _LIGHT_PAGE, LEAST_SURE_FIRST)
        found: dict[int, dict[str, Any]] = {}
        seen = 0
        while True:
            body, _ = self._page(listing)
            for task in body["tasks"]:
                if (score := task.get("predictions_score")) is not None:
                    found[task["id"]] = {"id": task["id"], "data": task["data"], "score": score}
            seen += len(body["tasks"])
            if not body["tasks"] or seen >= body["total"]:
                return list(found.values())
            listing = replace(listing, page=listing.page + 1)

    def get(self, task_id: int) -> dict[str, Any] | None:
        """A task with its annotations and predictions; None if it is gone."""
        try:
            return dict(self._api.request("GET", f"/api/tasks/{task_id}/"))
        except LabelStudioNotFound:
            return None

    def first(self, project_id: int) -> dict[str, Any] | None:
        """A task of a project, `{"id", "data"}` with addresses not resolved; None if it has none."""
        body, _ = self._page(_Listing(project_id, (), size=1))
        return next(({"id": task["id"], "data": task["data"]} for task in body["tasks"]), None)

    def resolve(self, task_id: int, file_uri: str) -> str:
        """Where Label Studio sends a browser that wants a file of a cloud storage: a signed URL (a secret), or empty
        where it serves the file itself."""
        encoded = base64.urlsafe_b64encode(file_uri.encode()).decode()
        path = f"/tasks/{task_id}/resolve/"
        response = self._api.send("GET", path, params={"fileuri": encoded}, follow_redirects=False)
        if response.is_redirect:
            return str(response.headers["location"])
        if not response.is_success:
            raise refused(self._api.url, f"resolving a file of task {task_id}", response.status_code, None)
        return ""

    def _pages(self, listing: _Listing, after: int = 0) -> Iterator[list[dict[str, Any]]]:
        # Pages by id, not by number: tasks that enter or leave the filter meanwhile would shift numbered pages.
        while True:
            body, _ = self._page(replace(listing, filters=(_past(after), *listing.filters)))
            page = body["tasks"]
            if page:
                yield page
            # An installation may have a smaller limit on pages than what was asked for.
            if not page or len(page) == body["total"]:
                return
            after = page[-1]["id"]

    def _page(self, listing: _Listing) -> tuple[dict[str, Any], httpx.Response]:
        """A page with its totals. Not through the SDK: its models take longer than Label Studio's answer."""
        response = self._api.send("GET", "/api/tasks/", params=listing.parameters())
        return decoded(self._api.url, f"listing tasks of project {listing.project_id}", response), response


def _whole(task: Mapping[str, Any]) -> dict[str, Any]:
    """What is kept of a task, with the predictions that its annotations began as, if there are any."""
    kept = {name: task[name] for name in ("id", "data", "annotations")}
    parents = {annotation.get("parent_prediction") for annotation in task["annotations"]}
    seen = [prediction for prediction in task.get("predictions") or () if prediction.get("id") in parents]
    return {**kept, "predictions": seen} if seen else kept


def _past(after: int) -> Filter:
    return _filter("id", "greater", "Number", after)


def _up_to(upto: int | None) -> tuple[Filter, ...]:
    return () if upto is None else (_filter("id", "less_or_equal", "Number", upto),)


def _updated_since(since: datetime) -> Filter:
    stamp = since.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    return _filter("updated_at", "greater_or_equal", "Datetime", stamp)


def _clock(response: httpx.Response) -> datetime:
    """When Label Studio answered, by its own clock; by this machine's where the answer has no readable date."""
    try:
        return parsedate_to_datetime(response.headers["Date"]).astimezone(UTC)
    except (KeyError, ValueError):
        return datetime.now(UTC)
