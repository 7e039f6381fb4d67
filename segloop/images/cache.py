"""A bounded folder of fetched files, shared by threads and processes."""

from __future__ import annotations

import hashlib
import json
import logging
import os
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout

from segloop.files import write_bytes
from segloop.images.fetch import Validators

_log = logging.getLogger(__name__)

_BLOCK_BYTES = 4096
_LOCK_TIMEOUT_S = 10.0
_LOCK_POLL_S = 0.002
# Evicting a little more than needed makes the folder scan rare.
_KEPT_SHARE = 0.9


@dataclass(frozen=True)
class Entry:
    """A file that the cache holds, and how to ask its source whether it changed."""

    data: bytes
    sha256: str
    validators: Validators


class DiskCache:
    """Files by content, found by the identity of their source; the least recently used go first.

    Layout: `blobs/<sha256 of the bytes>` and `index/<sha256 of the identity>`, a JSON object with the keys
    sha256, etag and last_modified. `total` holds the bytes of disk in use; it changes under `lock` only.
    What cannot be read or written is as good as not cached: no method raises.

    Args:
        max_bytes: bound on the disk blocks of all files; 0 switches the cache off.
    """

    def __init__(self, folder: Path, max_bytes: int) -> None:
        self._folder = folder
        self._max_bytes = max_bytes
        self._lock = FileLock(folder / "lock", timeout=_LOCK_TIMEOUT_S, poll_interval=_LOCK_POLL_S)

    @property
    def nbytes(self) -> int:
        """Bytes of disk in use; 0 where that is not known."""
        try:
            return int((self._folder / "total").read_bytes())
        except (OSError, ValueError):
            return 0

    def get(self, identity: str) -> Entry | None:
        """What was stored last for an identity, if it is still there and whole."""
        if not self._max_bytes:
            return None
        index = self._index_path(identity)
        try:
            fields = json.loads(index.read_bytes())
            blob = self._blob_path(fields["sha256"])
            data = blob.read_bytes()
            if hashlib.sha256(data).hexdigest() != blob.name:
                blob.unlink(missing_ok=True)
                return None
            os.utime(index)
            os.utime(blob)
            return Entry(data, blob.name, Validators(str(fields["etag"]), str(fields["last_modified"])))
        except (OSError, ValueError, LookupError, TypeError):
            return None

    def put(self, identity: str, data: bytes, sha256: str, validators: Validators) -> None:
        """Store a file for an identity, and evict others until all fit again."""
        fields = {"sha256": sha256, "etag": validators.etag, "last_modified": validators.last_modified}
        index = json.dumps(fields).encode()
        needed = _disk_bytes(len(data)) + _disk_bytes(len(index))
        if needed > self._max_bytes:
            return
        try:
            for name in ("blobs", "index"):
                (self._folder / name).mkdir(mode=0o700, parents=True, exist_ok=True)
            with self._lock:
                self._make_room(needed)
                if not self._blob_path(sha256).exists():
                    write_bytes(self._blob_path(sha256), data)
                write_bytes(self._index_path(identity), index)
        except (OSError, Timeout) as error:
            _log.warning("the image cache %s cannot be written: %s", self._folder, error)

    def _make_room(self, needed: int) -> None:
        total_path = self._folder / "total"
        try:
            total = int(total_path.read_bytes())
        except (OSError, ValueError):
            total = self._max_bytes  # unknown, so count
        if total + needed > self._max_bytes:
            total = self._evict(int(self._max_bytes * _KEPT_SHARE) - needed)
        # Written before the files are: a crash in between counts too much, which the next scan mends.
        write_bytes(total_path, str(total + needed).encode())

    def _evict(self, keep_bytes: int) -> int:
        files = []
        total = 0
        for name in ("blobs", "index"):
            for entry in os.scandir(self._folder / name):
                stat = entry.stat(follow_symlinks=False)
                files.append((stat.st_mtime_ns, stat.st_size, entry.path))
                total += _disk_bytes(stat.st_size)
        for _, size_bytes, path in sorted(files):
            if total <= max(keep_bytes, 0):
                break
            Path(path).unlink(missing_ok=True)
            total -= _disk_bytes(size_bytes)
        return total

    def _blob_path(self, sha256: str) -> Path:
        return self._folder / "blobs" / Path(sha256).name

    def _index_path(self, identity: str) -> Path:
        return self._folder / "index" / hashlib.sha256(identity.encode("utf-8", "surrogatepass")).hexdigest()


def _disk_bytes(size_bytes: int) -> int:
    return -(-size_bytes // _BLOCK_BYTES) * _BLOCK_BYTES
