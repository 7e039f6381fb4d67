"""Where the images of tasks come from: every kind of address that Label Studio puts into a task."""

from __future__ import annotations

import base64
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import httpx

from segloop.errors import ImageDenied, ImageError, ImageForbidden, ImageMissing, ImageTooLarge, ImageUnavailable
from segloop.images.addresses import describe, origin, port_of, unsigned
from segloop.images.cache import DiskCache
from segloop.images.decode import allow_pixels
from segloop.images.fetch import Fetcher, Refused, Response, Validators
from segloop.images.files import data_url, read_below
from segloop.images.hosts import HostPolicy
from segloop.images.image import Blob, Image, blob_of
from segloop.images.s3 import S3Reader, StorageError
from segloop.settings import Settings
from segloop.telemetry.notes import Stage, note

# The routes of Label Studio 1.23 that serve images; credentials go to no other path (urls.py of data_import,
# io_storages and projects).
_IMAGE_ROUTES = re.compile(
    r"/(data/(upload/|local-files(/|$))|storage-data/uploaded/"
    r"|tasks/\d+/(resolve|presign)/|projects/\d+/(resolve|presign|file-proxy)/)"
)
_HIT = ("image", "hit")
_MISS = ("image", "miss")
_LOCAL_FILES = "/data/local-files"
_UPLOADS = "/data/upload/"
#: Schemes of cloud storages that Label Studio resolves for a task.
_STORAGE_SCHEMES = ("s3", "gs", "azure-blob")


def other_name(uri: str, settings: Settings) -> str:
    """The address of Label Studio that a URL of one of its image routes has, where no setting names it; "" otherwise."""
    try:
        url = httpx.URL(uri)
    except httpx.InvalidURL:
        return ""
    known = {
        origin(httpx.URL(address))
        for address in (settings.label_studio_url, settings.label_studio_public_url)
        if address
    }
    if url.scheme not in ("http", "https") or origin(url) in known or not (found := _IMAGE_ROUTES.search(url.path)):
        return ""
    return f"{origin(url)}{url.path[: found.start()]}"


class HeaderSource(Protocol):
    """Credentials of Label Studio."""

    def headers(self) -> dict[str, str]:
        """The headers that authenticate a request; none where there is no key."""
        ...


class ImageSource:
    """Fetches images of tasks. Thread-safe.

    Args:
        settings: Label Studio's address, and the limits on hosts, bytes, pixels, time and cache.
        credentials: headers that are sent to Label Studio's own image routes, and nowhere else.
        cache_dir: folder of the file cache; several processes may share it.
    """

    def __init__(self, settings: Settings, credentials: HeaderSource, cache_dir: Path) -> None:
        self._settings = settings
        self._credentials = credentials
        self._cache = DiskCache(cache_dir, settings.image_cache_bytes)
        self._label_studio = httpx.URL(settings.label_studio_url)
        self._origin = origin(self._label_studio)
        self._prefix = self._label_studio.path.rstrip("/")
        self._public = httpx.URL(settings.label_studio_public_url) if settings.label_studio_public_url else None
        policy = HostPolicy(
            settings.image_hosts,
            (self._label_studio.raw_host.decode("ascii").lower(), port_of(self._label_studio)),
        )
        allow_pixels(settings.image_max_pixels)
        self._fetcher = Fetcher(policy, self._headers_for)
        self._s3 = S3Reader(settings.image_timeout_s, settings.s3_requester_pays)

    def close(self) -> None:
        """Close the connections."""
        self._fetcher.close()
        self._s3.close()

    def load(self, uri: str, task_id: int | None) -> Image:
        """The image at an address: fetched, its header read, not decoded yet.

        Raises:
            ImageTooLarge: the header declares more than `image_max_pixels` pixels.
            Those of `fetch`.
        """
        with Stage("download"):
            blob = self.fetch(uri, task_id)
        return Image(blob, max_pixels=self._settings.image_max_pixels, name=describe(uri))

    def fetch(self, uri: str, task_id: int | None) -> Blob:
        """The image file at an address: a data: URL, a path or URL of Label Studio, http(s), s3, gs, azure-blob.

        Args:
            task_id: the task that names the address. Label Studio resolves the addresses of its cloud storages
                only for a task: gs and azure-blob always, s3 where this machine's own credentials do not do.

        Raises:
            ImageForbidden: the settings do not allow this address, or one that it redirects to.
            ImageTooLarge: the file is larger than `image_max_bytes`.
            ImageUnavailable: the file cannot be had now; a later try may do.
            ImageDenied: Label Studio, or S3, does not accept segloop's credentials.
            ImageMissing: there is no such file, or its host does not give it.
            ImageError: the file cannot be fetched, or is no image.
            LabelStudioError: Label Studio gave no credentials.
        """
        deadline = time.monotonic() + self._settings.image_timeout_s
        max_bytes = self._settings.image_max_bytes
        uri = uri.strip()
        scheme = uri.partition(":")[0].lower()
        if scheme == "data":
            return self._blob(uri, data_url(uri, max_bytes))
        if scheme in _STORAGE_SCHEMES:
            return self._storage(uri, scheme, task_id, deadline)
        url = self._url(uri)
        folder = self._settings.image_folder
        if folder is not None and self._label_studio_path(url).rstrip("/") == _LOCAL_FILES:
            relative = str(url.params.get("d", "")).replace("\\", "/")
            return self._blob(uri, read_below(folder, relative, max_bytes))
        return self._web(url, deadline)

    def _url(self, uri: str) -> httpx.URL:
        """The URL to ask: Label Studio under its internal address, however the task names it."""
        if re.match(r"[/\\]+(data|storage-data|tasks|projects)[/\\]", uri):
            # Tasks imported on Windows, or with a slash too many, name Label Studio's own paths so.
            path, mark, query = uri.partition("?")
            uri = "/" + path.replace("\\", "/").lstrip("/") + mark + query
        try:
            if uri.startswith("/") and not uri.startswith("//"):
                prefix = "" if uri.startswith(f"{self._prefix}/") else self._prefix
                return httpx.URL(f"{self._origin}{prefix}{uri}")
            url = httpx.URL(uri)
            if (below := self._public_path(url)) is not None:
                return httpx.URL(f"{self._origin}{self._prefix}{below}")
        except (httpx.InvalidURL, ValueError) as error:
            raise ImageError(f"{describe(uri)} is not an address of an image") from error
        if url.scheme not in ("http", "https"):
            raise ImageForbidden(
                f"{describe(uri)} is not an address that images are fetched from: "
                f"it must begin with /, http://, https://, {', '.join(f'{s}://' for s in _STORAGE_SCHEMES)} or data:"
            )
        return url

    def _public_path(self, url: httpx.URL) -> str | None:
        """Path and query below Label Studio's public address, if the URL is there: this machine uses the internal one."""
        if self._public is None or origin(url) != origin(self._public):
            return None
        prefix = self._public.raw_path.decode("ascii").rstrip("/")
        path = url.raw_path.decode("ascii")
        return path[len(prefix) :] if path.startswith(f"{prefix}/") else None

    def _label_studio_path(self, url: httpx.URL) -> str:
        """The decoded path below Label Studio's address; empty for other origins and for paths that climb."""
        climbs = ".." in re.split(r"[/\\]", url.path)
        if origin(url) != self._origin or climbs or not url.path.startswith(f"{self._prefix}/"):
            return ""
        return url.path[len(self._prefix) :]

    def _headers_for(self, url: httpx.URL) -> dict[str, str]:
        return self._credentials.headers() if _IMAGE_ROUTES.match(self._label_studio_path(url)) else {}

    def _web(self, url: httpx.URL, deadline: float) -> Blob:
        def get(known: Validators | None) -> Response:
            try:
                return self._fetcher.get(url, deadline=deadline, max_bytes=self._settings.image_max_bytes, known=known)
            except Refused as error:
                if error.status in (401, 403) and origin(error.url) == self._origin:
                    raise ImageDenied(f"{error}: check LABEL_STUDIO_API_KEY") from error
                raise

        immutable = self._label_studio_path(url).startswith(_UPLOADS)
        return self._cached(unsigned(url), describe(url), get, immutable=immutable)

    def _storage(self, uri: str, scheme: str, task_id: int | None, deadline: float) -> Blob:
        problem = None
        if scheme == "s3":
            max_bytes = self._settings.image_max_bytes
            try:
                return self._cached(
                    uri,
                    describe(uri),
                    lambda known: self._s3.get(uri, deadline=deadline, max_bytes=max_bytes, known=known),
                )
            except StorageError as error:
                problem = error
        if task_id is None:
            kind = _kind(ImageMissing(), problem)
            raise kind(f"{describe(uri)} cannot be fetched: {problem or 'only Label Studio can, for a task'}")
        encoded = base64.urlsafe_b64encode(uri.encode()).decode()
        try:
            return self._web(self._url(f"/tasks/{task_id:d}/resolve/?fileuri={encoded}"), deadline)
        except (ImageForbidden, ImageTooLarge):
            raise
        except ImageError as error:
            also = f" ({problem})" if problem else ""
            kind = _kind(error, problem)
            raise kind(f"{describe(uri)} cannot be fetched{also}, nor through Label Studio: {error}") from error

    def _cached(
        self, identity: str, name: str, get: Callable[[Validators | None], Response], *, immutable: bool = False
    ) -> Blob:
        entry = self._cache.get(identity)
        if entry and immutable:
            note("cache", _HIT)
            return Blob(entry.data, entry.sha256)
        response = get(entry.validators if entry and entry.validators else None)
        if response.body is None and entry:
            note("cache", _HIT)
            return Blob(entry.data, entry.sha256)
        note("cache", _MISS)
        blob = self._blob(name, response.body or b"")
        if immutable or response.validators:
            self._cache.put(identity, blob.bytes, blob.sha256, response.validators)
        return blob

    def _blob(self, name: str, data: bytes) -> Blob:
        return blob_of(data, describe(name))


def _kind(error: ImageError, problem: StorageError | None) -> type[ImageError]:
    """The error of a cloud storage's file, of what Label Studio and S3 itself answered."""
    if isinstance(error, ImageUnavailable) or (problem is not None and problem.passes):
        return ImageUnavailable
    if isinstance(error, ImageDenied) or (problem is not None and problem.expired):
        return ImageDenied
    return ImageMissing if isinstance(error, ImageMissing) else ImageError
