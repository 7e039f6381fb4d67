"""The mirror of a project's annotated tasks: what a sync reads, what it notices, and what a crash leaves."""

from __future__ import annotations

import shutil
import sqlite3
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from segloop.dataset import Mirror, sync
from segloop.dataset.sync_api import Synced
from segloop.errors import LabelStudioUnreachable
from tests.labelling import Studio, half

PROJECT_ID = 29


@pytest.fixture
def studio() -> Studio:
    """Ten tasks with an annotation each, of an hour ago."""
    studio = Studio()
    for number in range(1, 11):
        studio.submit(number, half("Sky"))
    studio.clock += timedelta(hours=1)
    return studio


@pytest.fixture
def mirror(tmp_path: Path) -> Iterator[Mirror]:
    with Mirror(tmp_path / "mirror") as mirror:
        yield mirror


def again(mirror: Mirror, studio: Studio) -> Synced:
    """A sync after the first; its requests alone are kept."""
    studio.requests.clear()
    return sync(mirror, studio, PROJECT_ID)


def same(mirror: Mirror, studio: Studio) -> bool:
    """Whether the mirror has what Label Studio has, annotation by annotation."""
    theirs = {
        number: [(one["id"], one["updated_at"], one["result"]) for one in task["annotations"]]
        for number, task in studio.tasks.items()
        if any(not one.get("was_cancelled") for one in task["annotations"])
    }
    ours = {
        task["id"]: [(one["id"], one["updated_at"], one["result"]) for one in task["annotations"]]
        for task in mirror.tasks()
    }
    return ours == theirs


def test_first_sync_reads_all_and_the_next_nothing(mirror: Mirror, studio: Studio) -> None:
    steps: list[tuple[int, int, str]] = []
    synced = sync(mirror, studio, PROJECT_ID, lambda told: steps.append((told["step"], told["steps"], told["message"])))
    assert synced == Synced(read=10, changed=10, dropped=0)
    assert steps[-1] == (10, 10, "Syncing: 10 of 10 tasks")
    assert same(mirror, studio)
    assert mirror.changed_after(0) == list(range(1, 11))
    revision = mirror.revision
    assert again(mirror, studio) == Synced(0, 0, 0)
    assert studio.requests == ["totals 0 None"]
    assert mirror.changed_after(revision) == []


Deed = Callable[[Studio], object]


def relabelled(studio: Studio) -> None:
    studio.unlabel(2, silently=True)
    studio.submit(20, half("Road"))


def moved(studio: Studio) -> None:
    """As "remove duplicates" does: the annotations of one task become another's, and the one is deleted."""
    studio.tasks[4]["annotations"] += studio.tasks[7]["annotations"]
    studio.delete(7)


@pytest.mark.parametrize(
    ("deed", "changed"),
    [
        (lambda studio: studio.change(3, half("Road")), [3]),
        (lambda studio: studio.change(3, half("Sky"), ground_truth=True), [3]),
        (lambda studio: studio.submit(3, half("Road")), [3]),
        (lambda studio: studio.submit(20), [20]),
        (lambda studio: studio.change(3, was_cancelled=True), [3]),
        (lambda studio: studio.submit(21, was_cancelled=True), [21]),
        (lambda studio: studio.delete(1), [1]),
        (lambda studio: studio.delete(10), [10]),
        (lambda studio: studio.unlabel(5), [5]),
        (lambda studio: studio.unlabel(5, silently=True), [5]),
        (relabelled, [2, 20]),
        (moved, [4, 7]),
        (lambda studio: (studio.tasks.clear(), studio.updated.clear()), list(range(1, 11))),
        (lambda studio: studio.predict(3), []),
    ],
)
def test_what_people_do_is_noticed(mirror: Mirror, studio: Studio, deed: Deed, changed: list[int]) -> None:
    sync(mirror, studio, PROJECT_ID)
    revision = mirror.revision
    deed(studio)
    again(mirror, studio)
    assert same(mirror, studio)
    assert mirror.changed_after(revision) == changed
    assert again(mirror, studio).changed == 0
    assert mirror.changed_after(mirror.revision) == []


@pytest.mark.parametrize("silently", [False, True])
def test_deletion_of_one_annotation_of_two_is_noticed(mirror: Mirror, studio: Studio, silently: bool) -> None:
    studio.submit(3, half("Road"))
    sync(mirror, studio, PROJECT_ID)
    studio.clock += timedelta(hours=1)
    studio.unlabel(3, 0, silently=silently)
    again(mirror, studio)
    assert same(mirror, studio)


def test_task_that_is_labelled_again_comes_back(mirror: Mirror, studio: Studio) -> None:
    sync(mirror, studio, PROJECT_ID)
    studio.unlabel(5)
    again(mirror, studio)
    revision = mirror.revision
    studio.submit(5, half("Road"))
    again(mirror, studio)
    assert same(mirror, studio)
    assert mirror.changed_after(revision) == [5]


@pytest.mark.slow
def test_deletions_in_a_large_project_are_found_with_few_requests(mirror: Mirror) -> None:
    studio = Studio(page=1000)
    for number in range(1, 5001):
        studio.submit(number)
    studio.clock += timedelta(hours=1)
    sync(mirror, studio, PROJECT_ID)
    for number in (1, 1700, 5000):
        studio.delete(number)
    studio.submit(6000)
    assert again(mirror, studio) == Synced(read=1, changed=1, dropped=3)
    assert same(mirror, studio)
    assert len(studio.requests) < 25


def test_first_sync_after_most_tasks_came_without_a_trace(mirror: Mirror, studio: Studio) -> None:
    sync(mirror, studio, PROJECT_ID)
    clock = studio.clock
    for number in range(100, 700):
        studio.submit(number)
    studio.updated |= dict.fromkeys(range(100, 700), clock - timedelta(days=1))
    again(mirror, studio)
    assert same(mirror, studio)


def test_changed_data_are_kept_and_count_as_no_change(mirror: Mirror, studio: Studio) -> None:
    sync(mirror, studio, PROJECT_ID)
    revision = mirror.revision
    studio.tasks[3]["data"] = {"image": "/data/upload/1/other.png"}
    studio.predict(3)
    assert again(mirror, studio) == Synced(read=1, changed=0, dropped=0)
    task = mirror.get(3)
    assert task is not None
    assert task["data"] == {"image": "/data/upload/1/other.png"}
    assert mirror.changed_after(revision) == []


@pytest.mark.parametrize("fails_at", range(1, 6))
def test_sync_that_was_broken_off_is_repeated(tmp_path: Path, studio: Studio, fails_at: int) -> None:
    studio.fails_at = fails_at
    with Mirror(tmp_path) as mirror, pytest.raises(LabelStudioUnreachable):
        sync(mirror, studio, PROJECT_ID)
    with Mirror(tmp_path) as mirror:
        assert mirror.synced_to is None
        assert sync(mirror, studio, PROJECT_ID).read == 10
        assert same(mirror, studio)
        # What the broken one read has not changed again, and nothing that changed is lost on who asks.
        assert mirror.changed_after(0) == list(range(1, 11))


def test_later_sync_that_was_broken_off_forgets_no_change(mirror: Mirror, studio: Studio) -> None:
    sync(mirror, studio, PROJECT_ID)
    revision = mirror.revision
    for number in range(1, 8):
        studio.change(number, half("Road"))
    studio.requests.clear()
    studio.fails_at = 3
    with pytest.raises(LabelStudioUnreachable):
        sync(mirror, studio, PROJECT_ID)
    studio.fails_at = 0
    again(mirror, studio)
    assert same(mirror, studio)
    assert mirror.changed_after(revision) == list(range(1, 8))


def test_update_that_was_saved_while_tasks_were_read_is_found(mirror: Mirror, studio: Studio) -> None:
    def meanwhile(told: object) -> None:
        if len(studio.requests) == 3:
            studio.change(1, half("Road"))

    sync(mirror, studio, PROJECT_ID, meanwhile)
    studio.clock += timedelta(hours=1)
    assert not same(mirror, studio)
    again(mirror, studio)
    assert same(mirror, studio)


def test_update_of_a_transaction_that_ended_late_is_found(mirror: Mirror, studio: Studio) -> None:
    begin = studio.clock
    sync(mirror, studio, PROJECT_ID)
    studio.change(3, half("Road"))
    # It bears the time at which it was written, before that sync; it was seen by nobody until now.
    studio.updated[3] = begin - timedelta(minutes=4)
    again(mirror, studio)
    assert same(mirror, studio)


def test_label_studios_clock_decides_and_not_this_machines(mirror: Mirror, studio: Studio) -> None:
    studio.clock = datetime.now(UTC) + timedelta(days=30)
    sync(mirror, studio, PROJECT_ID)
    assert mirror.synced_to == studio.clock - timedelta(minutes=5)
    studio.clock += timedelta(hours=1)
    studio.change(3, half("Road"))
    assert again(mirror, studio).changed == 1


def test_newest_annotation_and_changes_by_time(mirror: Mirror, studio: Studio) -> None:
    assert mirror.newest() is None
    sync(mirror, studio, PROJECT_ID)
    newest = studio.updated[10]
    assert mirror.newest() == newest
    assert mirror.changed_since(newest) == []
    assert mirror.changed_since(newest - timedelta(seconds=1, microseconds=1)) == [9, 10]
    assert mirror.changed_since(datetime.fromtimestamp(0, UTC)) == list(range(1, 11))


def test_another_source_begins_with_an_empty_mirror(mirror: Mirror, studio: Studio) -> None:
    sync(mirror, studio, PROJECT_ID)
    with mirror.sync("s3://bucket/prefix"):
        assert len(mirror) == 0
        assert mirror.synced_to is None
    sync(mirror, studio, PROJECT_ID)
    assert same(mirror, studio)


def test_mirror_is_kept_and_an_unusable_one_begun_anew(
    tmp_path: Path, studio: Studio, caplog: pytest.LogCaptureFixture
) -> None:
    with Mirror(tmp_path) as mirror:
        sync(mirror, studio, PROJECT_ID)
        first = mirror.id
    with Mirror(tmp_path) as mirror:
        assert (mirror.id, len(mirror)) == (first, 10)
    (tmp_path / "tasks.sqlite").write_bytes(b"no database" * 100)
    with Mirror(tmp_path) as mirror:
        assert mirror.id != first
        assert sync(mirror, studio, PROJECT_ID).changed == 10
    assert "is begun anew" in caplog.text


def test_sound_mirror_that_cannot_be_opened_now_is_kept(tmp_path: Path, studio: Studio) -> None:
    with Mirror(tmp_path) as mirror:
        sync(mirror, studio, PROJECT_ID)
    file = tmp_path / "tasks.sqlite"
    file.rename(tmp_path / "aside")
    file.mkdir()
    with pytest.raises(sqlite3.OperationalError):
        Mirror(tmp_path)
    file.rmdir()
    (tmp_path / "aside").rename(file)
    with Mirror(tmp_path) as mirror:
        assert len(mirror) == 10


@pytest.mark.slow
def test_many_begin_the_same_mirror_at_once(tmp_path: Path) -> None:
    ready = threading.Barrier(8)

    def begin(_: int) -> str:
        ready.wait()
        with Mirror(tmp_path / "mirror") as mirror:
            return mirror.id

    for turn in range(10):
        shutil.rmtree(tmp_path / "mirror", ignore_errors=True)
        with ThreadPoolExecutor(8) as pool:
            assert len(set(pool.map(begin, range(8)))) == 1, turn
