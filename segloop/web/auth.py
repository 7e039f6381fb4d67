"""Who may ask: basic auth, or the secret header of the webhook; and no page of another site in somebody's browser."""

from __future__ import annotations

import hmac
from collections.abc import Callable

from flask import request
from werkzeug.exceptions import Forbidden

from segloop.errors import Unauthorized
from segloop.labelstudio import SECRET_HEADER
from segloop.settings import Settings, is_loopback

_OPEN = frozenset(("/health", "/ready"))


def guard(settings: Settings) -> Callable[[], None]:
    """A check to run before each request.

    `/health` and `/ready` are open, because probes have no password. While no password is set, everything is open to
    callers on this machine alone. A browser on it is such a caller too, whichever site's page it shows: what changes
    anything is refused where a browser says that a page sends it. The status page guards its own forms.

    Raises Unauthorized, or Forbidden for a page.
    """
    user, password = settings.basic_auth_user, settings.basic_auth_pass.get_secret_value()
    secret = settings.webhook_secret.get_secret_value()

    def check() -> None:
        if request.path in _OPEN:
            return
        if request.method == "POST" and not request.path.startswith("/ui/") and _is_sent_by_page():
            raise Forbidden("A page in a browser sends this; Label Studio and programs alone may.")
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


def _is_sent_by_page() -> bool:
    """Whether a browser sends the request for a page: it names the page's site with every POST (Fetch standard, "Append a
    request Origin header"), and its own users' addresses are of none."""
    return "Origin" in request.headers or request.headers.get("Sec-Fetch-Site", "none") != "none"


def _same(given: str, expected: str) -> bool:
    return hmac.compare_digest(given.encode(), expected.encode())
