"""Checks of the running server, over HTTP as Label Studio calls it: whether it runs, and whether it answers in time."""

from __future__ import annotations

import ssl
import time
from dataclasses import dataclass
from functools import cache
from typing import Any, Final
from urllib.parse import urlsplit

import httpx

from segloop import __version__
from segloop.doctor.findings import Finding, failure, ok, skipped, warning
from segloop.labelstudio.entries import BackendEntry, ProjectEntry, TaskEntry
from segloop.settings import Settings

#: How long Label Studio 1.23 waits, in seconds, and the variable of its environment that says otherwise.
LIMITS: Final = {
    "health": (1.0, "ML_TIMEOUT_HEALTH"),
    "setup": (3.0, "ML_TIMEOUT_SETUP"),
    "webhook": (1.0, "WEBHOOK_TIMEOUT"),
    "predict": (100.0, "ML_TIMEOUT_PREDICT"),
}
#: An answer that takes more than this share of its limit will take too long on a busy day.
_CLOSE: Final = 0.5
_TRIES: Final = 3
#: An action that segloop knows nothing of: it changes nothing, and goes the whole way of an event.
NO_ACTION: Final = "SEGLOOP_DOCTOR"


@dataclass(frozen=True)
class Server:
    """A segloop that answers at `address`; `host` is how Label Studio names it, where that is another name."""

    address: str
    version: str
    host: str

    def ask(
        self, method: str, path: str, settings: Settings, *, timeout_s: float, **arguments: Any
    ) -> tuple[httpx.Response, float]:
        """An answer, and how long it took in seconds."""
        headers = {"Host": self.host, **arguments.pop("headers", {})}
        # annotation events come without basic auth
        auth = None if path == "/webhook" else _auth(settings)
        with httpx.Client(trust_env=False, timeout=timeout_s, auth=auth, verify=_tls()) as http:
            began = time.monotonic()
            response = http.request(method, f"{self.address}{path}", headers=headers, **arguments)
            return response, time.monotonic() - began


def find_server(settings: Settings, url: str = "") -> tuple[Server | None, Finding]:
    """The running server: at the address that Label Studio knows, else at this machine's own."""
    own = local_address(settings)
    addresses = [url.rstrip("/"), own] if url else [settings.public_url or own, own]
    for address in dict.fromkeys(addresses):
        version = _segloop_at(address)
        if version is None:
            continue
        server = Server(address, version, urlsplit(addresses[0]).netloc)
        if version != __version__:
            text = f"segloop {version} runs at {address}, but this command is of segloop {__version__}"
            return server, warning(text, "restart segloop")
        return server, ok(f"segloop {version} answers at {address}")
    tried = " nor at ".join(dict.fromkeys(addresses))
    return None, failure(
        f"no segloop answers at {tried}",
        "start it with segloop up; if it runs elsewhere, name it with SEGLOOP_PUBLIC_URL",
    )


def answer_time(what: str, seconds: float, status: int) -> Finding:
    """Whether an answer came in the time that Label Studio waits for it."""
    limit, variable = LIMITS[what]
    if status == 401:
        name = "SEGLOOP_WEBHOOK_SECRET" if what == "webhook" else "BASIC_AUTH_PASS"
        text = f"the running server refuses what this command knows as {name} (401)"
        return failure(text, f"give both the same {name}, and restart segloop")
    if status >= 400:
        return failure(f"/{what} answers {status}", "see segloop's log")
    text = f"/{what} takes {seconds:.2f} s; Label Studio waits {limit:g} s"
    fix = f"give the machine less to do, or start Label Studio with {variable} above {limit:g}"
    if seconds > limit:
        return failure(text, fix)
    if seconds > limit * _CLOSE:
        return warning(text, fix)
    return ok(text)


def setup_time(server: Server, settings: Settings, project: ProjectEntry, own: BackendEntry) -> dict[str, Finding]:
    """Time of /setup, with the very body that Label Studio sends; and what its answer warns about."""
    body = {"project": project.key, "schema": project.label_config, "extra_params": own.extra_params}
    found = {"setup-time": timed("setup", server, settings, "POST", json=body)}
    if found["setup-time"].status == "failure":
        return found
    response, _ = server.ask("POST", "/setup", settings, timeout_s=LIMITS["setup"][0], json=body)
    if told := response.json().get("warning"):
        found["setup-warning"] = warning(str(told), "do what it says; it is the server that answers so")
    return found


def predict_time(server: Server, settings: Settings, project: ProjectEntry, task: TaskEntry | None) -> Finding:
    """Time of /predict for one task."""
    if task is None:
        return skipped("the project has no task yet")
    body = {
        "tasks": [task.model_dump()],
        "project": project.key,
        "label_config": project.label_config,
        "params": {"context": None},
    }
    return timed("predict", server, settings, "POST", tries=1, json=body)


def timed(
    what: str, server: Server, settings: Settings, method: str, *, tries: int = _TRIES, **arguments: Any
) -> Finding:
    """Whether a route answers in time; the time is the best of a few tries."""
    limit, _ = LIMITS[what]
    best = float("inf")
    status = 0
    for _ in range(tries):
        try:
            response, seconds = server.ask(method, f"/{what}", settings, timeout_s=limit * 1.5, **arguments)
        except httpx.TimeoutException:
            seconds = limit * 1.5
        except httpx.HTTPError as error:
            return failure(f"/{what} does not answer: {error or type(error).__name__}", "see segloop's log")
        else:
            status = response.status_code
        best = min(best, seconds)
        if best < limit * _CLOSE:
            break
    return answer_time(what, best, status)


@cache
def _tls() -> ssl.SSLContext:
    """The TLS context, made once: reading the certificates takes longer than most answers."""
    return httpx.create_ssl_context()


def _segloop_at(address: str) -> str | None:
    """The version of the segloop at an address; None where there is none."""
    try:
        body = httpx.get(f"{address}/health", timeout=3.0, trust_env=False, verify=_tls()).json()
    except (httpx.HTTPError, httpx.InvalidURL, ValueError):
        return None
    version = body.get("segloop") if isinstance(body, dict) else None
    return version if isinstance(version, str) else None


def local_address(settings: Settings) -> str:
    """Where this machine reaches a server of these settings."""
    host = settings.bind_host
    host = "127.0.0.1" if host in ("0.0.0.0", "::") else host  # noqa: S104 - compared with, not bound to
    return f"http://{f'[{host}]' if ':' in host else host}:{settings.port}"


def _auth(settings: Settings) -> tuple[str, str] | None:
    return (settings.basic_auth_user, settings.basic_auth_pass.get_secret_value()) if settings.has_password else None
