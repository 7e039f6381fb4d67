"""Label Studio's client against a small HTTP server that answers as Label Studio 1.23 was seen to."""

from __future__ import annotations

import base64
import json
import math
import re
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from pydantic import SecretStr

from segloop.errors import LabelStudioError, LabelStudioUnreachable
from segloop.labelstudio import Credentials, LabelStudio
from segloop.payloads import project_key
from segloop.settings import Settings
from tests.label_studio_server import Answer, FakeLabelStudio, Request, fake, studio

__all__ = ["fake", "studio"]


def jwt(**claims: object) -> str:
    def part(value: object) -> str:
        return base64.urlsafe_b64encode(json.dumps(value).encode()).decode().rstrip("=")

    return f"{part({'alg': 'HS256', 'typ': 'JWT'})}.{part(claims)}.c2ln"


PAT = jwt(token_type="refresh", exp=8102588734, iat=1795388734)


def test_project_key_is_the_one_label_studio_sends() -> None:
    assert project_key({"id": 29, "created_at": "2026-11-22T21:30:40.123456Z"}) == "29.1795383040"


def test_no_key_sends_no_header() -> None:
    assert Credentials("http://127.0.0.1:9", SecretStr("")).headers() == {}


def test_legacy_token_is_sent_as_it_is() -> None:
    assert Credentials("http://127.0.0.1:9", SecretStr("abc")).headers() == {"Authorization": "Token abc"}


def test_personal_access_token_is_exchanged_once_for_its_life(fake: FakeLabelStudio) -> None:
    access = jwt(token_type="access", iat=1000, exp=1300)
    fake.routes["POST /api/token/refresh/"] = (200, {"access": access})
    credentials = Credentials(f"{fake.url}/", SecretStr(PAT))
    with ThreadPoolExecutor(8) as pool:
        headers = list(pool.map(lambda _: credentials.headers(), range(16)))
    assert headers == [{"Authorization": f"Bearer {access}"}] * 16
    assert [request.body for request in fake.requests] == [{"refresh": PAT}]


def test_personal_access_token_is_exchanged_again_when_the_margin_is_reached(fake: FakeLabelStudio) -> None:
    fake.routes["POST /api/token/refresh/"] = (200, {"access": jwt(iat=1000, exp=1030)})
    credentials = Credentials(fake.url, SecretStr(PAT))
    credentials.headers()
    credentials.headers()
    assert len(fake.requests) == 2


def test_access_token_without_claims_is_kept_for_a_while(fake: FakeLabelStudio) -> None:
    fake.routes["POST /api/token/refresh/"] = (200, {"access": "opaque"})
    credentials = Credentials(fake.url, SecretStr(PAT))
    assert credentials.headers() == credentials.headers() == {"Authorization": "Bearer opaque"}
    assert len(fake.requests) == 1


@pytest.mark.parametrize(
    ("answer", "kind", "sentence"),
    [
        ((401, {"detail": "Token is invalid"}), LabelStudioError, "refuses the personal access token (401)"),
        ((200, {}), LabelStudioError, "gave no access token"),
        ((200, ["odd"]), LabelStudioError, "gave no access token"),
        ((502, b"<html>"), LabelStudioUnreachable, "is not available now (502"),
        ((500, b"<html>"), LabelStudioError, "answered 500"),
    ],
)
def test_failed_exchange_is_one_sentence_without_the_token(
    fake: FakeLabelStudio, answer: tuple[int, Any], kind: type[Exception], sentence: str
) -> None:
    fake.routes["POST /api/token/refresh/"] = answer
    with pytest.raises(kind, match=re.escape(sentence)) as caught:
        Credentials(fake.url, SecretStr(PAT)).headers()
    assert PAT not in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.slow
def test_label_studio_that_is_away_is_unreachable() -> None:
    studio = LabelStudio.from_settings(Settings(label_studio_url="http://127.0.0.1:9", label_studio_api_key="abc"))
    with pytest.raises(LabelStudioUnreachable, match="cannot be reached"):
        studio.projects.get(1)
    with pytest.raises(LabelStudioUnreachable, match="cannot be reached"):
        list(studio.tasks.annotated_pages(1))
    with pytest.raises(LabelStudioUnreachable, match="cannot be reached"):
        list(studio.tasks.unlabelled(1, "v1"))
    with pytest.raises(LabelStudioUnreachable, match="cannot be reached"):
        Credentials("http://127.0.0.1:9", SecretStr(PAT)).headers()
    studio.close()


def test_project_comes_without_its_secrets(fake: FakeLabelStudio, studio: LabelStudio) -> None:
    fake.routes["GET /api/projects/3/"] = (200, {"id": 3, "task_data_password": "p", "token": "t", "sampling": "x"})
    assert studio.projects.get(3) == {"id": 3, "sampling": "x"}
    assert fake.requests[0].authorization == "Token 0123456789abcdef"


def test_refusal_names_label_studios_reasons(fake: FakeLabelStudio, studio: LabelStudio) -> None:
    body = {"detail": "Validation error", "validation_errors": {"title": ["Too short.", "Odd."], "url": "Bad."}}
    fake.routes["GET /api/projects/3/"] = (400, body)
    with pytest.raises(LabelStudioError, match=re.escape("Validation error; title: Too short. Odd.; url: Bad.")):
        studio.projects.get(3)


def test_address_with_a_path_is_kept(fake: FakeLabelStudio) -> None:
    fake.routes["GET /ls/api/projects/3/"] = (200, {"id": 3})
    fake.routes["GET /ls/api/tasks/"] = (200, {"tasks": [], "total": 0})
    url = f"{fake.url}/ls/"
    studio = LabelStudio(url, Credentials(url, SecretStr("abc")))
    assert studio.projects.get(3) == {"id": 3}
    assert list(studio.tasks.unlabelled(3, "v1")) == list(studio.tasks.annotated_pages(3)) == []
    studio.close()


def _listing(labelled: int, skipped: int = 0, largest_page: int = 1000) -> Answer:
    """A project whose first tasks are labelled and whose next are skipped, as Label Studio lists it."""

    def answer(request: Request) -> tuple[int, Any]:
        wanted = {(item["filter"].split(":")[2], item["operator"]): item["value"] for item in _filters(request)}
        ids = range(1, labelled + 1) if ("total_annotations", "greater") in wanted else range(1001, 1001 + skipped)
        found = [i for i in ids if wanted["id", "greater"] < i <= wanted.get(("id", "less_or_equal"), math.inf)]
        annotation = {"id": 1, "updated_at": "2026-11-22T12:00:00.5Z", "result": [{"value": {"rle": [0, 255]}}]}
        whole = {"annotations": [annotation], "drafts": []} if request.query["fields"] == "all" else {}
        page = found[: min(int(request.query["page_size"]), largest_page)]
        tasks = [{"id": i, "data": {"image": "s3://b/k"}, "total_annotations": 1, **whole} for i in page]
        return 200, {"tasks": tasks, "total": len(found), "total_annotations": 2 * len(found)}

    return answer


def _filters(request: Request) -> list[dict[str, Any]]:
    filters = json.loads(request.query["query"])["filters"]
    assert filters["conjunction"] == "and"
    return list(filters["items"])


@pytest.mark.parametrize(("total", "largest_page"), [(0, 100), (1, 100), (20, 100), (45, 100), (45, 7)])
def test_every_page_of_annotated_tasks_is_read_once(
    fake: FakeLabelStudio, studio: LabelStudio, total: int, largest_page: int
) -> None:
    fake.routes["GET /api/tasks/"] = _listing(total, 0, largest_page)
    tasks = [task for page in studio.tasks.annotated_pages(3) for task in page]
    assert [task["id"] for task in tasks] == list(range(1, total + 1))
    assert all(task.keys() == {"id", "data", "annotations"} for task in tasks)
    assert all(task["annotations"][0]["result"] == [{"value": {"rle": [0, 255]}}] for task in tasks)
    assert all(request.query["resolve_uri"] == "false" for request in fake.requests)
    # And one more, for tasks that are skipped alone.
    assert len(fake.requests) == max(math.ceil(total / min(largest_page, 20)), 1) + 1


def test_annotated_tasks_are_labelled_or_skipped_and_changed_since_in_a_range(
    fake: FakeLabelStudio, studio: LabelStudio
) -> None:
    fake.routes["GET /api/tasks/"] = _listing(9, 2)
    since = datetime(2026, 11, 22, 13, 0, 0, 250_000, tzinfo=timezone(timedelta(hours=1)))
    pages = studio.tasks.annotated_pages(3, since=since, after=4, upto=1001)
    assert [task["id"] for page in pages for task in page] == [5, 6, 7, 8, 9, 1001]
    labelled, skipped = (
        {item["filter"].split(":")[2]: (item["operator"], item["type"], item["value"]) for item in _filters(request)}
        for request in fake.requests
    )
    assert labelled["total_annotations"] == ("greater", "Number", 0)
    assert (skipped["total_annotations"], skipped["cancelled_annotations"]) == (
        ("equal", "Number", 0),
        ("greater", "Number", 0),
    )
    updated = ("greater_or_equal", "Datetime", "2026-11-22T12:00:00.250000Z")
    assert labelled["updated_at"] == skipped["updated_at"] == updated


def test_totals_and_ids_are_light(fake: FakeLabelStudio, studio: LabelStudio) -> None:
    fake.routes["GET /api/tasks/"] = _listing(500)
    totals = studio.tasks.totals(3, 100, 400)
    assert (totals.tasks, totals.annotations) == (300, 600)
    assert abs(totals.clock - datetime.now(UTC)) < timedelta(minutes=1)
    assert studio.tasks.labelled_ids(3, 100, 400) == list(range(101, 401))
    assert [request.query["page_size"] for request in fake.requests] == ["1", "200", "200"]
    assert {request.query["fields"] for request in fake.requests} == {"task_only"}


def test_unlabelled_tasks_are_light_and_filtered_by_version(fake: FakeLabelStudio, studio: LabelStudio) -> None:
    fake.routes["GET /api/tasks/"] = (200, {"tasks": [{"id": 7, "data": {"image": "a"}}], "total": 1})
    assert list(studio.tasks.unlabelled(3, "v2-0011aabb")) == [{"id": 7, "data": {"image": "a"}}]
    (request,) = fake.requests
    assert request.query["fields"] == "task_only"
    filters = json.loads(request.query["query"])["filters"]
    assert filters["conjunction"] == "and"
    assert {item["filter"]: (item["operator"], item["value"]) for item in filters["items"]} == {
        "filter:tasks:id": ("greater", 0),
        "filter:tasks:total_annotations": ("equal", 0),
        "filter:tasks:predictions_model_versions": ("not_contains", ["v2-0011aabb"]),
    }


def test_nothing_to_predict_asks_nothing(fake: FakeLabelStudio, studio: LabelStudio) -> None:
    assert studio.predictions.create(3, []) == 0
    assert fake.requests == []


def test_predictions_of_gone_tasks_are_dropped_and_the_others_kept(
    fake: FakeLabelStudio, studio: LabelStudio, caplog: pytest.LogCaptureFixture
) -> None:
    stored = []

    def store(request: Request) -> tuple[int, Any]:
        if request.body["task"] == 8:
            return 400, {"detail": "Validation error"}
        stored.append(request.body)
        return 201, request.body

    fake.routes["POST /api/projects/3/import/predictions"] = (400, {"detail": "Validation error"})
    fake.routes["POST /api/predictions/"] = store
    predictions = [{"task": i, "result": [], "score": 0.5, "model_version": "v1"} for i in (7, 8, 9)]
    assert studio.predictions.create(3, predictions) == 2
    assert [prediction["task"] for prediction in stored] == [7, 9]
    assert "task 8 is gone" in caplog.text


def test_refused_prediction_of_a_task_that_exists_is_an_error(fake: FakeLabelStudio, studio: LabelStudio) -> None:
    for path in ("/api/projects/3/import/predictions", "/api/predictions/"):
        fake.routes[f"POST {path}"] = (403, {"detail": "No."})
    fake.routes["GET /api/tasks/7/"] = (200, {"id": 7})
    with pytest.raises(LabelStudioError, match="answered 403"):
        studio.predictions.create(3, [{"task": 7, "result": [], "score": None, "model_version": "v1"}])
