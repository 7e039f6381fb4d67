"""Images that cannot be had now: for how long each, and whether a snapshot is to wait for it."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

import httpx

from segloop.errors import ImageDenied, ImageUnavailable

#: Errors of images that may be had later; all others are of the image itself.
PASSING: Final = (ImageUnavailable, ImageDenied)
#: A host that fails so often in a row is not asked again in the same snapshot.
_MOST_FAILURES: Final = 3
_NAMED: Final = 5
_SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS waits (
    task INTEGER, tag TEXT, item INTEGER, host TEXT, since REAL, PRIMARY KEY (task, tag, item)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS arrivals (host TEXT PRIMARY KEY, at REAL) WITHOUT ROWID;
"""


@dataclass(frozen=True)
class Place:
    """Where a task names an image, and the host that has it."""

    task: int
    tag: str
    index: int | None
    host: str

    @property
    def key(self) -> tuple[int, str, int]:
        return self.task, self.tag, -1 if self.index is None else self.index


class ImageWaits:
    """What a snapshot notes of the images that it cannot have, in the mirror's file, so that the next one knows it.

    An image is waited for until `limit_s` seconds after it failed first. An image of a host of which nothing has come
    since others failed is no newer than these: a host that is away for good is waited for once.

    Args:
        db: the mirror's; without one, this snapshot's failures are all that is known.
        limit_s: how long to wait, in seconds.
    """

    def __init__(self, db: sqlite3.Connection | None, limit_s: float) -> None:
        self._db = db or sqlite3.connect(":memory:", isolation_level=None)
        self._db.executescript(_SCHEMA)
        self._limit_s = limit_s
        self._failing: dict[Place, str] = {}
        self._in_a_row: dict[str, int] = {}

    @contextmanager
    def fetching(self, place: Place) -> Iterator[None]:
        """Note whether the image arrives that is fetched within.

        Raises:
            ImageUnavailable: its host has failed too often in this snapshot, so that it is not asked again.
        """
        if self._in_a_row.get(place.host, 0) >= _MOST_FAILURES:
            self._fail(place, "")
            raise ImageUnavailable(f"{place.host} failed {_MOST_FAILURES} times in a row")
        try:
            yield
        except PASSING as error:
            self._in_a_row[place.host] = self._in_a_row.get(place.host, 0) + 1
            self._fail(place, str(error))
            raise
        self._in_a_row[place.host] = 0
        self._db.execute("INSERT OR REPLACE INTO arrivals VALUES (?, ?)", (place.host, time.time()))
        self._db.execute("DELETE FROM waits WHERE task = ? AND tag = ? AND item = ?", place.key)

    def settle(self) -> tuple[str, ...]:
        """Warnings of the images that this snapshot goes without, as they have been waited for long enough.

        Raises:
            ImageUnavailable: some are to be waited for; the text names the hosts.
        """
        if not self._failing:
            return ()
        pending = {place: reason for place, reason in self._failing.items() if self._age_s(place) < self._limit_s}
        limit = f"{self._limit_s / 3600:g} h (SEGLOOP_IMAGE_WAIT_HOURS)"
        if pending:
            since = datetime.fromtimestamp(time.time() - max(map(self._age_s, pending)), UTC)
            raise ImageUnavailable(
                f"{_count(pending)} cannot be had since {since:%Y-%m-%d %H:%M} UTC: {_hosts(pending)}. The training waits for "
                f"up to {limit}, so that it does not learn from fewer images."
            )
        return (
            f"{_count(self._failing)} could not be had for {limit}, and their tasks are left out until they can: {_hosts(self._failing)}",
        )

    def _fail(self, place: Place, reason: str) -> None:
        self._failing[place] = reason
        self._db.execute(
            "INSERT INTO waits VALUES (?, ?, ?, ?, ?) ON CONFLICT DO UPDATE SET host = excluded.host, "
            "since = CASE WHEN host = excluded.host THEN since ELSE excluded.since END",
            (*place.key, place.host, time.time()),
        )

    def _age_s(self, place: Place) -> float:
        """For how long an image cannot be had, or its host gives nothing at all."""
        (since,) = self._db.execute(
            "SELECT min(since) FROM waits WHERE (task = ? AND tag = ? AND item = ?) OR (host = ?4 AND since > "
            "coalesce((SELECT at FROM arrivals WHERE host = ?4), 0))",
            (*place.key, place.host),
        ).fetchone()
        return time.time() - float(since)


def host_of(address: str) -> str:
    """The host that has an image, to be named in messages: Label Studio for its own paths, a bucket with its scheme."""
    try:
        url = httpx.URL(address.strip())
    except httpx.InvalidURL:
        return "Label Studio"
    if not url.host:
        return "Label Studio"
    host = url.netloc.decode("ascii", "replace")
    return host if url.scheme in ("http", "https") else f"{url.scheme}://{host}"


def _count(places: dict[Place, str]) -> str:
    tasks = len({place.task for place in places})
    return f"{len(places)} image{'' if len(places) == 1 else 's'} of {tasks} task{'' if tasks == 1 else 's'}"


def _hosts(places: dict[Place, str]) -> str:
    """The hosts of images with their numbers, those with most first, and what the first of each said."""
    told: dict[str, list[str]] = {}
    for place, reason in places.items():
        told.setdefault(place.host, []).append(reason)
    ordered = sorted(told, key=lambda host: (-len(told[host]), host))
    named = [f"{host} ({len(told[host])}: {told[host][0]})" for host in ordered[:_NAMED]]
    return "; ".join(named) + (f"; and {len(ordered) - _NAMED} more hosts" if len(ordered) > _NAMED else "")
