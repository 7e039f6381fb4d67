"""Versions are whole or not there, and are what was added."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from segloop.errors import RegistryError, UnknownProject, VersionNotFound
from segloop.registry import Registry
from segloop.registry.store import Store
from tests.bundles import PROJECT, CrashingStore, digest, make_info


def test_a_version_comes_back_as_it_was_added(registry: Registry, make_bundle: Callable[..., Path]) -> None:
    version = registry.add(PROJECT, make_bundle(b"weights"), make_info())
    assert version == f"v1-{digest(b'weights')[:8]}"
    info = registry.get(PROJECT, version)
    assert (info.version, info.project) == (version, PROJECT)
    assert info.classes == ("Straße", "Sky")
    assert info.metrics.iou == {"Straße": 0.5, "Sky": None}
    assert info.files["model.safetensors"].sha256 == digest(b"weights")
    assert info.files["model.safetensors"].bytes == 7
    bundle = registry.bundle(PROJECT, version)
    assert (bundle / "model.safetensors").read_bytes() == b"weights"
    assert json.loads((bundle / "version.json").read_text())["version"] == version


ROAD_AND_STRAY_SKY = {"miou": 0.4, "iou": {"Road": 0.8, "Sky": 0.0}, "tasks": 4, "pixels": 9}
ROAD = {"miou": 0.66, "iou": {"Road": 0.66, "Sky": None}, "tasks": 4, "pixels": 9}


@pytest.mark.parametrize(
    ("metrics", "champion_metrics", "mious"),
    [
        # the confusion matrix says that the truth has no Sky
        ({**ROAD_AND_STRAY_SKY, "confusion": [[4, 0, 0], [0, 4, 1], [0, 0, 0]]}, None, (0.8, None)),
        (
            {**ROAD_AND_STRAY_SKY, "confusion": [[4, 0, 0], [0, 4, 1], [0, 0, 0]]},
            {"miou": 0.35, "iou": {"Road": 0.7, "Sky": 0.0}},
            (0.8, 0.7),
        ),
        # so does one that has no IoU of it
        (ROAD, ROAD_AND_STRAY_SKY, (0.66, 0.8)),
        (ROAD_AND_STRAY_SKY, ROAD, (0.8, 0.66)),
        # nothing says so
        (ROAD_AND_STRAY_SKY, None, (0.4, None)),
        # Sky was missed, not absent
        ({**ROAD_AND_STRAY_SKY, "confusion": [[4, 0, 0], [0, 4, 0], [1, 0, 0]]}, None, (0.4, None)),
        # what is not of an early version stays
        ({**ROAD_AND_STRAY_SKY, "absent_false_positives": {}}, None, (0.4, None)),
        ({"miou": None, "iou": {"Road": None, "Sky": None}}, None, (None, None)),
        ({}, None, (None, None)),
    ],
)
def test_an_early_versions_metrics_are_over_the_classes_in_the_truth(
    registry: Registry,
    make_bundle: Callable[..., Path],
    metrics: dict[str, Any],
    champion_metrics: dict[str, Any] | None,
    mious: tuple[float | None, float | None],
) -> None:
    own = {"classes": ["Road", "Sky"], "metrics": metrics, "champion_metrics": champion_metrics}
    info = registry.get(PROJECT, registry.add(PROJECT, make_bundle(b"weights"), make_info(**own)))
    assert (info.metrics.miou, info.champion_metrics and info.champion_metrics.miou) == mious


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


@pytest.mark.slow
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
        ({"files": {"model.safetensors": {"sha256": "0" * 64, "bytes": 7}}}, "model.safetensors is not the file"),
        ({"files": {"other.bin": {"sha256": "0" * 64, "bytes": 7}}}, r"other\.bin is not the file"),
    ],
)
def test_an_info_of_other_files_is_refused_before_anything_is_stored(
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


WEIGHTS = {"model.safetensors": {"sha256": "0" * 64, "bytes": 1}}
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
        lambda key: registry.add(key, tmp_path, make_info()),
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
    value = make_info(version="v1-00000000", project=PROJECT, files=WEIGHTS)
    store.write(f"{PROJECT}/versions/v1-00000000/version.json", value.to_json())
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
        make_info(version="v1-00000000", project=PROJECT).to_json(),
        make_info(version="v1-00000000", project=PROJECT, files=WEIGHTS)
        .to_json()
        .replace(
            b'"model.safetensors":', b'"../../../champion.json": {"sha256": "0", "bytes": 1}, "model.safetensors":'
        ),
        make_info(version="v2-00000000", project=PROJECT, files=WEIGHTS).to_json(),
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


class Counting:
    """A store whose calls are counted."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self.calls: list[tuple[str, str]] = []

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._store, name)

        def call(*args: Any) -> Any:
            self.calls.append((name, str(args[0])))
            return method(*args)

        return call


def test_the_versions_of_all_projects_are_one_read(
    store: Store, tmp_path: Path, make_bundle: Callable[..., Path]
) -> None:
    counting = Counting(store)
    registry = Registry(counting, tmp_path / "cache")  # type: ignore[arg-type]
    assert registry.all_version_names() == []
    expected = []
    for project in ("7.1", "29.1"):
        expected += [registry.add(project, make_bundle(name), make_info()) for name in (b"one", b"two")]
    counting.calls.clear()
    assert registry.all_version_names() == expected
    assert counting.calls == [("read", "versions.json")]


def test_a_store_without_the_list_gets_it(registry: Registry, store: Store, make_bundle: Callable[..., Path]) -> None:
    first = registry.add("7.1", make_bundle(b"one"), make_info())
    for broken in (b"", b"[]", b'{"../x": ["v1-00000000"]}', b'{"7.1": 5}'):
        store.write("versions.json", broken)
        assert registry.all_version_names() == [first]
    store.delete("versions.json")
    second = registry.add("29.1", make_bundle(b"two"), make_info())
    assert registry.all_version_names() == [first, second]
    # its writer died before it was listed: the repeat lists it
    store.write("versions.json", b'{"7.1": []}')
    assert registry.add("29.1", make_bundle(b"two"), make_info()) == second
    assert registry.all_version_names() == [second]
