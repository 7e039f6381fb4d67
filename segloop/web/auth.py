"""Authentication of requests: basic auth, or the secret header of the webhook."""

from __future__ import annotations

import hmac
from collections.abc import Callable

from flask import request

from segloop.errors import Unauthorized
from segloop.labelstudio import SECRET_HEADER
from segloop.settings import Settings, is_loopback

_OPEN = frozenset(("/health", "/ready"))


def guard(settings: Settings) -> Callable[[], None]:
    """A check to run before each request; it raises Unauthorized.

    `/health` and `/ready` are open, because probes have no password. While no password is set, everything is open to
    callers on this machine alone.
    """
    user, password = settings.basic_auth_user, settings.basic_auth_pass.get_secret_value()
    secret = settings.webhook_secret.get_secret_value()

    def check() -> None:
        if request.path in _OPEN:
            return
        if not password:
            if not is_loopback(request.remote_addr):
                raise Unauthorized("No password is set, so only this machine is served; set BASIC_AUTH_PASS.")
            return
        if request.path == "/webhook" and secret and _same(request.headers.get(SECRET_HEADER, ""), secret):
            return
        given = request.authorization
        if given is None or given.type != "basic":
            hint = f", or the header {SECRET_HEADER}" if request.path == "/webhook" else ""
            raise Unauthorized(f"Basic auth is needed{hint}.")
        # Both are always compared, so that the time taken does not depend on which of them is wrong.
        right_user, right_password = _same(given.username or "", user), _same(given.password or "", password)
        if not (right_user and right_password):
            raise Unauthorized("Wrong user or password.")

    return check


def _same(given: str, expected: str) -> bool:
    return hmac.compare_digest(given.encode(), expected.encode())
