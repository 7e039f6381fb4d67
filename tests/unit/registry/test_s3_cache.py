"""Copies of S3's bundles on this machine, and an S3 that misbehaves."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from segloop.errors import RegistryError, SettingsError
from segloop.project_ids import project_id
from segloop.registry import Registry, open_registry
from segloop.registry.s3 import S3Store
from segloop.settings import Settings
from tests.bundles import PROJECT, make_info


@pytest.mark.slow
def test_s3_bundles_are_downloaded_once_repaired_and_pruned(
    s3_url: str, tmp_path: Path, make_bundle: Callable[..., Path]
) -> None:
    downloads: list[str] = []

    class Counting(S3Store):
        def download(self, key: str, path: Path) -> None:
            downloads.append(key)
            super().download(key, path)

    registry = Registry(Counting(s3_url), tmp_path / "cache")
    names = [registry.add(PROJECT, make_bundle(b"%d" % number), make_info()) for number in range(6)]
    folder = registry.bundle(PROJECT, names[0])
    assert registry.bundle(PROJECT, names[0]) == folder
    assert len(downloads) == 2

    (folder / "model.safetensors").write_bytes(b"rotten")
    (folder.with_name(".fresh")).mkdir()  # a process that was killed while downloading
    (folder.with_name(".fresh") / "model.safetensors").write_bytes(b"part")
    assert (registry.bundle(PROJECT, names[0]) / "model.safetensors").read_bytes() == b"0"

    for number, name in enumerate(names):
        assert (registry.bundle(PROJECT, name) / "model.safetensors").read_bytes() == b"%d" % number
    assert {path.name for path in folder.parent.iterdir() if path.name.startswith("v")} == set(names[-4:])


@pytest.mark.slow
def test_only_the_files_asked_for_are_downloaded(s3_url: str, tmp_path: Path, make_bundle: Callable[..., Path]) -> None:
    downloads: list[str] = []

    class Counting(S3Store):
        def download(self, key: str, path: Path) -> None:
            downloads.append(key.rpartition("/")[2])
            super().download(key, path)

    registry = Registry(Counting(s3_url), tmp_path / "cache")
    bundle = make_bundle(b"weights")
    for name in ("openvino.xml", "openvino.bin"):
        (bundle / name).write_bytes(name.encode())
    version = registry.add(PROJECT, bundle, make_info())
    folder = registry.bundle(PROJECT, version, ["openvino.xml", "openvino.bin"])
    assert sorted(downloads) == ["openvino.bin", "openvino.xml", "version.json"]
    assert (folder / "openvino.bin").read_bytes() == b"openvino.bin"
    registry.bundle(PROJECT, version)
    assert downloads[3:] == ["model.safetensors"]
    with pytest.raises(
        RegistryError, match=f"version {version} of project {project_id(PROJECT)} has no file openvino-int8.xml"
    ):
        registry.bundle(PROJECT, version, ["openvino-int8.xml"])


@pytest.mark.slow
def test_an_unreachable_s3_is_one_sentence(monkeypatch: pytest.MonkeyPatch, s3_url: str, tmp_path: Path) -> None:
    registry = open_registry(Settings(store="s3://no-such-bucket/prefix", data_dir=tmp_path))
    with pytest.raises(RegistryError, match=r"s3://no-such-bucket/prefix cannot be used: .*NoSuchBucket"):
        registry.projects()
    with pytest.raises(RegistryError, match="NoSuchBucket"):
        registry.write_json("29", "split.json", {})
    with pytest.raises(SettingsError, match="bucket"):
        open_registry(Settings(store="s3:///prefix", data_dir=tmp_path))


@pytest.mark.slow
def test_a_put_whose_answer_was_lost_is_a_success(s3_url: str) -> None:
    store = S3Store(s3_url)
    assert store.write_if("29/champion.json", b"ours", None)
    assert store.write_if("29/champion.json", b"ours", None)
    assert not store.write_if("29/champion.json", b"theirs", None)
    assert not store.write_if("29/gone.json", b"ours", '"00000000000000000000000000000000"')
