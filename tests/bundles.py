"""What tests put into a store of versions, and a store that dies on the way."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from segloop.registry.store import Blob, Store
from segloop.versions import VersionInfo

PROJECT = "29.1795383040"
BUCKET = "segloop-test"


def make_info(**changes: Any) -> VersionInfo:
    known = {
        "created_at": "2026-11-22T12:00:00+00:00",
        "arch": "deeplabv3_resnet50",
        "output_stride": 16,
        "input_size": 512,
        "classes": ["Straße", "Sky"],
        "parent": None,
        "snapshot": "ab" * 32,
        "metrics": {"miou": 0.5, "pixel_accuracy": 0.9, "iou": {"Straße": 0.5, "Sky": None}, "tasks": 4, "pixels": 9},
        "champion_metrics": None,
        "decision": {"act": True, "reason": "The first version."},
        "recipe": {"epochs": 3},
    }
    return VersionInfo.model_validate({**known, **changes})


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


class CrashingStore:
    """The real store, until the n-th change of it: then the process is as good as dead."""

    class Crash(BaseException):
        pass

    def __init__(self, store: Store, changes: int) -> None:
        self._store = store
        self._left = changes

    def _change(self) -> None:
        if self._left == 0:
            raise self.Crash
        self._left -= 1

    def read(self, key: str) -> Blob | None:
        return self._store.read(key)

    def reread(self, key: str, known: Blob) -> Blob | None:
        return self._store.reread(key, known)

    def size(self, key: str) -> int | None:
        return self._store.size(key)

    def write(self, key: str, data: bytes) -> None:
        self._change()
        self._store.write(key, data)

    def write_if(self, key: str, data: bytes, tag: str | None) -> bool:
        self._change()
        return self._store.write_if(key, data, tag)

    def folders(self, prefix: str) -> list[str]:
        return self._store.folders(prefix)

    def upload(self, path: Path, key: str) -> None:
        self._change()
        self._store.upload(path, key)

    def download(self, key: str, path: Path) -> None:
        self._store.download(key, path)

    def delete(self, key: str) -> None:
        self._change()
        self._store.delete(key)

    def local(self, prefix: str) -> Path | None:
        return self._store.local(prefix)
