"""Files of a version, or the pointer, that are damaged or lost: nothing is served of them, and the pointer is made again."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from segloop.errors import RegistryError
from segloop.registry import Registry
from segloop.registry.store import Store
from tests.bundles import PROJECT, make_info

WON = {"act": True, "reason": "Better."}
LOST = {"act": False, "reason": "Worse."}
Make = Callable[..., Path]


@pytest.fixture
def three(registry: Registry, make_bundle: Make) -> list[str]:
    """Versions of which the first two won and the last lost; the second is served."""
    names = [
        registry.add(PROJECT, make_bundle(weights, **{"openvino.xml": weights * 9}), make_info(decision=decision))
        for weights, decision in ((b"one", WON), (b"two", WON), (b"three", LOST))
    ]
    registry.promote(PROJECT, names[0], "first")
    registry.promote(PROJECT, names[1], "second")
    return names


@pytest.mark.parametrize("name", ["model.safetensors", "openvino.xml"])
@pytest.mark.parametrize("damage", [b"", b"cut short", None])
def test_a_damaged_version_is_not_promoted_nor_rolled_back_to(
    registry: Registry, store: Store, three: list[str], name: str, damage: bytes | None
) -> None:
    before = registry.champion(PROJECT)
    for version in (three[0], three[2]):
        key = f"{PROJECT}/versions/{version}/{name}"
        if damage is None:
            store.delete(key)
        else:
            store.write(key, damage)
    with pytest.raises(RegistryError, match=name):
        registry.promote(PROJECT, three[2], "by hand")
    with pytest.raises(RegistryError, match=name):
        registry.rollback(PROJECT, "by hand")
    assert registry.champion(PROJECT) == before


@pytest.mark.parametrize("left", [0, 1, 40, -3])
def test_a_cut_pointer_is_made_again(registry: Registry, store: Store, three: list[str], left: int) -> None:
    key = f"{PROJECT}/champion.json"
    whole = store.read(key)
    assert whole is not None
    store.write(key, whole.data[:left])
    with pytest.raises(RegistryError, match=f"segloop versions repair --project {PROJECT}"):
        registry.champion(PROJECT)
    repaired = registry.repair(PROJECT)
    assert repaired == registry.champion(PROJECT)
    assert repaired is not None
    assert (repaired.version, repaired.previous) == (three[1], (three[0],))
    assert registry.repair(PROJECT) is None, "it is whole"
    assert registry.rollback(PROJECT, "by hand").version == three[0]


def test_what_the_pointer_still_names_comes_first(registry: Registry, store: Store, three: list[str]) -> None:
    registry.promote(PROJECT, three[2], "by hand")
    key = f"{PROJECT}/champion.json"
    whole = store.read(key)
    assert whole is not None
    store.write(key, whole.data[:-5])
    repaired = registry.repair(PROJECT)
    assert repaired is not None
    assert repaired.version == three[2]


def test_a_lost_pointer_and_a_damaged_version(registry: Registry, store: Store, three: list[str]) -> None:
    store.delete(f"{PROJECT}/champion.json")
    store.write(f"{PROJECT}/versions/{three[1]}/model.safetensors", b"cut short")
    repaired = registry.repair(PROJECT)
    assert repaired is not None
    assert repaired.version == three[0]


def test_nothing_whole_is_said(registry: Registry, store: Store, three: list[str]) -> None:
    for version in three:
        store.delete(f"{PROJECT}/versions/{version}/model.safetensors")
    store.write(f"{PROJECT}/champion.json", b"{")
    with pytest.raises(RegistryError, match="no version is whole"):
        registry.repair(PROJECT)


def test_a_project_that_serves_nothing_stays_so(registry: Registry, make_bundle: Make) -> None:
    registry.add(PROJECT, make_bundle(b"one"), make_info(decision=LOST))
    assert registry.repair(PROJECT) is None
    assert registry.champion(PROJECT) is None
