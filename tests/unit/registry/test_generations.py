"""The generations of all champions in one object, which tells those who follow them when one moved."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from segloop.errors import RegistryError
from segloop.registry import Registry
from segloop.registry.store import FolderStore, Store
from tests.bundles import PROJECT, make_info

OTHER = "2.1795382830"


def test_a_read_again_says_whether_it_changed(store: Store) -> None:
    store.write("a", b"one")
    first = store.read("a")
    assert first is not None
    assert store.reread("a", first) is first
    store.write("a", b"two")
    second = store.reread("a", first)
    assert second is not None
    assert (second.data, second.tag == first.tag) == (b"two", False)
    store.delete("a")
    assert store.reread("a", second) is None


def test_promotions_and_rollbacks_are_seen(registry: Registry, make_bundle: Callable[..., Path]) -> None:
    before = registry.generations()
    assert dict(before.of) == {}
    one, two = (registry.add(PROJECT, make_bundle(name), make_info()) for name in (b"one", b"two"))
    registry.promote(PROJECT, one, "")
    registry.promote(OTHER, registry.add(OTHER, make_bundle(b"one"), make_info()), "")
    now = registry.generations(before)
    assert dict(now.of) == {PROJECT: 1, OTHER: 1}
    assert registry.generations(now) is now
    registry.promote(PROJECT, two, "")
    registry.rollback(PROJECT, "")
    assert dict(registry.generations(now).of) == {PROJECT: 3, OTHER: 1}


def test_what_is_no_index_is_made_anew(registry: Registry, store: Store, make_bundle: Callable[..., Path]) -> None:
    for data in (b"", b"[]", b'{"../x": 1}', b'{"1": "x"}'):
        store.write("champions.json", data)
        assert dict(registry.generations().of) == {}
    registry.promote(PROJECT, registry.add(PROJECT, make_bundle(b"one"), make_info()), "")
    assert dict(registry.generations().of) == {PROJECT: 1}


def test_whoever_died_before_the_index_is_made_good_by_the_next(
    tmp_path: Path, make_bundle: Callable[..., Path], caplog: pytest.LogCaptureFixture
) -> None:
    class Refusing(FolderStore):
        refuses = True

        def write_if(self, key: str, data: bytes, tag: str | None) -> bool:
            if key == "champions.json" and self.refuses:
                raise RegistryError("the disk is full")
            return super().write_if(key, data, tag)

    store = Refusing(tmp_path / "store")
    registry = Registry(store, tmp_path / "cache")
    version = registry.add(PROJECT, make_bundle(b"one"), make_info())
    champion = registry.promote(PROJECT, version, "")
    assert registry.champion(PROJECT) == champion
    assert "find its champion later: the disk is full" in caplog.text
    store.refuses = False
    assert registry.promote(PROJECT, version, "") == champion
    assert dict(registry.generations().of) == {PROJECT: 1}


def test_many_projects_are_promoted_at_once(tmp_path: Path, make_bundle: Callable[..., Path]) -> None:
    registry = Registry(FolderStore(tmp_path / "store"), tmp_path / "cache")
    projects = [f"{number}.1" for number in range(1, 9)]
    versions = {project: registry.add(project, make_bundle(b"one"), make_info()) for project in projects}
    threads = [threading.Thread(target=registry.promote, args=(*one, "")) for one in versions.items()]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert dict(registry.generations().of) == dict.fromkeys(projects, 1)
