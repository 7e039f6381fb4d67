"""gunicorn's own logs, in the form of all others."""

from __future__ import annotations

from typing import Any

from gunicorn.glogging import Logger as _Logger

from segloop.settings import load_settings
from segloop.telemetry.logs import formatter


class Logger(_Logger):  # type: ignore[misc]
    """gunicorn's logger with segloop's formatter, for the error log and for an access log that is asked for."""

    def setup(self, cfg: Any) -> None:
        super().setup(cfg)
        settings = load_settings()
        for log in (self.error_log, self.access_log):
            for handler in log.handlers:
                handler.setFormatter(formatter(settings.log_format, settings.secrets))
