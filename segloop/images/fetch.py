"""HTTP that may only go where the settings allow, in the time and size they allow."""

from __future__ import annotations

import ipaddress
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from urllib.request import getproxies, proxy_bypass

import httpcore
import httpx

from segloop import __version__
from segloop.errors import ImageError, ImageForbidden, ImageMissing, ImageUnavailable
from segloop.images.addresses import describe, port_of, too_large
from segloop.images.hosts import HostPolicy

MAX_REDIRECTS = 4

#: A kept connection may turn out to be closed, and a server may drop one request in its restart.
_ATTEMPTS = 3

_REDIRECTS = (301, 302, 303, 307, 308)
_NOT_MODIFIED = 304
#: Answers below 500 that say "later": request timeout, too early, too many requests (RFC 9110, 8470, 6585).
_LATER = (408, 425, 429)
#: Hosts such as Wikimedia refuse requests that do not say who asks.
_USER_AGENT = f"segloop/{__version__} (a Label Studio ML backend)"


@dataclass(frozen=True)
class Validators:
    """What a server gave to ask later whether a file changed (RFC 9110, section 8.8)."""

    etag: str = ""
    last_modified: str = ""

    def __bool__(self) -> bool:
        return bool(self.etag or self.last_modified)

    def headers(self) -> dict[str, str]:
        """The headers of a conditional request."""
        headers = {"if-none-match": self.etag} if self.etag else {}
        return headers | ({"if-modified-since": self.last_modified} if self.last_modified else {})


@dataclass(frozen=True)
class Response:
    """A fetched body, or None where the file is unchanged."""

    body: bytes | None
    validators: Validators


class Refused(ImageMissing):
    """An answer other than 200 that another try would not change; `url` is the hop that gave it."""

    def __init__(self, text: str, url: httpx.URL, status: int) -> None:
        super().__init__(text)
        self.url = url
        self.status = status


class Fetcher:
    """GET with checked addresses, redirects followed by hand, and limits on size and on time. Thread-safe.

    Args:
        policy: where connections may go; asked for the name and for the very address connected to, at each hop.
        headers_for: the credentials to send to a URL; asked again at each hop.
    """

    def __init__(
        self,
        policy: HostPolicy,
        headers_for: Callable[[httpx.URL], dict[str, str]],
    ) -> None:
        self._policy = policy
        self._headers_for = headers_for
        self._network = _GuardedNetwork(policy)
        self._pools: dict[str, httpcore.ConnectionPool] = {}
        self._opening = threading.Lock()

    def close(self) -> None:
        """Close the connections."""
        for pool in self._pools.values():
            pool.close()

    def _pool(self, url: httpx.URL) -> httpcore.ConnectionPool:
        """The connections for a URL: those of the proxy that the environment names for it, or direct ones."""
        proxy = proxy_for(url)
        with self._opening:
            if proxy not in self._pools:
                options: dict[str, Any] = {
                    "ssl_context": httpx.create_ssl_context(),
                    "max_connections": 32,
                    "max_keepalive_connections": 8,
                    "keepalive_expiry": 5.0,
                }
                if proxy:
                    address = httpx.Proxy(proxy)
                    options["network_backend"] = self._network.to_proxy(address.url)
                    self._pools[proxy] = httpcore.HTTPProxy(str(address.url), proxy_auth=address.raw_auth, **options)
                else:
                    self._pools[proxy] = httpcore.ConnectionPool(network_backend=self._network, **options)
            return self._pools[proxy]

    def get(self, url: httpx.URL, *, deadline: float, max_bytes: int, known: Validators | None = None) -> Response:
        """The file at a URL; with `known`, only if it changed since.

        Args:
            deadline: time of `time.monotonic()`, in seconds, at which the whole fetch is given up.

        Raises:
            ImageForbidden: the URL or a redirect points where the settings do not allow.
            ImageTooLarge: the body has more than `max_bytes` bytes.
            ImageUnavailable: the host is away, too slow, or says that it will answer later.
            ImageError: any other failure.
        """
        for _ in range(MAX_REDIRECTS + 1):
            self._check(url)
            headers = self._headers_for(url) | (known.headers() if known else {})
            try:
                with self._network.until(deadline), self._stream(url, headers, deadline) as response:
                    if response.status not in _REDIRECTS:
                        return self._read(url, response, max_bytes, known is not None)
                    location = _header(response, b"location")
            except (httpcore.TimeoutException, TimeoutError) as error:
                raise ImageUnavailable(f"{describe(url)} took longer than SEGLOOP_IMAGE_TIMEOUT_S to arrive") from error
            except (httpcore.NetworkError, httpcore.ProtocolError, httpcore.ProxyError, OSError) as error:
                raise ImageUnavailable(f"{describe(url)} cannot be fetched: {error}") from error
            try:
                url = url.join(location)
            except (httpx.InvalidURL, ValueError) as error:
                raise ImageError(f"{describe(url)} redirects to an address that is not a URL") from error
        raise ImageError(f"{describe(url)} redirects more than {MAX_REDIRECTS} times")

    def _check(self, url: httpx.URL) -> None:
        if url.scheme not in ("http", "https") or not url.host:
            raise ImageForbidden(f"{describe(url)}: only http and https addresses are fetched")
        if url.userinfo:
            raise ImageForbidden(f"{describe(url)}: an address with a user name or password is not fetched")
        host, port = url.raw_host.decode("ascii"), port_of(url)
        self._policy.check_host(host, port)
        if proxy_for(url):
            # The proxy connects; what this machine can tell of the host's addresses is checked here.
            for address in _known_addresses(host, port):
                self._policy.check_address(host, port, address)

    @contextmanager
    def _stream(self, url: httpx.URL, headers: dict[str, str], deadline: float) -> Iterator[httpcore.Response]:
        remaining_s = max(deadline - time.monotonic(), 0.001)
        fields = {
            "host": url.netloc.decode("ascii"),
            "accept": "image/*,*/*;q=0.5",
            "user-agent": _USER_AGENT,
            # Compressed bodies could be bombs, and images are compressed already.
            "accept-encoding": "identity",
            **headers,
        }
        request = httpcore.Request(
            "GET",
            httpcore.URL(scheme=url.raw_scheme, host=url.raw_host, port=url.port, target=url.raw_path),
            headers=[(name.encode("ascii"), value.encode("latin-1")) for name, value in fields.items()],
            extensions={"timeout": dict.fromkeys(("connect", "read", "write", "pool"), remaining_s)},
        )
        for attempt in range(1, _ATTEMPTS + 1):
            try:
                response = self._pool(url).handle_request(request)
                break
            except (httpcore.RemoteProtocolError, httpcore.ReadError, httpcore.WriteError):
                # The server may have closed an idle connection just as it was taken up again.
                if attempt == _ATTEMPTS:
                    raise
        try:
            yield response
        finally:
            response.close()

    def _read(self, url: httpx.URL, response: httpcore.Response, max_bytes: int, conditional: bool) -> Response:
        if response.status == _NOT_MODIFIED and conditional:
            return Response(None, Validators())
        if response.status != httpx.codes.OK:
            reason = httpx.codes.get_reason_phrase(response.status)
            text = f"{describe(url)} answered {response.status} {reason}".rstrip()
            if response.status >= httpx.codes.INTERNAL_SERVER_ERROR or response.status in _LATER:
                raise ImageUnavailable(text)
            raise Refused(text, url, response.status)
        if _header(response, b"content-encoding").lower() not in ("", "identity"):
            raise ImageError(f"{describe(url)} answered with a compressed body that was not asked for")
        declared = _header(response, b"content-length")
        if declared.isdecimal() and int(declared) > max_bytes:
            raise too_large(describe(url), max_bytes)
        body = bytearray()
        for chunk in response.iter_stream():
            body += chunk
            if len(body) > max_bytes:
                raise too_large(describe(url), max_bytes)
        return Response(bytes(body), Validators(_header(response, b"etag"), _header(response, b"last-modified")))


def _header(response: httpcore.Response, name: bytes) -> str:
    return next((value.decode("latin-1") for key, value in response.headers if key.lower() == name), "")


def proxy_for(url: httpx.URL) -> str:
    """The proxy that HTTP_PROXY, HTTPS_PROXY, ALL_PROXY and NO_PROXY name for a URL; "" for none."""
    proxies = getproxies()
    proxy = proxies.get(url.scheme) or proxies.get("all") or ""
    host = url.raw_host.decode("ascii")
    if not proxy or proxy_bypass(f"{host}:{port_of(url)}") or proxy_bypass(host):
        return ""
    return proxy if "://" in proxy else f"http://{proxy}"


def _known_addresses(host: str, port: int) -> list[ipaddress.IPv4Address | ipaddress.IPv6Address]:
    """The addresses of a host, as far as this machine can look them up: behind a proxy it often cannot."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        return []
    return [ipaddress.ip_address(literal) for literal in dict.fromkeys(str(entry[4][0]) for entry in found)]


class _GuardedNetwork(httpcore.NetworkBackend):
    """Connects to the very address that was checked (a second lookup could give another), until a deadline."""

    def __init__(self, policy: HostPolicy, thread: threading.local | None = None) -> None:
        self._policy = policy
        self._sockets = httpcore.SyncBackend()
        self._thread = thread or threading.local()

    def to_proxy(self, url: httpx.URL) -> _GuardedNetwork:
        """The same deadline, for connections to the proxy at `url` alone."""
        return _GuardedNetwork(HostPolicy((), (url.raw_host.decode("ascii").lower(), port_of(url))), self._thread)

    @contextmanager
    def until(self, deadline: float) -> Iterator[None]:
        """Within, every operation of this thread ends at the deadline, however slowly bytes drip in."""
        self._thread.deadline = deadline
        try:
            yield
        finally:
            del self._thread.deadline

    def remaining_s(self, timeout: float | None) -> float | None:
        """What is left of the deadline; the given time-out outside of `until`."""
        deadline = getattr(self._thread, "deadline", None)
        if deadline is None:
            return timeout
        remaining_s = float(deadline) - time.monotonic()
        if remaining_s <= 0:
            raise httpcore.ReadTimeout("out of time")
        return remaining_s

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.NetworkStream:
        try:
            found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError) as error:
            raise httpcore.ConnectError(f"{host} has no address ({error})") from error
        problem: Exception | None = None
        for literal in dict.fromkeys(str(entry[4][0]) for entry in found):
            try:
                self._policy.check_address(host, port, ipaddress.ip_address(literal))
                stream = self._sockets.connect_tcp(
                    literal, port, self.remaining_s(timeout), local_address, socket_options
                )
            except (ImageForbidden, httpcore.ConnectError, httpcore.ConnectTimeout) as error:
                problem = error
            else:
                return _TimedStream(stream, self)
        raise problem or httpcore.ConnectError(f"{host} has no address")


class _TimedStream(httpcore.NetworkStream):
    def __init__(self, stream: httpcore.NetworkStream, network: _GuardedNetwork) -> None:
        self._stream = stream
        self._network = network

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        return self._stream.read(max_bytes, self._network.remaining_s(timeout))

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        self._stream.write(buffer, self._network.remaining_s(timeout))

    def close(self) -> None:
        self._stream.close()

    def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore.NetworkStream:
        tls = self._stream.start_tls(ssl_context, server_hostname, self._network.remaining_s(timeout))
        return _TimedStream(tls, self._network)

    def get_extra_info(self, info: str) -> Any:
        return self._stream.get_extra_info(info)
