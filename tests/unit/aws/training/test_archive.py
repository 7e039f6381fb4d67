"""The archives that SageMaker's trainings leave: a run's bundle is extracted, everything else is refused."""

from __future__ import annotations

import gzip
import hashlib
import io
import tarfile
from pathlib import Path
from typing import Any

import pytest

from segloop.aws.training import archive
from segloop.aws.training.archive import extract_bundle
from segloop.aws.training.entry import INFERENCE
from segloop.errors import TrainingError
from tests.toys import toy_info

SNAPSHOT = "5" * 64


def bundle_files(weights: bytes = b"weights", **own: Any) -> dict[str, bytes]:
    described = {"sha256": hashlib.sha256(weights).hexdigest(), "bytes": len(weights)}
    info = toy_info(**{"snapshot": SNAPSHOT, "files": {"model.safetensors": described}, **own})
    return {"model.safetensors": weights, "version.json": info.to_json()}


def regular(name: str, data: bytes) -> tuple[tarfile.TarInfo, bytes]:
    member = tarfile.TarInfo(name)
    member.size = len(data)
    return member, data


def special(name: str, kind: bytes, target: str = "") -> tuple[tarfile.TarInfo, bytes]:
    member = tarfile.TarInfo(name)
    member.type, member.linkname = kind, target
    return member, b""


def write_archive(path: Path, *members: tuple[tarfile.TarInfo, bytes]) -> Path:
    with tarfile.open(path, "w:gz") as tar:
        for member, data in members:
            tar.addfile(member, io.BytesIO(data))
    return path


def extract(tmp_path: Path, *members: tuple[tarfile.TarInfo, bytes]) -> Path:
    folder = tmp_path / "bundle"
    folder.mkdir()
    extract_bundle(write_archive(tmp_path / "model.tar.gz", *members), folder, SNAPSHOT)
    return folder


GOOD = [regular(name, data) for name, data in bundle_files().items()]


@pytest.mark.parametrize("start", ["", "./"])
def test_a_bundle_is_extracted(tmp_path: Path, start: str) -> None:
    members = [regular(start + name, data) for name, data in bundle_files().items()]
    folder = extract(tmp_path, special(".", tarfile.DIRTYPE), *members)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == bundle_files()


def test_an_endpoints_code_is_left_out(tmp_path: Path) -> None:
    code = [regular(f"./{name}", b"raise SystemExit") for name in INFERENCE]
    folder = extract(tmp_path, special("./code", tarfile.DIRTYPE), *code, *GOOD)
    assert {path.name for path in folder.iterdir()} == set(bundle_files())


@pytest.mark.parametrize(
    "member",
    [
        regular("code/sitecustomize.py", b"x"),
        special("code/inference.py", tarfile.SYMTYPE, "/etc/passwd"),
        regular("../model.safetensors", b"x"),
        regular("/etc/passwd", b"x"),
        regular("manifest.json/x", b"x"),
        regular("code.py", b"x"),
        special("manifest.json", tarfile.SYMTYPE, "/etc/passwd"),
        special("manifest.json", tarfile.LNKTYPE, "version.json"),
        special("manifest.json", tarfile.CHRTYPE),
        special("manifest.json", tarfile.FIFOTYPE),
        special("folder", tarfile.DIRTYPE),
    ],
    ids=lambda member: f"{member[0].name}-{member[0].type!r}",
)
def test_a_hostile_member_is_refused(tmp_path: Path, member: tuple[tarfile.TarInfo, bytes]) -> None:
    with pytest.raises(TrainingError, match="no file of a bundle"):
        extract(tmp_path, *GOOD, member)
    assert {path.name for path in tmp_path.rglob("*")} <= {
        "bundle",
        "model.tar.gz",
        "model.safetensors",
        "version.json",
    }


def test_a_member_twice_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"version\.json twice"):
        extract(tmp_path, *GOOD, GOOD[1])


def test_a_large_member_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(archive.LARGEST, "model.safetensors", 3)
    with pytest.raises(TrainingError, match=r"model.safetensors has 7 bytes; at most 3"):
        extract(tmp_path, *GOOD)


@pytest.mark.parametrize("kind", ["member", "header"])
def test_a_bomb_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    monkeypatch.setattr(archive, "FREE_BYTES", 2**16)
    bomb = regular("manifest.json", bytes(2**24 if kind == "member" else 1))
    if kind == "header":
        bomb[0].pax_headers = {"comment": "0" * 2**24}
    with pytest.raises(TrainingError, match="far larger"):
        extract(tmp_path, bomb, *GOOD)


@pytest.mark.parametrize("keep", [0.0, 0.3, 0.6, 0.95])
def test_a_truncated_archive_is_refused(tmp_path: Path, keep: float) -> None:
    path = write_archive(tmp_path / "whole", *GOOD, regular("manifest.json", bytes(range(256)) * 40))
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * keep)])
    folder = tmp_path / "bundle"
    folder.mkdir()
    with pytest.raises(TrainingError, match="damaged or incomplete"):
        extract_bundle(path, folder, SNAPSHOT)


def test_a_wrong_checksum_is_refused(tmp_path: Path) -> None:
    path = write_archive(tmp_path / "model.tar.gz", *GOOD)
    data = bytearray(gzip.compress(gzip.decompress(path.read_bytes())))
    data[-8] ^= 1
    path.write_bytes(data)
    folder = tmp_path / "bundle"
    folder.mkdir()
    with pytest.raises(TrainingError, match="damaged or incomplete"):
        extract_bundle(path, folder, SNAPSHOT)


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({"model.safetensors": b"other"}, "has the sha256"),
        ({"version.json": b"{}"}, "version.json: created_at: Field required"),
        ({"version.json": b"[]"}, "version.json: Input should be an object"),
        ({"version.json": bundle_files(snapshot="6" * 64)["version.json"]}, "learnt from the snapshot"),
        ({"version.json": b"{"}, "version.json: Invalid JSON"),
    ],
)
def test_a_bundle_that_is_not_the_runs_is_refused(tmp_path: Path, files: dict[str, bytes], expected: str) -> None:
    with pytest.raises(TrainingError, match=expected):
        extract(tmp_path, *(regular(name, data) for name, data in {**bundle_files(), **files}.items()))


@pytest.mark.parametrize("missing", ["model.safetensors", "version.json"])
def test_a_bundle_without_a_file_is_refused(tmp_path: Path, missing: str) -> None:
    with pytest.raises(TrainingError, match=missing):
        extract(tmp_path, *(regular(name, data) for name, data in bundle_files().items() if name != missing))
