"""Logs as JSON, one object a line. No field ever holds a secret, a token or a signed address."""

from __future__ import annotations

import json
import logging


def get_logger(name: str) -> logging.Logger:
    """A logger whose records carry `extra={"fields": {...}}` as fields of their own."""
    logger = logging.getLogger(f"segloop.{name}")
    if not logger.handlers:
        handler = _Stdout()
        handler.setFormatter(_Json())
        logger.addHandler(handler)
        logger.setLevel(logging.INFO)
        # Lambda's own handler would write each line a second time
        logger.propagate = False
    return logger


def fields(**own: object) -> dict[str, dict[str, object]]:
    """The `extra` of a record."""
    return {"fields": own}


class _Stdout(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        print(self.format(record), flush=True)


class _Json(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        line = {"level": record.levelname, "logger": record.name, "message": record.getMessage()}
        line.update(getattr(record, "fields", {}))
        if record.exc_info:
            line["error"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)
