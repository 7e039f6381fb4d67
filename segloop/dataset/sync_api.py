"""Syncs of a mirror with Label Studio's API: what changed is fetched, what went is found by counting.

A sync fetches the tasks that Label Studio updated since the last one (less a margin, for transactions that end late),
which brings every annotation that was saved. The mirror then lacks nothing, so where Label Studio counts as many tasks
and annotations as the mirror, they are the same; an annotation that was deleted while another was created makes the
mirror count one more. Where the counts differ, halving the range of ids finds the places, some ten requests for each,
and there the ids alone are listed. What sets no `updated_at` in Label Studio (annotations moved between duplicates,
deletions inside its database) changes the counts of a range, which is then read anew.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Final

from segloop.dataset.mirror import Mirror
from segloop.progress import Progress, Report

if TYPE_CHECKING:
    from segloop.labelstudio.tasks import Tasks

_log = logging.getLogger(__name__)

API: Final = "api"
#: Transactions in Label Studio that take longer than this may hide an update; counts still show what they created.
_MARGIN: Final = timedelta(minutes=5)
#: Ranges whose ids are listed and not halved any more.
_LEAF_TASKS: Final = 200


@dataclass(frozen=True)
class Synced:
    """What a sync did: tasks that were read, that had other annotations than before, that were dropped."""

    read: int
    changed: int
    dropped: int


def sync(mirror: Mirror, source: Tasks, project_id: int, progress: Report | None = None) -> Synced:
    """Bring a mirror up to date with Label Studio. Killed anywhere, it is repeated by the next.

    Args:
        progress: told `{"phase": "snapshot", "step", "steps", "message"}` after each page.

    Raises:
        LabelStudioError: of the source.
    """
    with mirror.sync(API) as revision:
        run = _Run(mirror, source, project_id, revision, progress)
        return run.sync()


class _Run:
    def __init__(self, mirror: Mirror, source: Tasks, project_id: int, revision: int, progress: Report | None) -> None:
        self._mirror, self._source, self._project_id, self._revision = mirror, source, project_id, revision
        self._progress = progress
        self._read = self._changed = self._dropped = 0

    def sync(self) -> Synced:
        mirror = self._mirror
        # Counted before anything is read: what is updated meanwhile is updated after this clock.
        head = self._source.totals(self._project_id)
        since = mirror.synced_to
        self._fetch(since, 0, None, steps=head.tasks if since is None else None)
        if mirror.totals() != (head.tasks, head.annotations):
            self._repair(0, None, self._theirs(0, None))
        mirror.set_meta("synced_to", (head.clock - _MARGIN).isoformat())
        _log.info(
            "project %s: %d tasks read, %d changed, %d gone", self._project_id, self._read, self._changed, self._dropped
        )
        return Synced(self._read, self._changed, self._dropped)

    def _fetch(self, since: datetime | None, after: int, upto: int | None, steps: int | None = None) -> None:
        for page in self._source.annotated_pages(self._project_id, since=since, after=after, upto=upto):
            self._keep(page)
            if self._progress is not None:
                of: Progress = {} if steps is None else {"steps": steps}
                shown = f"{self._read} tasks" if steps is None else f"{self._read} of {steps} tasks"
                self._progress({"phase": "snapshot", "step": self._read, **of, "message": f"Syncing: {shown}"})

    def _keep(self, page: Sequence[Mapping[str, Any]]) -> None:
        with self._mirror.writing():
            self._changed += self._mirror.put(page, self._revision)
        self._read += len(page)

    def _repair(self, after: int, upto: int | None, theirs: tuple[int, int]) -> None:
        """Find the tasks and annotations of a range that the mirror has and Label Studio has not, or the reverse.

        Args:
            theirs: Label Studio's tasks and annotations there; decides where to look, never what to drop.
        """
        ours = self._mirror.totals(after, upto)
        if ours == theirs:
            return
        if theirs[0] <= _LEAF_TASKS or ours[0] < 2:
            self._drop_missing(after, upto)
            # Else an annotation of a task that is still there went, or came without a trace.
            if self._mirror.totals(after, upto) != theirs:
                self._fetch(None, after, upto)
        else:
            middle = self._mirror.middle(after, upto)
            low = self._theirs(after, middle)
            self._repair(after, middle, low)
            self._repair(middle, upto, (theirs[0] - low[0], theirs[1] - low[1]))

    def _theirs(self, after: int, upto: int | None) -> tuple[int, int]:
        counted = self._source.totals(self._project_id, after, upto)
        return counted.tasks, counted.annotations

    def _drop_missing(self, after: int, upto: int | None) -> None:
        present = set(self._source.labelled_ids(self._project_id, after, upto))
        missing = [number for number in self._mirror.ids(after, upto) if number not in present]
        with self._mirror.writing():
            self._dropped += self._mirror.drop(missing, self._revision)
