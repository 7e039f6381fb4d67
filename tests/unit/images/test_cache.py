"""Images that were fetched, on disk, below a number of bytes."""

from __future__ import annotations

import hashlib
import multiprocessing
import os
import threading
from pathlib import Path

import pytest

from segloop.images.cache import DiskCache
from segloop.images.fetch import Validators

BLOCK = 4096


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def put(cache: DiskCache, identity: str, data: bytes, etag: str = '"1"') -> None:
    cache.put(identity, data, sha256(data), Validators(etag, ""))


def used_bytes(folder: Path) -> int:
    files = [*(folder / "blobs").iterdir(), *(folder / "index").iterdir()]
    return sum(-(-file.stat().st_size // BLOCK) * BLOCK for file in files)


def hammer(folder: Path, seed: int) -> None:
    cache = DiskCache(folder, 40 * BLOCK)
    for i in range(40):
        put(cache, f"{seed}-{i}", bytes([seed]) * BLOCK + str(i).encode())
        put(cache, f"shared-{i % 5}", b"shared" + str(i % 5).encode())
        entry = cache.get(f"shared-{i % 5}")
        assert entry is None or entry.data == b"shared" + str(i % 5).encode()


class TestCache:
    def test_round_trip(self, tmp_path: Path) -> None:
        cache = DiskCache(tmp_path, 10 * BLOCK)
        assert cache.get("a") is None
        cache.put("a", b"data", sha256(b"data"), Validators('"1"', "yesterday"))
        entry = DiskCache(tmp_path, 10 * BLOCK).get("a")
        assert entry is not None
        assert (entry.data, entry.sha256, entry.validators) == (
            b"data", sha256(b"data"), Validators('"1"', "yesterday"),
        )  # fmt: skip

    def test_a_new_file_replaces_the_old(self, tmp_path: Path) -> None:
        cache = DiskCache(tmp_path, 10 * BLOCK)
        put(cache, "a", b"old")
        put(cache, "a", b"new", '"2"')
        entry = cache.get("a")
        assert entry is not None
        assert (entry.data, entry.validators.etag) == (b"new", '"2"')

    def test_equal_files_are_kept_once(self, tmp_path: Path) -> None:
        cache = DiskCache(tmp_path, 10 * BLOCK)
        put(cache, "a", b"data")
        put(cache, "b", b"data")
        assert len(list((tmp_path / "blobs").iterdir())) == 1

    def test_a_damaged_file_is_a_miss(self, tmp_path: Path) -> None:
        cache = DiskCache(tmp_path, 10 * BLOCK)
        put(cache, "a", b"data")
        (tmp_path / "blobs" / sha256(b"data")).write_bytes(b"dat")
        assert cache.get("a") is None
        put(cache, "a", b"data")
        assert cache.get("a") is not None

    @pytest.mark.parametrize(
        "index", [b"", b"[]", b"{}", b'{"sha256": 3}', b'{"sha256": "../lock", "etag": "", "last_modified": ""}']
    )
    def test_a_damaged_index_is_a_miss(self, tmp_path: Path, index: bytes) -> None:
        cache = DiskCache(tmp_path, 10 * BLOCK)
        put(cache, "a", b"data")
        next((tmp_path / "index").iterdir()).write_bytes(index)
        assert cache.get("a") is None

    def test_the_least_recently_used_go_first(self, tmp_path: Path) -> None:
        cache = DiskCache(tmp_path, 8 * BLOCK)
        for age, name in ((300, "a"), (200, "b"), (100, "c")):  # 2 blocks each
            put(cache, name, name.encode())
            for file in (tmp_path / "blobs" / sha256(name.encode()), tmp_path / "index" / sha256(name.encode())):
                os.utime(file, (10**9 - age, 10**9 - age))
        assert cache.get("a") is not None  # used now
        put(cache, "d", b"d")
        put(cache, "e", b"e")
        assert cache.get("b") is None
        assert [name for name in "ade" if cache.get(name)] == ["a", "d", "e"]
        assert used_bytes(tmp_path) <= 8 * BLOCK

    def test_off_and_too_large(self, tmp_path: Path) -> None:
        for limit in (0, BLOCK):
            cache = DiskCache(tmp_path / str(limit), limit)
            put(cache, "a", b"data")
            assert cache.get("a") is None
            assert not (tmp_path / str(limit)).exists()

    def test_a_folder_that_cannot_be_written_is_no_error(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        (tmp_path / "file").write_bytes(b"")
        cache = DiskCache(tmp_path / "file", 10 * BLOCK)
        put(cache, "a", b"data")
        assert cache.get("a") is None
        assert "cannot be written" in caplog.text

    def test_leftovers_of_a_crash_are_counted_and_removed(self, tmp_path: Path) -> None:
        cache = DiskCache(tmp_path, 8 * BLOCK)
        put(cache, "a", b"a")
        (tmp_path / "blobs" / ".left").write_bytes(bytes(100 * BLOCK))
        os.utime(tmp_path / "blobs" / ".left", (0, 0))
        (tmp_path / "total").unlink()
        put(cache, "b", b"b")
        assert not (tmp_path / "blobs" / ".left").exists()
        assert cache.get("a") is not None

    @pytest.mark.slow
    def test_threads_and_processes_share_a_folder(self, tmp_path: Path) -> None:
        context = multiprocessing.get_context("spawn")
        processes = [context.Process(target=hammer, args=(tmp_path, seed)) for seed in (1, 2)]
        threads = [threading.Thread(target=hammer, args=(tmp_path, seed)) for seed in (3, 4)]
        for worker in (*processes, *threads):
            worker.start()
        for worker in (*processes, *threads):
            worker.join()
        assert [process.exitcode for process in processes] == [0, 0]
        assert used_bytes(tmp_path) <= 40 * BLOCK
        assert not [file for file in tmp_path.rglob(".*") if file.is_file()]
