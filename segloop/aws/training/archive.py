"""model.tar.gz of a training job: a bundle from a machine that may have been tampered with."""

from __future__ import annotations

import gzip
import tarfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from segloop.aws.training.entry import INFERENCE
from segloop.dataset import MANIFEST, read_manifest
from segloop.errors import DiskError, DiskFull, RegistryError, TrainingError
from segloop.formats import VERSION_FILE, WEIGHTS_FILE
from segloop.registry.bundles import verify_files
from segloop.versions import read_version

#: What is extracted of an archive, with the largest size of each, in bytes.
LARGEST = {WEIGHTS_FILE: 2 * 2**30, VERSION_FILE: 16 * 2**20, MANIFEST: 256 * 2**20}
# Those of an endpoint's code, which are passed over, too.
_FOLDERS = ("", ".", "code")
#: The largest archive, in bytes.
ARCHIVE_BYTES = 2 * 2**30
#: How often larger than the archive its contents may be (weights hardly shrink), beyond the first FREE_BYTES.
RATIO = 20
FREE_BYTES = 64 * 2**20
_CHUNK_BYTES = 2**20


def extract_bundle(archive: Path, folder: Path, snapshot: str | None = None) -> None:
    """Extract an archive into an empty folder, and check that it is the bundle of a snapshot (its manifest's hash).

    The code of an endpoint that it may hold is left out.

    Without one it is that of the manifest in the archive, if there is one.

    Raises:
        TrainingError: it is damaged, holds anything but a bundle, or the bundle of something else.
        DiskFull: it does not fit on the disk of the folder.
    """
    limit = max(FREE_BYTES, RATIO * archive.stat().st_size)
    try:
        with gzip.open(archive, "rb") as raw:
            # As a stream: what tarfile reads for itself, long headers too, counts.
            stream: Any = _Limited(raw, limit, archive)
            with tarfile.open(fileobj=stream, mode="r|") as tar:
                _extract_all(tar, folder)
            # The checksum stands at the end.
            while stream.read(_CHUNK_BYTES):
                pass
    except (tarfile.TarError, EOFError, zlib.error, OSError, ValueError) as error:
        if isinstance(error, OSError) and isinstance(broken := DiskError.of(folder, error), DiskFull):
            raise broken from error
        raise TrainingError(f"{archive}: the trained model is damaged or incomplete: {error}") from error
    if snapshot is None and (folder / MANIFEST).is_file():
        snapshot = read_manifest(folder / MANIFEST).hash
    _verify(folder, snapshot)


def _extract_all(tar: tarfile.TarFile, folder: Path) -> None:
    for member in tar:
        name = member.name.removeprefix("./")
        if (member.isdir() and name in _FOLDERS) or (member.isreg() and name in INFERENCE):
            continue
        if not member.isreg() or name not in LARGEST:
            raise TrainingError(f"the trained model holds {member.name!r}, which is no file of a bundle")
        if member.size > LARGEST[name]:
            raise TrainingError(
                f"the trained model's {name} has {member.size} bytes; at most {LARGEST[name]} are taken"
            )
        if (folder / name).exists():
            raise TrainingError(f"the trained model holds {name} twice")
        tar.extract(member, folder, filter="data")


def _verify(folder: Path, snapshot: str | None) -> None:
    try:
        info = read_version(folder)
        if set(info.files) != {WEIGHTS_FILE}:
            raise TrainingError(
                f"the trained model's {VERSION_FILE} tells of {sorted(info.files)}; {WEIGHTS_FILE} alone is trained"
            )
        if snapshot is not None and info.snapshot != snapshot:
            raise TrainingError(f"the trained model learnt from the snapshot {info.snapshot!r}, not from {snapshot}")
        verify_files(folder, info, [WEIGHTS_FILE])
    except RegistryError as error:
        raise TrainingError(f"the trained model cannot be used: {error}") from error


@dataclass
class _Limited:
    """A stream that refuses to give more than `left` bytes."""

    stream: gzip.GzipFile
    left: int
    archive: Path

    def read(self, size: int = -1) -> bytes:
        data = self.stream.read(size)
        self.left -= len(data)
        if self.left < 0:
            raise TrainingError(f"{self.archive}: its contents are far larger than a trained model's")
        return data
