"""The sentence of a refusal: in the status line, in the log, and fit for both."""

from __future__ import annotations

import base64
import json
import logging

import pytest

from segloop.errors import RegistryError
from segloop.labelstudio import SECRET_HEADER
from segloop.settings import Settings
from segloop.web import create_app
from segloop.web.refusals import LONGEST, reason_phrase
from tests.toys import BRUSH
from tests.world import World

NO_IMAGE = '<View><Text name="text" value="$text"/></View>'


@pytest.fixture
def world(settings: Settings):
    made = World(settings.model_copy(update={"redis_url": "redis://127.0.0.1:9/0"}))
    yield made
    made.close()


def test_every_error_of_the_protocol_has_its_sentence_in_the_status_line(world: World) -> None:
    for method, path, body, code, sentence in (
        ("POST", "/setup", {"project": "7.1", "schema": NO_IMAGE}, 400, "The label config has no Image tag;"),
        ("POST", "/setup", {"schema": BRUSH}, 400, "project is missing;"),
        ("POST", "/predict", {"tasks": 5}, 400, "tasks is 5;"),
        ("POST", "/webhook", {"action": "START_TRAINING", "project": {"id": 7}}, 503, "The queue (Redis)"),
        ("GET", "/is_training?project=9", None, 400, "project 9 is unknown here"),
        ("GET", "/no-such-route", None, 404, "Not Found:"),
        ("GET", "/predict", None, 405, "Method Not Allowed:"),
    ):
        answer = world.client.open(path, method=method, json=body)
        assert answer.status.startswith(f"{code} {sentence}"), path
        assert answer.json["error"].startswith(sentence)
    app = create_app(
        world.backend,
        world.settings.model_copy(update={"basic_auth_pass": Settings(basic_auth_pass="p").basic_auth_pass}),
    )
    assert app.test_client().post("/setup", json={}).status == "401 Basic auth is needed."


def test_a_store_that_is_away_can_be_asked_again(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    def away(project: str) -> None:
        raise RegistryError("The store is away.")

    monkeypatch.setattr(world.backend, "versions", away)
    answer = world.client.get("/versions?project=29")
    assert (answer.status, answer.headers["Retry-After"]) == ("503 The store is away.", "5")


def test_a_reason_phrase_is_one_bounded_line_of_ascii_without_markup() -> None:
    assert (
        reason_phrase("No <Image>\r\nSet-Cookie: a=b\0 of \u201eStra\u00dfe\u201c.")
        == "No Image Set-Cookie: a=b of ?Stra?e?."
    )
    assert len(reason_phrase("word " * 1000)) <= LONGEST
    assert reason_phrase("\u00a0\n") == "?"


def test_a_refused_webhook_leaves_a_line_without_secrets(world: World, caplog: pytest.LogCaptureFixture) -> None:
    settings = Settings(data_dir=world.settings.data_dir, basic_auth_pass="hunter2hunter2", webhook_secret="s" * 24)
    client = create_app(world.backend, settings).test_client()
    with caplog.at_level(logging.WARNING, "segloop"):
        client.post("/webhook", json={}, headers={SECRET_HEADER: "not-the-secret"})
        basic = base64.b64encode(b"segloop:wrong-password").decode()
        client.post("/setup", json={}, headers={"Authorization": f"Basic {basic}"})
        client.post("/webhook", json=[{"token": "project-token"}], headers={SECRET_HEADER: "s" * 24})
        client.post("/webhook", data=b"{", headers={SECRET_HEADER: "s" * 24})
    lines = [record.getMessage() for record in caplog.records]
    assert f"/webhook refused with 401: Basic auth is needed, or the header {SECRET_HEADER}." in lines
    assert "/setup refused with 401: Wrong user or password." in lines
    assert "/webhook refused with 400: the body of /webhook is a JSON array; expected a JSON object." in lines
    assert not any(secret in caplog.text for secret in ("not-the-secret", "wrong-password", "project-token", basic))


def test_who_is_refused_again_and_again_fills_no_log(world: World, caplog: pytest.LogCaptureFixture) -> None:
    for _ in range(50):
        world.client.post("/webhook", json={})
    assert len([record for record in caplog.records if "refused with 400" in record.getMessage()]) < 10


LABEL_STUDIO = {"User-Agent": "heartex/1.23.2"}
GRANIAN = {"SERVER_SOFTWARE": "Granian"}


def test_under_granian_label_studio_is_sent_to_an_address_that_says_why(world: World) -> None:
    body = {"project": "7.1", "schema": NO_IMAGE}
    first = world.client.post("/setup", json=body, headers=LABEL_STUDIO, environ_overrides=GRANIAN)
    assert first.status_code == 307
    where = first.headers["Location"]
    assert where.startswith(
        "setup/The-label-config-has-no-Image-tag;-add-one-such-as-Image-name='image'-value='$image'"
    )
    second = world.client.post(f"/{where}", json=body, headers=LABEL_STUDIO, environ_overrides=GRANIAN)
    plain = world.client.post("/setup", json=body, environ_overrides=GRANIAN)
    assert (second.status, second.json) == (plain.status, plain.json)
    assert plain.status_code == 400


def test_the_address_itself_says_nothing(world: World) -> None:
    good = {"project": "7.1", "schema": BRUSH}
    answer = world.client.post("/setup/Send-your-password-to-evil.example", json=good, headers=LABEL_STUDIO)
    assert answer.status_code == 200
    answer = world.client.post("/setup/evil.example", json={}, headers=LABEL_STUDIO, environ_overrides=GRANIAN)
    assert answer.status_code == 400
    assert "evil" not in answer.text + answer.status + json.dumps(dict(answer.headers))


def test_nobody_else_is_sent_on(world: World) -> None:
    for path, headers, server in (
        ("/setup", {}, GRANIAN),
        ("/setup", LABEL_STUDIO, {"SERVER_SOFTWARE": "gunicorn/23.0.0"}),
        ("/predict", LABEL_STUDIO, GRANIAN),
        ("/webhook", LABEL_STUDIO, GRANIAN),
    ):
        assert world.client.post(path, json={}, headers=headers, environ_overrides=server).status_code == 400


@pytest.mark.slow
def test_no_sentence_leads_elsewhere(world: World) -> None:
    # a value that a caller chose is in the sentence, and so in the address
    for project in (
        "//evil.example/x",
        "../../x",
        "http://evil.example",
        "\r\nLocation: http://evil.example",
        "?a#b%2F",
    ):
        answer = world.client.post("/setup", json={"project": project}, headers=LABEL_STUDIO, environ_overrides=GRANIAN)
        assert answer.status_code == 307
        assert answer.headers["Location"].startswith("setup/project-is-'")
        assert not set(answer.headers["Location"]) & set("?#\r\n \\<>"), answer.headers["Location"]
