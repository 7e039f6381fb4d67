"""Lines of the log: text and JSON, with the request's id and without secrets."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Iterator
from urllib.parse import quote

import pytest

from segloop.settings import Settings
from segloop.telemetry.logs import LogFormat, configure_logging, formatter, in_form, redact
from segloop.telemetry.notes import REQUEST_ID


def record(message: str, *arguments: object, **extra: object) -> logging.LogRecord:
    made = logging.LogRecord("segloop.test", logging.WARNING, "", 0, message, arguments, None)
    made.__dict__.update(extra)
    return made


@pytest.fixture
def request_id() -> Iterator[str]:
    token = REQUEST_ID.set("abc-1")
    yield "abc-1"
    REQUEST_ID.reset(token)


def test_text_names_the_request(request_id: str) -> None:
    assert formatter("text").format(record("a %s", "b")).endswith(" WARNING segloop.test [abc-1]: a b")


def test_text_without_a_request() -> None:
    assert formatter("text").format(record("a")).endswith(" WARNING segloop.test: a")


def test_json_is_one_object_a_line(request_id: str) -> None:
    line = formatter("json").format(record("größe %r", "a\nb", status=200))
    assert "\n" not in line
    fields = json.loads(line)
    assert fields["message"] == "größe 'a\\nb'"
    assert (fields["level"], fields["logger"], fields["request_id"]) == ("WARNING", "segloop.test", request_id)
    assert fields["status"] == 200
    assert fields["time"].endswith("Z")
    assert isinstance(fields["process"], int)


@pytest.mark.parametrize("log_format", ["text", "json"])
def test_secrets_are_hidden_in_messages_and_tracebacks(log_format: str) -> None:
    lines = formatter(log_format, ["hunter22"])  # type: ignore[arg-type]
    try:
        raise RuntimeError("no answer of redis://:p4ssw0rd@queue:6379/0 with hunter22")
    except RuntimeError:
        made = record("password %s", "hunter22")
        made.exc_info = sys.exc_info()
    line = lines.format(made)
    assert "hunter22" not in line
    assert "p4ssw0rd" not in line
    assert "RuntimeError" in line
    if log_format == "json":
        assert "queue:6379" in json.loads(line)["exc_info"]


@pytest.mark.parametrize("log_format", ["text", "json"])
@pytest.mark.parametrize("secret", ['xy"zzy', "xy\\zzy\\", "xy'\"zzy", "xy%zzy/ü @"])
def test_secrets_are_hidden_however_they_are_written(log_format: LogFormat, secret: str) -> None:
    lines = formatter(log_format, [secret])
    try:
        raise RuntimeError({"password": secret})
    except RuntimeError:
        made = record("%s, %r, %s", secret, {"key": secret}, f"redis queue/{quote(secret, safe='')}")
        made.exc_info = sys.exc_info()
    line = lines.format(made)
    assert line.count("***") == 4
    assert "zzy" not in line
    if log_format == "json":
        assert json.loads(line)["message"] == "***, {'key': '***'}, redis queue/***"
    supervised = in_form(f"a line of Valkey's: {secret}", log_format, [secret])
    assert "a line of Valkey's: ***" in supervised


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("GET https://b.s3.amazonaws.com/a.jpg?X-Amz-Signature=1f&b=2 x", "GET https://b.s3.amazonaws.com/a.jpg?*** x"),
        ("('https://h/a?sig=abc', 1)", "('https://h/a?***', 1)"),
        ("to http://ann:secret@h/a.", "to http://***@h/a."),
        ("/a.jpg?X-Amz-Credential=AKIA%2F1&X-Amz-Signature=ff", "/a.jpg?X-Amz-Credential=***&X-Amz-Signature=***"),
        ("Authorization: Token 0123456789abcdef", "Authorization: Token ***"),
        ("Authorization: Basic YW5uOnNlY3JldA==", "Authorization: Basic ***"),
        ("refresh eyJhbGciOiJI.eyJ0b2tlbiI6.c2lnbmF0dXJl failed", "refresh *** failed"),
        ("task 3 of project 29.1: nothing to hide? no", "task 3 of project 29.1: nothing to hide? no"),
        ("Token is missing", "Token is missing"),
    ],
)
def test_what_signs_is_hidden_wherever_it_comes_from(text: str, shown: str) -> None:
    assert redact(text) == shown


def test_short_secrets_do_not_hide_words() -> None:
    assert formatter("text", ["a"]).format(record("a banana")).endswith("a banana")


def test_settings_know_their_secrets() -> None:
    settings = Settings(
        basic_auth_pass="basic-pass", webhook_secret="hook", label_studio_api_key="key", redis_url="redis://:p%40ss@h/0"
    )
    assert set(settings.secrets) == {"basic-pass", "hook", "key", "p%40ss", "p@ss"}


@pytest.mark.parametrize(
    ("line", "level", "message"),
    [
        ("2026-11-23 09:00:01,123 WARN exited: web (exit status 1)\n", "WARNING", "exited: web (exit status 1)"),
        ("123:M 23 Nov 2026 09:00:00 # Ready", "INFO", "123:M 23 Nov 2026 09:00:00 # Ready"),
    ],
)
def test_lines_of_other_programs_are_put_into_json(line: str, level: str, message: str) -> None:
    fields = json.loads(in_form(line, "json"))
    assert (fields["level"], fields["logger"], fields["message"]) == (level, "supervisor", message)


def test_lines_that_are_in_form_stay() -> None:
    assert in_form('{"message": "a"}\n', "json") == '{"message": "a"}'
    assert in_form("plain\n", "text") == "plain"


def test_libraries_that_log_addresses_are_quiet(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging("DEBUG", "json")
    logging.getLogger("httpx").info("GET http://h/a?sig=1")
    logging.getLogger("segloop").debug("seen")
    [line] = capsys.readouterr().err.splitlines()
    assert json.loads(line)["message"] == "seen"
