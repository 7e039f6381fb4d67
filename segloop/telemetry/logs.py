"""Logging, set up once at each entry point: as text or JSON, with the id of the request and without secrets."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Final, Literal, cast
from urllib.parse import quote

from segloop.telemetry.notes import REQUEST_ID

LogFormat = Literal["text", "json"]

#: Libraries that log whole addresses, signed queries included, at INFO or DEBUG.
_TALKATIVE = ("httpx", "httpcore", "urllib3", "botocore", "boto3", "s3transfer", "PIL")

#: What is put in the place of a secret.
HIDDEN: Final = "***"
#: Secrets shorter than this are left alone: they would be found in half the words of a line.
_SHORTEST_SECRET = 4

_PATTERNS: Final = (
    # the query of an address, which may sign it; and a user and password in it
    (re.compile(r"(\b[a-z][a-z0-9+.-]*://[^\s?#\"'\\<>]*)\?[^\s\"'\\<>]*", re.IGNORECASE), rf"\1?{HIDDEN}"),
    (re.compile(r"(\b[a-z][a-z0-9+.-]*://)[^\s/@\"'\\]*@", re.IGNORECASE), rf"\1{HIDDEN}@"),
    # a signature without its address, the header Authorization, and tokens in their usual forms
    (re.compile(r"\b(X-Amz-[\w-]+|X-Goog-[\w-]+|Signature|AWSAccessKeyId|sig)=[^\s&\"'\\]+", re.IGNORECASE), rf"\1={HIDDEN}"),
    (re.compile(r"\b(Basic|Bearer|Token)\s+[A-Za-z0-9._~+/-]{8,}=*", re.IGNORECASE), rf"\1 {HIDDEN}"),
    (re.compile(r"\beyJ[\w-]{8,}\.[\w-]{8,}\.[\w-]*"), HIDDEN),
)  # fmt: skip


#: supervisord's lines: date, time, level, message.
_SUPERVISORD = re.compile(r"\S+ \S+ (CRIT|ERRO|WARN|INFO|DEBG) (.*)")
_LEVELS = {"CRIT": "CRITICAL", "ERRO": "ERROR", "WARN": "WARNING", "INFO": "INFO", "DEBG": "DEBUG"}

#: What this process's log hides.
_hidden: tuple[str, ...] = ()


def configure_logging(level: str, log_format: LogFormat = "text", secrets: Iterable[str] = ()) -> None:
    """Log to stderr at `level`; libraries that would log addresses stay at WARNING.

    Args:
        log_format: `text`, or `json`: one JSON object a line.
        secrets: texts that no line may show, wherever they come from.
    """
    global _hidden
    _hidden = _written(secrets)
    root = logging.getLogger()
    for handler in [handler for handler in root.handlers if isinstance(handler, _Handler)]:
        root.removeHandler(handler)
    own = _Handler()
    own.setFormatter(formatter(log_format, secrets))
    root.addHandler(own)
    root.setLevel(level)
    for name in _TALKATIVE:
        logging.getLogger(name).setLevel(logging.WARNING)


def formatter(log_format: LogFormat, secrets: Iterable[str] = ()) -> logging.Formatter:
    """The formatter of a log: what it makes is redacted, and says which request it is about."""
    plain: logging.Formatter = _Text() if log_format == "text" else _json()
    return _Redacting(plain, secrets)


def as_logged(text: str) -> str:
    """A text as this process's log would show it: without secrets."""
    return redact(text, _hidden)


def redact(text: str, secrets: Iterable[str] = ()) -> str:
    """A text without these secrets, signed queries, passwords in addresses, and tokens."""
    for secret in secrets:
        text = text.replace(secret, HIDDEN)
    for pattern, replacement in _PATTERNS:
        text = pattern.sub(replacement, text)
    return text


def _written(secrets: Iterable[str]) -> tuple[str, ...]:
    """The forms in which secrets may stand in a text: as they are, as Python and JSON write a string (quotes and backslashes
    escaped), and as an address does; the longest first."""
    forms: set[str] = set()
    for secret in secrets:
        if len(secret) >= _SHORTEST_SECRET:
            plain = {secret, repr(secret)[1:-1], quote(secret), quote(secret, safe="")}
            forms |= plain | {json.dumps(form, ensure_ascii=False)[1:-1] for form in plain}
    return tuple(sorted(forms, key=lambda form: (-len(form), form)))


def in_form(line: str, log_format: LogFormat, secrets: Iterable[str] = ()) -> str:
    """A line of another program's log in the form of this one; a line that has it already stays as it is."""
    line = line.rstrip("\n")
    if log_format == "text" or (line.startswith("{") and line.endswith("}")):
        return redact(line, _written(secrets))
    known = _SUPERVISORD.match(line)
    level, message = (_LEVELS[known[1]], known[2]) if known else ("INFO", line)
    record = logging.LogRecord("supervisor", logging.getLevelName(level), "", 0, message, None, None)
    return formatter(log_format, secrets).format(record)


class _Handler(logging.StreamHandler):  # type: ignore[type-arg]
    """The handler of this module: another call replaces it, and leaves those of others."""


class _Text(logging.Formatter):
    """time, level, logger and message; the request's id in brackets, where there is one."""

    def format(self, record: logging.LogRecord) -> str:
        request_id = REQUEST_ID.get()
        record.request = f" [{request_id}]" if request_id else ""
        return super().format(record)

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)-7s %(name)s%(request)s: %(message)s")


class _Redacting(logging.Formatter):
    """Another formatter's lines, without secrets."""

    def __init__(self, plain: logging.Formatter, secrets: Iterable[str]) -> None:
        super().__init__()
        self._plain = plain
        self._secrets = _written(secrets)

    def format(self, record: logging.LogRecord) -> str:
        return redact(self._plain.format(record), self._secrets)


def _json() -> logging.Formatter:
    # imported where it is asked for: a start as text does without it
    from pythonjsonlogger.json import JsonFormatter

    class _Json(JsonFormatter):
        """time (UTC, RFC 3339), level, logger, process, message, request_id, what `extra` gave, exc_info."""

        def add_fields(
            self, log_record: dict[str, object], record: logging.LogRecord, message_dict: dict[str, object]
        ) -> None:
            super().add_fields(log_record, record, message_dict)
            moment = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
            first = {"time": moment.replace("+00:00", "Z"), "level": record.levelname, "logger": record.name}
            if request_id := REQUEST_ID.get():
                first["request_id"] = request_id
            fields = {**first, **log_record, "process": record.process}
            log_record.clear()
            log_record.update(fields)

    return cast(logging.Formatter, _Json("%(message)s", json_ensure_ascii=False))
