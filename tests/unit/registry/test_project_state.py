"""Projects, and the small files of each."""

from __future__ import annotations

from pathlib import Path

import pytest

from segloop.errors import RegistryError, UnknownProject
from segloop.registry import Registry, open_registry
from segloop.registry.store import Store
from segloop.settings import Settings
from tests.bundles import PROJECT


def test_projects_and_their_names(registry: Registry, store: Store) -> None:
    assert registry.projects() == []
    for key in ("29.1795383040", "29.1695383040", "3", "290.5"):
        registry.write_json(key, "project.json", {})
    store.write("lost+found/file.json", b"{}")
    assert registry.projects() == ["3", "29.1695383040", "29.1795383040", "290.5"]
    assert registry.resolve("29") == "29.1795383040"
    assert registry.resolve("29.1695383040") == "29.1695383040"
    assert registry.resolve("3") == "3"
    shown = {key: registry.shown_id(key) for key in (*registry.projects(), "31.7")}
    assert list(shown.values()) == ["3", "29.1695383040", "29", "290", "31"]
    assert all(registry.resolve(text) == key for key, text in shown.items() if key != "31.7")
    for unknown in ("2", "29.1", "3.5"):
        with pytest.raises(UnknownProject, match=r"known: 3, 29\.1695383040, 29, 290$"):
            registry.resolve(unknown)


def test_small_state_round_trips(registry: Registry) -> None:
    assert registry.read_json(PROJECT, "split.json") is None
    registry.write_json(PROJECT, "split.json", {"17": "train", "straße": [1, None]})
    registry.write_json(PROJECT, "split.json", {"17": "val"})
    assert registry.read_json(PROJECT, "split.json") == {"17": "val"}
    assert registry.versions(PROJECT) == []


def test_a_change_of_small_state_is_made_again_where_another_came_first(registry: Registry) -> None:
    def add(known: list[int] | None) -> list[int]:
        if known is None:
            registry.write_json(PROJECT, "list.json", [1])
        return [*(known or []), 2]

    registry.change_json(PROJECT, "list.json", add)
    assert registry.read_json(PROJECT, "list.json") == [1, 2]


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
