"""Models are removed to free space, and never one that is needed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from segloop.errors import ModelRemoved, RegistryError, VersionNotFound
from segloop.registry import Champion, Registry, open_registry, prunable_versions
from segloop.registry.store import FolderStore, Store
from segloop.settings import Settings
from tests.bundles import PROJECT, CrashingStore, make_info

ENGINES = {"openvino.xml": b"graph", "openvino.bin": b"numbers", "gallery.zip": b"images"}


@pytest.fixture
def names(registry: Registry, make_bundle: Callable[..., Path]) -> list[str]:
    """Three versions, served one after the other."""
    added = [registry.add(PROJECT, make_bundle(b"%d" % number, **ENGINES), make_info()) for number in range(3)]
    for name in added:
        registry.promote(PROJECT, name, "test")
    return added


def test_a_model_is_removed_and_what_is_known_of_the_version_stays(
    registry: Registry, store: Store, names: list[str]
) -> None:
    assert registry.remove(PROJECT, names[0]) == len(b"0" + b"graph" + b"numbers")
    assert list(registry.removed(PROJECT)) == [names[0]]
    for file in ("model.safetensors", "openvino.xml", "openvino.bin"):
        assert store.read(f"{PROJECT}/versions/{names[0]}/{file}") is None
    assert [info.version for info in registry.versions(PROJECT)] == names
    gallery = registry.bundle(PROJECT, names[0], ["gallery.zip"]) / "gallery.zip"
    assert gallery.read_bytes() == b"images"
    assert (registry.bundle(PROJECT, names[1]) / "openvino.bin").read_bytes() == b"numbers"


def test_a_removed_model_is_refused_with_the_reason(registry: Registry, names: list[str]) -> None:
    registry.remove(PROJECT, names[0])
    for use in (
        lambda: registry.promote(PROJECT, names[0], "by hand"),
        lambda: registry.bundle(PROJECT, names[0]),
        lambda: registry.bundle(PROJECT, names[0], ["openvino.xml"]),
    ):
        with pytest.raises(ModelRemoved, match=f"The model of version {names[0]} was removed on 20"):
            use()
    assert registry.rollback(PROJECT, "back").version == names[1]
    with pytest.raises(ModelRemoved):
        registry.rollback(PROJECT, "further back")
    champion = registry.champion(PROJECT)
    assert champion is not None
    assert champion.version == names[1]


@pytest.mark.parametrize("needed", [1, 2])
def test_what_is_served_or_comes_next_in_a_rollback_is_not_removed(
    registry: Registry, names: list[str], needed: int
) -> None:
    with pytest.raises(RegistryError, match="is served, or is what a rollback would serve"):
        registry.remove(PROJECT, names[needed])
    assert registry.removed(PROJECT) == {}
    assert (registry.bundle(PROJECT, names[needed]) / "model.safetensors").is_file()


def test_what_is_no_version_is_not_removed(registry: Registry, names: list[str]) -> None:
    for name in ("v9-00000000", "../champion", ""):
        with pytest.raises(VersionNotFound):
            registry.remove(PROJECT, name)
    assert registry.removed(PROJECT) == {}


def test_the_same_bundle_added_again_brings_the_model_back(
    registry: Registry, names: list[str], make_bundle: Callable[..., Path]
) -> None:
    registry.remove(PROJECT, names[0])
    assert registry.add(PROJECT, make_bundle(b"0", **ENGINES), make_info()) == names[0]
    assert registry.removed(PROJECT) == {}
    assert (registry.bundle(PROJECT, names[0]) / "model.safetensors").read_bytes() == b"0"
    assert registry.promote(PROJECT, names[0], "again").version == names[0]


@pytest.mark.parametrize("changes", range(4))
def test_a_removal_that_was_killed_is_finished_by_a_repeat(
    registry: Registry, store: Store, names: list[str], tmp_path: Path, changes: int
) -> None:
    # Four changes: the mark, and three files.
    with pytest.raises(CrashingStore.Crash):
        Registry(CrashingStore(store, changes), tmp_path / "cache").remove(PROJECT, names[0])
    assert list(registry.removed(PROJECT)) == names[:1] * (changes > 0)
    assert registry.remove(PROJECT, names[0]) == (0 if changes else len(b"0" + b"graph" + b"numbers"))
    for file in ("model.safetensors", "openvino.xml", "openvino.bin"):
        assert store.read(f"{PROJECT}/versions/{names[0]}/{file}") is None


class Meddling(FolderStore):
    """A folder, where something happens right before a chosen write."""

    def __init__(self, root: Path, before: str) -> None:
        super().__init__(root)
        self._before = before
        self.meddle: Callable[[], Any] | None = None

    def write_if(self, key: str, data: bytes, tag: str | None) -> bool:
        if key.endswith(self._before) and self.meddle is not None:
            meddle, self.meddle = self.meddle, None
            meddle()
        return super().write_if(key, data, tag)


@pytest.fixture
def folder(tmp_path: Path) -> Settings:
    return Settings(store=str(tmp_path / "raced"), data_dir=tmp_path / "data")


def two_versions(registry: Registry, make_bundle: Callable[..., Path]) -> list[str]:
    added = [registry.add(PROJECT, make_bundle(weights), make_info()) for weights in (b"one", b"two")]
    registry.promote(PROJECT, added[1], "first")
    return added


def test_a_promotion_just_before_the_mark_keeps_the_model(
    folder: Settings, make_bundle: Callable[..., Path], tmp_path: Path
) -> None:
    registry = open_registry(folder)
    one, _ = two_versions(registry, make_bundle)
    store = Meddling(tmp_path / "raced", "removed.json")
    store.meddle = lambda: registry.promote(PROJECT, one, "by hand")
    with pytest.raises(RegistryError, match="is served"):
        Registry(store, tmp_path / "cache").remove(PROJECT, one)
    assert registry.removed(PROJECT) == {}
    assert (registry.bundle(PROJECT, one) / "model.safetensors").is_file()


def test_a_promotion_that_a_removal_overtakes_serves_what_was_served_before(
    folder: Settings, make_bundle: Callable[..., Path], tmp_path: Path
) -> None:
    registry = open_registry(folder)
    one, two = two_versions(registry, make_bundle)
    store = Meddling(tmp_path / "raced", "champion.json")
    store.meddle = lambda: registry.remove(PROJECT, one)
    with pytest.raises(ModelRemoved):
        Registry(store, tmp_path / "cache").promote(PROJECT, one, "by hand")
    champion = registry.champion(PROJECT)
    assert champion is not None
    assert (champion.version, champion.generation, champion.previous) == (two, 3, ())


def test_a_broken_list_of_removed_models_is_an_error(registry: Registry, store: Store, names: list[str]) -> None:
    for data in (b"[]", b"{", b'{"v1-00000000": 3}'):
        store.write(f"{PROJECT}/removed.json", data)
        with pytest.raises(RegistryError, match=r"removed\.json"):
            registry.removed(PROJECT)


@pytest.mark.parametrize(
    ("served", "before", "keep", "gone"),
    [
        (None, (), 2, [1, 2, 3]),
        (5, (), 2, [1, 2, 3]),
        (2, (), 2, [1, 3]),
        (2, (4, 1), 2, [3]),
        (5, (4, 3), 1, [1, 2, 4]),
        (1, (), 5, []),
        (1, (), 9, []),
    ],
)
def test_which_models_may_go(served: int | None, before: tuple[int, ...], keep: int, gone: list[int]) -> None:
    names = {number: f"v{number}-{number:08x}" for number in range(1, 6)}
    infos = [make_info(version=name, project=PROJECT) for name in names.values()]
    champion = None
    if served is not None:
        champion = Champion(names[served], 3, "2026-11-23T12:00:00+00:00", "test", tuple(names[one] for one in before))
    assert [info.version for info in prunable_versions(infos, champion, keep)] == [names[number] for number in gone]
