"""A project's webhook in a real Label Studio."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import SecretStr

from demo.label_studio import RunningLabelStudio
from segloop.errors import LabelStudioError
from segloop.labelstudio import ANNOTATION_ACTIONS, SECRET_HEADER, EnsuredWebhook, LabelStudio

pytestmark = pytest.mark.label_studio

CONFIG = """<View><Image name="image" value="$image"/>
<BrushLabels name="brush" toName="image"><Label value="Sky"/></BrushLabels></View>"""
URL = "http://segloop.example:9090/webhook"


@pytest.fixture
def project(running: RunningLabelStudio) -> int:
    return int(running.create_project("webhooks", CONFIG)["id"])


def ensure(studio: LabelStudio, project: int, secret: str = "one", **options: Any) -> EnsuredWebhook:
    return studio.webhooks.ensure(project, URL, headers={SECRET_HEADER: SecretStr(secret)}, **options)


def test_it_is_made_once_and_then_left_alone(studio: LabelStudio, project: int) -> None:
    made = ensure(studio, project)
    assert (made.done, made.changed) == ("created", ())
    assert ensure(studio, project) == EnsuredWebhook(made.id, "unchanged")
    (webhook,) = studio.webhooks.all(project)
    assert (webhook["url"], webhook["is_active"], webhook["send_payload"]) == (URL, True, True)
    assert (webhook["send_for_all_actions"], sorted(webhook["actions"])) == (False, sorted(ANNOTATION_ACTIONS))
    assert webhook["headers"] == {SECRET_HEADER: "one"}


@pytest.mark.parametrize(
    ("field", "broken"),
    [
        ("is_active", False),
        ("send_payload", False),
        ("send_for_all_actions", True),
        ("actions", ["ANNOTATION_CREATED", "TASKS_CREATED"]),
        ("actions", []),
        ("headers", {}),
        ("headers", {"x-segloop-secret": "old"}),
        ("url", f"{URL}/"),
    ],
)
def test_what_is_not_as_wanted_is_mended_and_named(
    running: RunningLabelStudio, studio: LabelStudio, project: int, field: str, broken: object
) -> None:
    made = ensure(studio, project)
    (before,) = studio.webhooks.all(project)
    with running.client() as client:
        kept = {"actions": before["actions"]} if field != "actions" else {}
        client.patch(f"/api/webhooks/{made.id}/", json={field: broken, **kept}).raise_for_status()
    assert ensure(studio, project) == EnsuredWebhook(made.id, "updated", (field,))
    (after,) = studio.webhooks.all(project)
    stamps = {"updated_at": None, "actions": sorted(ANNOTATION_ACTIONS)}
    assert {**after, **stamps} == {**before, **stamps}


def test_headers_of_others_stay_and_a_second_webhook_at_the_address_goes(
    running: RunningLabelStudio, studio: LabelStudio, project: int
) -> None:
    fields = {"project": project, "send_for_all_actions": True}
    with running.client() as client:
        for url, headers in ((URL, {"X-Proxy": "p"}), (f"{URL}/", {}), ("http://other.example/webhook", {})):
            client.post("/api/webhooks/", json={"url": url, "headers": headers, **fields}).raise_for_status()
    done = ensure(studio, project, "two")
    assert (done.done, set(done.changed)) == ("updated", {"send_for_all_actions", "actions", "headers", "duplicate"})
    mine, other = studio.webhooks.all(project)
    assert (mine["id"], mine["headers"]) == (done.id, {"X-Proxy": "p", SECRET_HEADER: "two"})
    assert (other["url"], other["headers"]) == ("http://other.example/webhook", {})
    assert "two" not in repr(done)


def test_a_refusal_names_the_reason_and_no_secret(studio: LabelStudio, project: int) -> None:
    with pytest.raises(LabelStudioError, match="Enter a valid URL") as caught:
        studio.webhooks.ensure(project, "http://ml-backend:9090/webhook", headers={SECRET_HEADER: SecretStr("s3cret")})
    assert "s3cret" not in str(caught.value)
