"""Files that are written whole."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from segloop.files import read_json, replacing, write_bytes, write_json
from tests.waiting import until

Write = Callable[[Path, bytes], None]


def write_replacing(path: Path, data: bytes) -> None:
    with replacing(path) as temporary:
        temporary.write_bytes(data)


@pytest.fixture(params=[write_bytes, write_replacing])
def write(request: pytest.FixtureRequest) -> Write:
    chosen: Write = request.param
    return chosen


def test_a_file_is_replaced_and_nothing_else_is_left(write: Write, tmp_path: Path) -> None:
    path = tmp_path / "file"
    write(path, b"old")
    write(path, b"new")
    assert path.read_bytes() == b"new"
    assert list(tmp_path.iterdir()) == [path]


def test_a_block_that_fails_changes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "folder" / "file"

    def write_half() -> None:
        with replacing(path) as temporary:
            temporary.write_bytes(b"half")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        write_half()
    assert list(path.parent.iterdir()) == []


@pytest.mark.parametrize("umask", [0o022, 0o077, 0o002])
def test_a_file_has_the_permissions_that_the_umask_gives_a_new_one(write: Write, tmp_path: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        write(tmp_path / "file", b"data")
    finally:
        os.umask(before)
    assert (tmp_path / "file").stat().st_mode & 0o777 == 0o666 & ~umask


def test_a_reader_sees_the_whole_file_of_one_writer_or_another(write: Write, tmp_path: Path) -> None:
    path = tmp_path / "file"
    contents = [bytes([number]) * 300_000 for number in range(3)]
    write(path, contents[0])

    def work(data: bytes) -> None:
        for _ in range(30):
            write(path, data)

    with ThreadPoolExecutor() as pool:
        writers = [pool.submit(work, data) for data in contents]
        while not all(writer.done() for writer in writers):
            assert path.read_bytes() in contents
    assert [writer.result() for writer in writers] == [None, None, None]
    assert list(tmp_path.iterdir()) == [path]


def test_what_a_killed_writer_left_is_removed_after_an_hour(tmp_path: Path) -> None:
    path = tmp_path / "weights[1]"
    path.write_bytes(b"old")
    program = f"""
import time
from pathlib import Path
from segloop.files import replacing
with replacing(Path({str(path)!r})) as temporary:
    temporary.write_bytes(b"half")
    time.sleep(600)
"""
    process = subprocess.Popen([sys.executable, "-c", program])
    try:
        (left,) = until(lambda: [one for one in tmp_path.glob(".*.tmp") if one.stat().st_size], "a temporary file")
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert path.read_bytes() == b"old"
    write_replacing(path, b"new")
    assert left.exists()  # it may be that of a writer that is at work
    os.utime(left, (0, 0))
    write_replacing(tmp_path / "weights1", b"other")
    assert left.exists()  # it is another file's
    write_replacing(path, b"new")
    assert {one.name for one in tmp_path.iterdir()} == {"weights[1]", "weights1"}


def test_what_must_last_is_on_the_disk_before_its_name_shows_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "file"
    synced: list[bool] = []
    monkeypatch.setattr(os, "fsync", lambda _: synced.append(path.exists()))
    write_bytes(path, b"data")
    assert synced == []
    path.unlink()
    write_bytes(path, b"data", durable=True)
    assert synced == [False]


def test_json_comes_back_and_a_missing_file_is_none(tmp_path: Path) -> None:
    assert read_json(tmp_path / "file") is None
    write_json(tmp_path / "file", {"naïve": [1, None]})
    assert read_json(tmp_path / "file") == {"naïve": [1, None]}
    (tmp_path / "file").write_text("{")
    with pytest.raises(ValueError, match="Expecting"):
        read_json(tmp_path / "file")
