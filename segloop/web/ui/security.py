"""What keeps other sites away from the page: signed form tokens, the host's name, and security headers."""

from __future__ import annotations

import hashlib
import os
import secrets
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from flask import Response, request
from itsdangerous import BadSignature, URLSafeTimedSerializer
from werkzeug.exceptions import Forbidden

from segloop.settings import Settings, is_loopback

#: How long a page's buttons work after it was loaded, in seconds.
TOKEN_LIFE_S: Final = 12 * 3600
TOKEN_FIELD: Final = "token"  # noqa: S105 - the name of a form's field

_KEY_FILE = "status-page.key"
_HEADERS: Final = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
    "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}


class Tokens:
    """CSRF tokens: signed, of one user, and good for TOKEN_LIFE_S, in every process of this backend.

    There is no session to keep them in: who calls is said by basic auth, which a browser also sends with a form of
    another site. The key comes from the password, so that several hosts agree; without one, from a file in data_dir.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    def make(self, user: str) -> str:
        """A token for a form of this user's."""
        return str(self._serializer.dumps(user))

    def check(self, user: str, token: str) -> None:
        """Refuse a form that is not from a page of ours.

        Raises:
            Forbidden: the token is missing, forged, too old or of another user; or a browser says that another site
                sends the form.
        """
        if request.headers.get("Sec-Fetch-Site", "same-origin") != "same-origin":
            raise Forbidden("The form comes from another site.")
        try:
            owner = self._serializer.loads(token, max_age=TOKEN_LIFE_S)
        except BadSignature as error:
            raise Forbidden("The page is too old for its buttons; load it again.") from error
        if owner != user:
            raise Forbidden("The page was loaded by another user; load it again.")

    @cached_property
    def _serializer(self) -> URLSafeTimedSerializer:
        return URLSafeTimedSerializer(_key(self._settings), salt="segloop-status-page")


def only_own_host(settings: Settings) -> Callable[[], None]:
    """A check to run before each request: without a password, the page answers to this machine's own names alone, or
    a site could point its name at it and read it (DNS rebinding)."""

    def check() -> None:
        if not settings.has_password and not is_loopback(urlsplit(f"//{request.host}").hostname):
            raise Forbidden(f"No password is set, so {request.host} is not answered; use http://127.0.0.1.")

    return check


def add_headers(response: Response) -> Response:
    """A response with the headers that keep other sites' scripts, frames and forms out."""
    for name, value in _HEADERS.items():
        response.headers.setdefault(name, value)
    response.headers.setdefault("Cache-Control", "no-cache, private")
    return response


def _key(settings: Settings) -> bytes:
    if settings.has_password:
        password = settings.basic_auth_pass.get_secret_value()
        return hashlib.scrypt(password.encode(), salt=b"segloop status page", n=2**12, r=8, p=1)
    return _key_of_file(settings.data_dir.absolute() / _KEY_FILE)


def _key_of_file(path: Path) -> bytes:
    """The key in a file, which is made if there is none; of processes that make it at once, one wins."""
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        fresh = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}")
        fresh.touch(0o600)
        fresh.write_bytes(secrets.token_bytes(32))
        try:
            path.hardlink_to(fresh)
        except FileExistsError:
            pass
        finally:
            fresh.unlink()
    return path.read_bytes()
