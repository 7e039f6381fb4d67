from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
from moto.server import ThreadedMotoServer

from segloop.errors import RegistryError, SettingsError, UnknownProject, VersionNotFound
from segloop.registry import Registry, open_registry
from segloop.registry.s3 import S3Store
from segloop.registry.store import Blob, FolderStore, Store
from segloop.settings import Settings

PROJECT = "29.1795383040"
BUCKET = "segloop-test"


@pytest.fixture(scope="module")
def moto_server() -> Iterator[str]:
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    url = f"http://{host}:{port}"
    keys = {"aws_access_key_id": "test", "aws_secret_access_key": "test"}
    boto3.client("s3", "us-east-1", endpoint_url=url, **keys).create_bucket(Bucket=BUCKET)
    yield url
    server.stop()


@pytest.fixture
def s3_url(moto_server: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> str:
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", moto_server)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    return f"s3://{BUCKET}/{tmp_path.name}/store"


@pytest.fixture(params=["folder", "s3"])
def store_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return str(request.getfixturevalue("s3_url")) if request.param == "s3" else str(tmp_path / "store")


@pytest.fixture
def settings(store_url: str, tmp_path: Path) -> Settings:
    return Settings(store=store_url, data_dir=tmp_path / "data")


@pytest.fixture
def registry(settings: Settings) -> Registry:
    return open_registry(settings)


@pytest.fixture
def store(store_url: str) -> Store:
    return S3Store(store_url) if store_url.startswith("s3://") else FolderStore(Path(store_url))


def make_info(**changes: Any) -> dict[str, Any]:
    return {
        "format": 1,
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
        **changes,
    }


@pytest.fixture
def make_bundle(tmp_path: Path) -> Callable[..., Path]:
    def make(weights: bytes, **files: bytes) -> Path:
        folder = tmp_path / f"bundle-{hashlib.sha256(weights).hexdigest()[:12]}"
        folder.mkdir(exist_ok=True)
        (folder / "model.safetensors").write_bytes(weights)
        (folder / "version.json").write_text("{}")
        for name, data in files.items():
            (folder / name).write_bytes(data)
        return folder

    return make


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


# -- versions


def test_a_version_comes_back_as_it_was_added(registry: Registry, make_bundle: Callable[..., Path]) -> None:
    version = registry.add(PROJECT, make_bundle(b"weights"), make_info())
    assert version == f"v1-{digest(b'weights')[:8]}"
    info = registry.get(PROJECT, version)
    assert (info.version, info.project) == (version, PROJECT)
    assert info.classes == ("Straße", "Sky")
    assert info.metrics["iou"] == {"Straße": 0.5, "Sky": None}
    assert info.files["model.safetensors"].sha256 == digest(b"weights")
    assert info.files["model.safetensors"].bytes == 7
    bundle = registry.bundle(PROJECT, version)
    assert (bundle / "model.safetensors").read_bytes() == b"weights"
    assert json.loads((bundle / "version.json").read_text())["version"] == version


def test_versions_count_up_and_are_listed_oldest_first(registry: Registry, make_bundle: Callable[..., Path]) -> None:
    names = [registry.add(PROJECT, make_bundle(b"%d" % number), make_info()) for number in range(11)]
    assert [int(name[1:].split("-")[0]) for name in names] == list(range(1, 12))
    assert [info.version for info in registry.versions(PROJECT)] == names
    assert registry.versions("30") == []


def test_the_same_bundle_again_is_the_same_version(registry: Registry, make_bundle: Callable[..., Path]) -> None:
    first = registry.add(PROJECT, make_bundle(b"one"), make_info(parent=None))
    second = registry.add(PROJECT, make_bundle(b"two"), make_info(parent=first))
    assert registry.add(PROJECT, make_bundle(b"one"), make_info(parent=second)) == first
    assert registry.get(PROJECT, first).parent is None
    assert len(registry.versions(PROJECT)) == 2


def test_the_same_weights_under_other_class_names_are_another_version(
    registry: Registry, make_bundle: Callable[..., Path]
) -> None:
    first = registry.add(PROJECT, make_bundle(b"one"), make_info(classes=["a", "b"]))
    second = registry.add(PROJECT, make_bundle(b"one"), make_info(classes=["b", "a"]))
    assert (first[:3], second[:3]) == ("v1-", "v2-")
    assert registry.get(PROJECT, second).classes == ("b", "a")


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

    def local(self, prefix: str) -> Path | None:
        return self._store.local(prefix)


def test_a_crash_at_any_step_leaves_nothing_visible_and_a_repeat_finishes_it(
    registry: Registry, store: Store, make_bundle: Callable[..., Path], tmp_path: Path
) -> None:
    bundle = make_bundle(b"weights", **{"extra.bin": b"extra"})
    # Five changes: the name, two files, version.json, champion.json.
    for changes in range(5):
        project = str(changes)
        other = registry.add(project, make_bundle(b"other"), make_info())
        registry.promote(project, other, "first")
        dying = Registry(CrashingStore(store, changes), tmp_path / "cache")
        with pytest.raises(CrashingStore.Crash):
            dying.promote(project, dying.add(project, bundle, make_info()), "better")

        assert len(registry.versions(project)) == (2 if changes == 4 else 1)
        champion = registry.champion(project)
        assert champion is not None
        assert champion.version == other

        version = registry.add(project, bundle, make_info())
        assert version == f"v2-{digest(b'weights')[:8]}"
        assert (registry.bundle(project, version) / "extra.bin").read_bytes() == b"extra"
        assert registry.promote(project, version, "better").generation == 2


def test_what_a_crash_left_half_written_is_overwritten(
    registry: Registry, store: Store, make_bundle: Callable[..., Path]
) -> None:
    store.write(f"{PROJECT}/versions/v1-{digest(b'weights')[:8]}/model.safetensors", b"weig")
    assert registry.versions(PROJECT) == []
    with pytest.raises(VersionNotFound):
        registry.get(PROJECT, f"v1-{digest(b'weights')[:8]}")
    version = registry.add(PROJECT, make_bundle(b"weights"), make_info())
    assert (registry.bundle(PROJECT, version) / "model.safetensors").read_bytes() == b"weights"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"classes": None}, "classes"),
        ({"created_at": None}, "created_at"),
        ({"metrics": {"miou": float("nan")}}, "JSON"),
        ({"files": {"model.safetensors": {"sha256": "0" * 64, "bytes": 7}}}, "model.safetensors is not the file"),
        ({"files": {"../../champion.json": {"sha256": "0" * 64, "bytes": 7}}}, "is not the file"),
    ],
)
def test_an_info_that_is_none_is_refused_before_anything_is_stored(
    registry: Registry, make_bundle: Callable[..., Path], changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(RegistryError, match=message):
        registry.add(PROJECT, make_bundle(b"weights"), make_info(**changes))
    assert registry.versions(PROJECT) == []


def test_bundles_with_links_folders_or_no_weights_are_refused(registry: Registry, tmp_path: Path) -> None:
    bundle = tmp_path / "bundle"
    with pytest.raises(RegistryError, match="cannot be read"):
        registry.add(PROJECT, bundle, make_info())
    bundle.mkdir()
    with pytest.raises(RegistryError, match=r"no model\.safetensors"):
        registry.add(PROJECT, bundle, make_info())
    (bundle / "model.safetensors").symlink_to("/etc/hostname")
    with pytest.raises(RegistryError, match="plain file"):
        registry.add(PROJECT, bundle, make_info())
    (bundle / "model.safetensors").unlink()
    (bundle / "model.safetensors").mkdir()
    with pytest.raises(RegistryError, match="plain file"):
        registry.add(PROJECT, bundle, make_info())


HOSTILE = [
    "",
    ".",
    "..",
    "../v1-00000000",
    "v1-00000000/..",
    "v1",
    "v0-00000000",
    "v1-0000000G",
    "v1-00000000\n",
    "a/b",
]


def test_hostile_version_names_are_not_found(registry: Registry) -> None:
    for call in (registry.get, registry.bundle, lambda project, name: registry.promote(project, name, "")):
        for version in HOSTILE:
            with pytest.raises(VersionNotFound):
                call(PROJECT, version)


HOSTILE_PROJECTS = ["", ".", "..", "../29", "29/..", "29.", "29.1.2", "twenty", "29\n", "٢٩", "1" * 300]


def test_hostile_projects_are_unknown(registry: Registry, tmp_path: Path) -> None:
    for call in (
        registry.champion,
        registry.versions,
        registry.resolve,
        lambda key: registry.get(key, "v1-00000000"),
        lambda key: registry.add(key, tmp_path, {}),
        lambda key: registry.rollback(key, ""),
        lambda key: registry.read_json(key, "split.json"),
        lambda key: registry.write_json(key, "split.json", {}),
    ):
        for project in HOSTILE_PROJECTS:
            with pytest.raises(UnknownProject):
                call(project)


def test_a_changed_file_is_not_trusted(registry: Registry, store: Store, make_bundle: Callable[..., Path]) -> None:
    version = registry.add(PROJECT, make_bundle(b"weights"), make_info())
    store.write(f"{PROJECT}/versions/{version}/model.safetensors", b"WEIGHTS")
    with pytest.raises(RegistryError, match="do not trust"):
        registry.bundle(PROJECT, version)


def test_a_missing_file_is_an_error(registry: Registry, store: Store) -> None:
    value = make_info(
        version="v1-00000000", project=PROJECT, files={"model.safetensors": {"sha256": "0" * 64, "bytes": 1}}
    )
    store.write(f"{PROJECT}/versions/v1-00000000/version.json", json.dumps(value).encode())
    with pytest.raises(RegistryError):
        registry.bundle(PROJECT, "v1-00000000")


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"{",
        b"[]",
        b"\xff",
        b"[" * 100_000,
        json.dumps(make_info(version="v1-00000000", project=PROJECT, files={})).encode(),
        json.dumps(
            make_info(
                version="v1-00000000",
                project=PROJECT,
                files={
                    name: {"sha256": "0" * 64, "bytes": 1} for name in ("model.safetensors", "../../../champion.json")
                },
            )
        ).encode(),
        json.dumps(
            make_info(
                version="v2-00000000", project=PROJECT, files={"model.safetensors": {"sha256": "0" * 64, "bytes": 1}}
            )
        ).encode(),
    ],
)
def test_a_broken_or_hostile_version_json_is_an_error_and_does_not_hide_the_others(
    registry: Registry, store: Store, make_bundle: Callable[..., Path], text: bytes
) -> None:
    store.write(f"{PROJECT}/versions/v1-00000000/version.json", text)
    with pytest.raises(RegistryError):
        registry.get(PROJECT, "v1-00000000")
    version = registry.add(PROJECT, make_bundle(b"weights"), make_info())
    assert version.startswith("v2-")
    assert [info.version for info in registry.versions(PROJECT)] == [version]


# -- the local cache of an S3 store


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
    with pytest.raises(RegistryError, match=f"version {version} of project {PROJECT} has no file openvino-int8.xml"):
        registry.bundle(PROJECT, version, ["openvino-int8.xml"])


def test_an_unreachable_s3_is_one_sentence(monkeypatch: pytest.MonkeyPatch, s3_url: str, tmp_path: Path) -> None:
    registry = open_registry(Settings(store="s3://no-such-bucket/prefix", data_dir=tmp_path))
    with pytest.raises(RegistryError, match=r"s3://no-such-bucket/prefix cannot be used: .*NoSuchBucket"):
        registry.projects()
    with pytest.raises(RegistryError, match="NoSuchBucket"):
        registry.write_json("29", "split.json", {})
    with pytest.raises(SettingsError, match="bucket"):
        open_registry(Settings(store="s3:///prefix", data_dir=tmp_path))


def test_a_put_whose_answer_was_lost_is_a_success(s3_url: str) -> None:
    store = S3Store(s3_url)
    assert store.write_if("29/champion.json", b"ours", None)
    assert store.write_if("29/champion.json", b"ours", None)
    assert not store.write_if("29/champion.json", b"theirs", None)
    assert not store.write_if("29/gone.json", b"ours", '"00000000000000000000000000000000"')


# -- the champion


def test_promote_and_roll_back(registry: Registry, make_bundle: Callable[..., Path]) -> None:
    assert registry.champion(PROJECT) is None
    with pytest.raises(RegistryError, match="nothing to roll back to"):
        registry.rollback(PROJECT, "")
    one, two, three = (registry.add(PROJECT, make_bundle(b"%d" % number), make_info()) for number in range(3))

    first = registry.promote(PROJECT, one, "The first version.")
    assert (first.version, first.generation, first.reason, first.previous) == (one, 1, "The first version.", ())
    assert registry.champion(PROJECT) == first
    assert registry.promote(PROJECT, one, "again") == first
    with pytest.raises(RegistryError, match="nothing to roll back to"):
        registry.rollback(PROJECT, "")

    registry.promote(PROJECT, two, "better")
    assert registry.promote(PROJECT, three, "better").previous == (one, two)
    back = registry.rollback(PROJECT, "worse after all")
    assert (back.version, back.generation, back.previous, back.reason) == (two, 4, (one,), "worse after all")
    assert registry.rollback(PROJECT, "").version == one
    assert registry.promote(PROJECT, three, "").previous == (one,)
    with pytest.raises(VersionNotFound):
        registry.promote(PROJECT, "v9-00000000", "")
    assert registry.champion("30") is None


def test_a_broken_champion_is_an_error(registry: Registry, store: Store) -> None:
    for text in (b"", b"{}", b"[]", b"null"):
        store.write(f"{PROJECT}/champion.json", text)
        with pytest.raises(RegistryError):
            registry.champion(PROJECT)


def test_a_hostile_champion_is_an_error(registry: Registry, store: Store) -> None:
    value = {"version": "../../evil", "generation": 1, "promoted_at": "", "reason": "", "previous": []}
    store.write(f"{PROJECT}/champion.json", json.dumps(value).encode())
    with pytest.raises(RegistryError, match="evil"):
        registry.champion(PROJECT)


def test_a_poll_is_one_read_of_the_store(tmp_path: Path, make_bundle: Callable[..., Path]) -> None:
    calls: list[str] = []

    class Counting(FolderStore):
        def read(self, key: str) -> Blob | None:
            calls.append(key)
            return super().read(key)

    registry = Registry(Counting(tmp_path / "store"), tmp_path / "cache")
    registry.promote(PROJECT, registry.add(PROJECT, make_bundle(b"one"), make_info()), "")
    calls.clear()
    registry.champion(PROJECT)
    assert calls == [f"{PROJECT}/champion.json"]


class Meddling(FolderStore):
    """A folder where somebody else acts just before the first conditional write of champion.json."""

    meddle: Callable[[], object] | None = None

    def write_if(self, key: str, data: bytes, tag: str | None) -> bool:
        meddle, self.meddle = self.meddle, None
        if meddle and key.endswith("champion.json"):
            meddle()
        return super().write_if(key, data, tag)


def test_a_promotion_and_a_rollback_that_lose_a_race(tmp_path: Path, make_bundle: Callable[..., Path]) -> None:
    store = Meddling(tmp_path / "store")
    registry = Registry(store, tmp_path / "cache")
    one, two, three = (registry.add(PROJECT, make_bundle(b"%d" % number), make_info()) for number in range(3))
    registry.promote(PROJECT, one, "")

    store.meddle = lambda: registry.promote(PROJECT, two, "theirs")
    ours = registry.promote(PROJECT, three, "ours")
    assert (ours.version, ours.generation, ours.previous) == (three, 3, (one, two))

    # The rollback was meant for three; it must not undo the promotion that came between.
    store.meddle = lambda: registry.promote(PROJECT, one, "theirs")
    with pytest.raises(RegistryError, match="changed meanwhile"):
        registry.rollback(PROJECT, "")
    champion = registry.champion(PROJECT)
    assert champion is not None
    assert champion.version == one


def _promote_many(store_url: str, data_dir: str, versions: list[str], barrier: Any) -> None:
    registry = open_registry(Settings(store=store_url, data_dir=Path(data_dir)))
    barrier.wait()
    for version in versions:
        registry.promote(PROJECT, version, f"by {os.getpid()}")


@pytest.mark.slow
def test_racing_promoters_lose_no_generation(tmp_path: Path, make_bundle: Callable[..., Path]) -> None:
    store_url = str(tmp_path / "store")
    registry = open_registry(Settings(store=store_url, data_dir=tmp_path))
    names = [registry.add(PROJECT, make_bundle(b"%d" % number), make_info()) for number in range(4)]
    context = multiprocessing.get_context("spawn")
    barrier = context.Barrier(2)
    racers = [
        context.Process(target=_promote_many, args=(store_url, str(tmp_path), own * 5, barrier))
        for own in (names[:2], names[2:])
    ]
    for racer in racers:
        racer.start()
    for racer in racers:
        racer.join(60)
        assert racer.exitcode == 0
    champion = registry.champion(PROJECT)
    assert champion is not None
    # Each promotion (of another version than the champion: always, here) counted once.
    assert champion.generation == 20
    assert len(champion.previous) == 19


def test_racing_adders_of_one_bundle_agree(registry: Registry, make_bundle: Callable[..., Path]) -> None:
    bundle = make_bundle(b"weights")
    names: list[str] = []
    threads = [
        threading.Thread(target=lambda: names.append(registry.add(PROJECT, bundle, make_info()))) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(names) == 4
    assert set(names) == {f"v1-{digest(b'weights')[:8]}"}


def test_a_promoter_killed_while_it_holds_the_lock_blocks_nobody(
    tmp_path: Path, make_bundle: Callable[..., Path]
) -> None:
    registry = open_registry(Settings(store=str(tmp_path / "store"), data_dir=tmp_path))
    version = registry.add(PROJECT, make_bundle(b"weights"), make_info())
    lock = tmp_path / "store" / PROJECT / ".champion.json.lock"
    code = "import sys, time; from filelock import FileLock; FileLock(sys.argv[1]).acquire(); print('held'); time.sleep(60)"
    holder = subprocess.Popen([sys.executable, "-u", "-c", code, str(lock)], stdout=subprocess.PIPE)
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        threading.Timer(0.3, holder.send_signal, [signal.SIGKILL]).start()
        assert registry.promote(PROJECT, version, "").generation == 1
    finally:
        holder.kill()
        holder.wait()
        holder.stdout.close()


# -- projects and their state


def test_projects_and_their_names(registry: Registry, store: Store) -> None:
    assert registry.projects() == []
    for key in ("29.1795383040", "29.1695383040", "3", "290.5"):
        registry.write_json(key, "project.json", {})
    store.write("lost+found/file.json", b"{}")
    assert registry.projects() == ["3", "29.1695383040", "29.1795383040", "290.5"]
    assert registry.resolve("29") == "29.1795383040"
    assert registry.resolve("29.1695383040") == "29.1695383040"
    assert registry.resolve("3") == "3"
    for unknown in ("2", "29.1", "3.5"):
        with pytest.raises(UnknownProject, match=r"known: 3, 29\.1695383040"):
            registry.resolve(unknown)


def test_small_state_round_trips(registry: Registry) -> None:
    assert registry.read_json(PROJECT, "split.json") is None
    registry.write_json(PROJECT, "split.json", {"17": "train", "straße": [1, None]})
    registry.write_json(PROJECT, "split.json", {"17": "val"})
    assert registry.read_json(PROJECT, "split.json") == {"17": "val"}
    assert registry.versions(PROJECT) == []


def test_state_cannot_be_written_elsewhere(registry: Registry) -> None:
    for name in ("", "../x.json", "champion.json", "names.json", ".x.json", "split", "versions/x.json"):
        with pytest.raises(RegistryError, match=r"split\.json"):
            registry.write_json(PROJECT, name, {})
        with pytest.raises(RegistryError, match=r"split\.json"):
            registry.read_json(PROJECT, name)


def test_a_folder_that_cannot_be_used_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    registry = open_registry(Settings(store=str(tmp_path / "file"), data_dir=tmp_path))
    assert registry.projects() == []
    with pytest.raises(RegistryError, match="cannot be used"):
        registry.write_json("29", "split.json", {})
