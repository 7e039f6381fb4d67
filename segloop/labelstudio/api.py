"""Requests to Label Studio: credentials, and one sentence for everything that can go wrong."""

from __future__ import annotations

import base64
import threading
import time
from collections.abc import Generator, Iterable
from typing import Any, Final

import httpx
import orjson
from pydantic import SecretStr

from segloop.errors import LabelStudioError, LabelStudioNotFound, LabelStudioUnreachable

_CONNECT_TIMEOUT_S: Final = 5.0
# Adding or changing a backend makes Label Studio call it (health, setup), and a page of tasks carries whole masks.
TIMEOUT_S: Final = 60.0
# Every request that needs the token waits for the exchange.
_EXCHANGE_TIMEOUT_S: Final = 10.0
_TOKEN_MARGIN_S: Final = 30.0
_TOKEN_LIFE_S: Final = 60.0
_UNAVAILABLE: Final = frozenset({429, 502, 503, 504})


class Credentials:
    """Authentication headers for Label Studio, from a personal access token or a legacy token.

    A personal access token (a JWT: three parts with dots between) is exchanged for an access token, which
    is kept until shortly before it expires. Thread-safe.
    """

    def __init__(self, url: str, api_key: SecretStr) -> None:
        self.url = url.rstrip("/")
        self._api_key = api_key
        self._lock = threading.Lock()
        self._access_token = ""
        self._expires_at_s = 0.0

    def headers(self) -> dict[str, str]:
        """The headers of a request that is made now; empty without a key.

        Raises:
            LabelStudioError: the personal access token is refused, or Label Studio cannot be reached.
        """
        key = self._api_key.get_secret_value()
        if not key:
            return {}
        if key.count(".") != 2:
            return {"Authorization": f"Token {key}"}
        with self._lock:
            if time.monotonic() >= self._expires_at_s:
                asked_at_s = time.monotonic()
                self._access_token = self._exchange(key)
                self._expires_at_s = asked_at_s + max(_life_s(self._access_token) - _TOKEN_MARGIN_S, 0.0)
            return {"Authorization": f"Bearer {self._access_token}"}

    def _exchange(self, key: str) -> str:
        action = "exchanging the personal access token"
        try:
            response = httpx.post(f"{self.url}/api/token/refresh/", json={"refresh": key}, timeout=_EXCHANGE_TIMEOUT_S)
        except httpx.HTTPError as error:
            raise unreachable(self.url, action, error) from error
        if response.status_code in (400, 401, 403):
            raise LabelStudioError(
                f"Label Studio at {self.url} refuses the personal access token ({response.status_code}): "
                "create a new one under Account & Settings, and set LABEL_STUDIO_API_KEY to it"
            )
        body = decoded(self.url, action, response)
        token = body.get("access") if isinstance(body, dict) else None
        if not isinstance(token, str):
            raise LabelStudioError(f"Label Studio at {self.url} gave no access token for the personal access token")
        return token


class _Auth(httpx.Auth):
    """Authenticates each request with what the credentials give at that moment."""

    def __init__(self, credentials: Credentials) -> None:
        self._credentials = credentials

    def auth_flow(self, request: httpx.Request) -> Generator[httpx.Request, httpx.Response, None]:
        # The SDK has set a header of its own.
        request.headers.pop("Authorization", None)
        request.headers.update(self._credentials.headers())
        yield request


class Api:
    """Authenticated requests to one Label Studio: what its parts (tasks, webhooks, ...) share. Thread-safe."""

    def __init__(self, url: str, credentials: Credentials, timeout_s: float = TIMEOUT_S) -> None:
        self.url = url.rstrip("/")
        timeout = httpx.Timeout(timeout_s, connect=min(timeout_s, _CONNECT_TIMEOUT_S))
        self.http = httpx.Client(auth=_Auth(credentials), timeout=timeout)

    def request(self, method: str, path: str, **arguments: Any) -> Any:
        """The JSON that Label Studio answers with; LabelStudioError where it refuses."""
        return decoded(self.url, f"{method} {path}", self.send(method, path, **arguments))

    def send(self, method: str, path: str, **arguments: Any) -> httpx.Response:
        """Label Studio's response, whatever its status; LabelStudioUnreachable where there is none."""
        try:
            return self.http.request(method, f"{self.url}{path}", **arguments)
        except httpx.HTTPError as error:
            raise unreachable(self.url, f"{method} {path}", error) from error


def same_url(one: str, other: str) -> bool:
    """Whether two addresses are the same but for a slash at the end."""
    return one.rstrip("/").lower() == other.rstrip("/").lower()


def _life_s(access_token: str) -> float:
    """Life of an access token in seconds, by its own claims: the two clocks need not agree."""
    try:
        payload = access_token.split(".")[1]
        claims = orjson.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
        return float(claims["exp"] - claims["iat"])
    except (LookupError, TypeError, ValueError):
        return _TOKEN_LIFE_S


def decoded(url: str, action: str, response: httpx.Response) -> Any:
    """The JSON of a successful response; of any other, the error it means."""
    try:
        body = orjson.loads(response.content)
    except ValueError:
        body = None
    if response.is_success and body is not None:
        return body
    raise refused(url, action, response.status_code, body)


def refused(url: str, action: str, status: int, body: object) -> LabelStudioError:
    """The error that a response with this status and JSON body means."""
    if status in _UNAVAILABLE:
        return LabelStudioUnreachable(f"Label Studio at {url} is not available now ({status}, {action})")
    reasons = [] if not isinstance(body, dict) else list(_reasons(body))
    reason = f": {'; '.join(reasons)[:500]}" if reasons else ""
    hint = "; set LABEL_STUDIO_API_KEY to a valid token" if status == 401 else ""
    kind = LabelStudioNotFound if status == 404 else LabelStudioError
    return kind(f"Label Studio at {url} answered {status} to {action}{reason}{hint}")


def _reasons(body: dict[str, object]) -> Iterable[str]:
    if body.get("detail"):
        yield str(body["detail"])
    problems = body.get("validation_errors")
    if isinstance(problems, dict):
        for field, texts in problems.items():
            yield f"{field}: {' '.join(map(str, texts)) if isinstance(texts, list) else texts}"
    elif problems:
        yield str(problems)


def unreachable(url: str, action: str, error: httpx.HTTPError) -> LabelStudioUnreachable:
    """The error of a request that got no response."""
    return LabelStudioUnreachable(
        f"Label Studio at {url} cannot be reached ({action}): {error or type(error).__name__}"
    )
