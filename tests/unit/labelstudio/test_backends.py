"""Backends in Label Studio: the project's is found, has its version for a title, and is connected with a webhook."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import SecretStr

from segloop.errors import LabelStudioError
from segloop.labelstudio import ANNOTATION_ACTIONS, SECRET_HEADER, BackendSpec, LabelStudio
from tests.label_studio_server import FakeLabelStudio, Request, fake, studio

__all__ = ["fake", "studio"]


def _backend(number: int, url: str, **fields: Any) -> dict[str, Any]:
    return {"id": number, "url": url, "project": 3, "title": "old", "auth_method": "NONE", **fields}


def test_only_backend_is_found_and_several_need_an_address(fake: FakeLabelStudio, studio: LabelStudio) -> None:
    one, two = _backend(1, "http://one:9090"), _backend(2, "http://two:9090/")
    fake.routes["GET /api/ml/"] = (200, [])
    assert studio.backends.find(3) is None
    fake.routes["GET /api/ml/"] = (200, [one])
    assert studio.backends.find(3) == one
    fake.routes["GET /api/ml/"] = (200, [one, two])
    assert studio.backends.find(3, "http://two:9090") == two
    with pytest.raises(LabelStudioError, match="set SEGLOOP_PUBLIC_URL"):
        studio.backends.find(3)
    with pytest.raises(LabelStudioError, match="http://one:9090, http://two:9090/"):
        studio.backends.find(3, "http://three:9090")


def test_title_keeps_what_label_studio_forgets(fake: FakeLabelStudio, studio: LabelStudio) -> None:
    backend = _backend(
        1, "http://one:9090", is_interactive=True, extra_params={"input_size": 256}, timeout=100.0,
        auth_method="BASIC_AUTH", basic_auth_user="u", basic_auth_pass_is_set=True, model_version="x", state="CO",
    )  # fmt: skip
    fake.routes["PATCH /api/ml/1"] = lambda request: (200, backend | request.body)
    fake.routes["GET /api/projects/3/"] = (200, {"id": 3, "model_version": "old"})
    fake.routes["PATCH /api/projects/3/"] = (200, {"id": 3})
    assert studio.backends.set_title(backend, "v2-0011aabb")["title"] == "v2-0011aabb"
    assert fake.asked("PATCH", "/api/ml/1")[0].body == {
        "url": "http://one:9090",
        "project": 3,
        "title": "v2-0011aabb",
        "is_interactive": True,
        "extra_params": {"input_size": 256},
        "timeout": 100.0,
        "auth_method": "BASIC_AUTH",
        "basic_auth_user": "u",
        "basic_auth_pass": "",
    }
    assert [request.body for request in fake.asked("PATCH", "/api/projects/3/")] == [{"model_version": "v2-0011aabb"}]


@pytest.mark.parametrize("chosen", ["v2-0011aabb", "somebody's choice"])
def test_title_leaves_a_version_that_a_person_chose(fake: FakeLabelStudio, studio: LabelStudio, chosen: str) -> None:
    fake.routes["GET /api/projects/3/"] = (200, {"id": 3, "model_version": chosen})
    backend = _backend(1, "http://one:9090", title="v2-0011aabb")
    assert studio.backends.set_title(backend, "v2-0011aabb") == backend
    assert {request.method for request in fake.requests} == {"GET"}


def test_connect_lives_with_a_webhook_that_label_studio_refuses(fake: FakeLabelStudio, studio: LabelStudio) -> None:
    backend = _backend(1, "http://ml-backend:9090")
    listed: list[dict[str, Any]] = []

    def add(request: Request) -> tuple[int, Any]:
        listed.append(backend)
        return 403, {"detail": "URL resolves to a reserved network address"}

    fake.routes["GET /api/ml/"] = lambda _: (200, listed)
    fake.routes["POST /api/ml/"] = add
    fake.routes["GET /api/webhooks/"] = (200, [])
    fake.routes["POST /api/webhooks/"] = (400, {"validation_errors": {"url": ["Enter a valid URL."]}})
    report = studio.backends.connect(3, BackendSpec("http://ml-backend:9090", "v1", webhook_secret=SecretStr("s3cret")))
    assert report.backend == backend
    assert report.created
    assert report.webhook is None
    assert report.webhook_problem is not None
    assert "url: Enter a valid URL." in report.webhook_problem
    assert "s3cret" not in report.webhook_problem


def test_connect_keeps_headers_that_somebody_else_set(fake: FakeLabelStudio, studio: LabelStudio) -> None:
    fake.routes["GET /api/ml/"] = (200, [])
    fake.routes["POST /api/ml/"] = (201, _backend(1, "http://one:9090"))
    fake.routes["GET /api/webhooks/"] = (
        200,
        [{"id": 4, "url": "http://x/webhook"}, {"id": 5, "url": "http://one:9090/webhook", "headers": {"X-A": "1"}}],
    )
    fake.routes["PATCH /api/webhooks/5/"] = (200, {})
    report = studio.backends.connect(3, BackendSpec("http://one:9090/", "v1", webhook_secret=SecretStr("s")))
    assert report.webhook is not None
    assert report.webhook.id == 5
    (request,) = fake.asked("PATCH", "/api/webhooks/5/")
    assert request.body["headers"] == {"X-A": "1", SECRET_HEADER: "s"}
    assert request.body["actions"] == sorted(ANNOTATION_ACTIONS)


def test_connect_raises_when_the_backend_was_not_added(fake: FakeLabelStudio, studio: LabelStudio) -> None:
    fake.routes["GET /api/ml/"] = (200, [])
    fake.routes["POST /api/ml/"] = (400, {"validation_errors": {"non_field_errors": ["Can't connect"]}})
    with pytest.raises(LabelStudioError, match="Can't connect"):
        studio.backends.connect(3, BackendSpec("http://one:9090", "v1"))
