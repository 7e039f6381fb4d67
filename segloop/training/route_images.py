"""Images of a managed route's buckets, and of no other place, for the container that gathers a training set."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Final

from segloop.dataset import Memory
from segloop.dataset.mirror import StoredTask
from segloop.errors import ImageDenied, ImageForbidden, ImageMissing, ImageUnavailable
from segloop.images import Image
from segloop.images.addresses import describe
from segloop.images.decode import allow_pixels
from segloop.images.files import data_url
from segloop.images.image import blob_of
from segloop.images.s3 import S3Reader, StorageError
from segloop.label_config import LabelConfig
from segloop.settings import Settings

#: Images that are fetched at a time, and tasks whose images are fetched ahead of the one that is drawn.
READERS: Final = 16
AHEAD: Final = 32


class RouteImages:
    """Images of the route's buckets, fetched ahead of their use.

    Args:
        buckets: those that images may come from.
    """

    def __init__(self, buckets: frozenset[str], settings: Settings) -> None:
        self._buckets = buckets
        self._settings = settings
        allow_pixels(settings.image_max_pixels)
        self._reader = S3Reader(settings.image_timeout_s, settings.s3_requester_pays)
        self._pool = ThreadPoolExecutor(READERS)
        self._coming: dict[tuple[int | None, str], Future[Image]] = {}

    def __enter__(self) -> RouteImages:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown(cancel_futures=True)
        self._reader.close()

    def ahead(self, tasks: Iterable[StoredTask], config: LabelConfig, memory: Memory) -> Iterator[StoredTask]:
        """The same tasks; images of the next ones that the memory lacks are on their way."""
        waiting: deque[tuple[StoredTask, Sequence[tuple[int, str]]]] = deque()
        for task in tasks:
            addresses = [
                (task["id"], uri)
                for tag, index, uri in config.addresses(task["data"])
                if memory.image(task["id"], tag.name, index, uri) is None
            ]
            for address in addresses:
                self._coming[address] = self._pool.submit(self._fetch, address[1])
            waiting.append((task, addresses))
            if len(waiting) > AHEAD:
                yield from self._next(waiting)
        while waiting:
            yield from self._next(waiting)

    def _next(self, waiting: deque[tuple[StoredTask, Sequence[tuple[int, str]]]]) -> Iterator[StoredTask]:
        task, addresses = waiting.popleft()
        yield task
        for address in addresses:
            self._coming.pop(address, None)

    def load(self, uri: str, task_id: int | None) -> Image:
        """The image at s3://bucket/key, or in a data: URL.

        Raises:
            ImageForbidden: it is in none of the route's buckets.
            ImageUnavailable: S3 is away or overloaded; ImageDenied: the credentials have expired.
            ImageError: it cannot be read, or is no image.
        """
        coming = self._coming.get((task_id, uri))
        return coming.result() if coming is not None else self._fetch(uri)

    def _fetch(self, uri: str) -> Image:
        limits, name = self._settings, describe(uri)
        return Image(blob_of(self._read(uri.strip()), name), max_pixels=limits.image_max_pixels, name=name)

    def _read(self, uri: str) -> bytes:
        limits = self._settings
        scheme, _, rest = uri.partition(":")
        if scheme.lower() == "data":
            return data_url(uri, limits.image_max_bytes)
        if scheme != "s3" or rest.lstrip("/").partition("/")[0] not in self._buckets:
            buckets = ", ".join(sorted(self._buckets))
            raise ImageForbidden(f"{describe(uri)} is not in the route's source bucket ({buckets})")
        deadline = time.monotonic() + limits.image_timeout_s
        try:
            return self._reader.get(uri, deadline=deadline, max_bytes=limits.image_max_bytes).body or b""
        except StorageError as error:
            kind = ImageUnavailable if error.passes else ImageDenied if error.expired else ImageMissing
            raise kind(f"{describe(uri)} cannot be fetched: {error}") from error
