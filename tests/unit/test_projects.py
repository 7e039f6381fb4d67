"""What is known of projects: in memory at once, in the store a moment later, and from there in other processes."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from segloop import projects as module
from segloop.errors import RegistryError, UnknownProject
from segloop.projects import Projects, read_notes
from segloop.registry import Registry, open_registry
from segloop.settings import Settings
from tests.waiting import PATIENCE_S

PROJECT = "7.1795383040"


@pytest.fixture
def registry(settings: Settings) -> Registry:
    return open_registry(settings)


@pytest.fixture
def made(registry: Registry, settings: Settings) -> Iterator[Projects]:
    projects = Projects(registry, settings)
    yield projects
    projects.close()


def away(*given: Any) -> Any:
    raise RegistryError("the store is away")


def facts(made: Projects) -> dict[str, object]:
    return made.notes(PROJECT).facts()


def stored(registry: Registry) -> dict[str, object]:
    return read_notes(registry, PROJECT).facts()


def settle(projects: Projects) -> None:
    """Wait for what is written and read aside."""
    projects._aside.submit(int).result(PATIENCE_S)


def test_what_is_noted_holds_at_once_and_is_written(made: Projects, registry: Registry) -> None:
    made.note(PROJECT, label_config="<View/>", extra_params={"retrain_threshold": 5})
    made.note(PROJECT, backend_url="http://127.0.0.1:9090")
    expected = {
        "project": PROJECT,
        "label_config": "<View/>",
        "extra_params": {"retrain_threshold": 5},
        "backend_url": "http://127.0.0.1:9090",
    }
    assert facts(made) == expected
    settle(made)
    assert stored(registry) == expected


def test_the_same_again_is_not_written(made: Projects, registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    made.note(PROJECT, label_config="<View/>")
    settle(made)
    monkeypatch.setattr(registry, "change_json", lambda *given: pytest.fail("written again"))
    made.note(PROJECT, label_config="<View/>")
    settle(made)


def test_own_settings_are_made_once_and_follow_what_is_noted(made: Projects, settings: Settings) -> None:
    assert made.settings(PROJECT) is settings
    made.note(PROJECT, extra_params='{"retrain_threshold": 5}')
    own = made.settings(PROJECT)
    assert own.retrain_threshold == 5
    assert made.settings(PROJECT) is own
    made.note(PROJECT, extra_params={"retrain_threshold": 6})
    assert made.settings(PROJECT).retrain_threshold == 6


def test_own_settings_that_cannot_be_used_are_told_and_left_out(
    made: Projects, settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        made.note(PROJECT, extra_params={"retrain_threshold": "many"})
    assert made.settings(PROJECT) is settings
    problem = made.problem(PROJECT)
    assert problem is not None
    assert "retrain_threshold" in problem
    assert [record.getMessage() for record in caplog.records] == [f"project {PROJECT}: {problem}"], "once"
    made.note(PROJECT, extra_params=None)
    assert made.problem(PROJECT) is None


def test_what_another_process_was_told_arrives(
    made: Projects, registry: Registry, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "FRESH_S", 3600.0)
    assert made.settings(PROJECT) is settings, "nothing is known yet"
    other = Projects(registry, settings)
    other.note(PROJECT, extra_params={"retrain_threshold": 5})
    other.close()
    assert made.settings(PROJECT) is settings, "a process asks the store once in FRESH_S"
    monkeypatch.setattr(module, "FRESH_S", 0.0)
    assert made.settings(PROJECT) is settings, "the store is read aside"
    settle(made)
    assert made.settings(PROJECT).retrain_threshold == 5


def test_what_another_process_was_told_is_not_undone(made: Projects, registry: Registry, settings: Settings) -> None:
    """Each host is told another fact of the project; the first has not asked the store since."""
    made.note(PROJECT, label_config="old", extra_params={"retrain_threshold": 5})
    settle(made)
    other = Projects(registry, settings)
    other.note(PROJECT, extra_params={"retrain_threshold": 7})
    other.close()
    made.note(PROJECT, label_config="new")
    settle(made)
    expected = {"project": PROJECT, "label_config": "new", "extra_params": {"retrain_threshold": 7}}
    assert stored(registry) == facts(made) == expected


def test_a_slow_store_does_not_undo_what_was_noted_since(
    made: Projects, registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    made.note(PROJECT, label_config="old")
    settle(made)
    reading, go_on = threading.Event(), threading.Event()
    read = registry.read_json

    def slow(*given: Any) -> Any:
        found = read(*given)
        reading.set()
        assert go_on.wait(PATIENCE_S)
        return {**found, "label_config": "of another process"}

    monkeypatch.setattr(registry, "read_json", slow)
    monkeypatch.setattr(module, "FRESH_S", 0.0)
    assert made.notes(PROJECT).label_config == "old"
    assert reading.wait(PATIENCE_S)
    made.note(PROJECT, label_config="new")
    go_on.set()
    settle(made)
    assert made.notes(PROJECT).label_config == "new"


def test_while_the_store_is_away_the_last_notes_hold(
    made: Projects, registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    made.note(PROJECT, label_config="<View/>")
    settle(made)
    monkeypatch.setattr(module, "FRESH_S", 0.0)
    monkeypatch.setattr(registry, "read_json", away)
    assert made.notes(PROJECT).label_config == "<View/>"
    settle(made)
    assert made.notes(PROJECT).label_config == "<View/>"
    assert made.notes("8.1795383040").facts() == {}


@pytest.mark.parametrize("told_again", [False, True])
def test_what_could_not_be_written_holds_here_and_is_written_later(
    made: Projects, registry: Registry, monkeypatch: pytest.MonkeyPatch, told_again: bool
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(registry, "change_json", away)
        made.note(PROJECT, label_config="<View/>")
        settle(made)
        assert made.notes(PROJECT).label_config == "<View/>"
    assert stored(registry) == {}
    if told_again:
        made.note(PROJECT, label_config="<View/>")
    else:
        monkeypatch.setattr(module, "FRESH_S", 0.0)
        assert made.notes(PROJECT).label_config == "<View/>"
    settle(made)
    assert read_notes(registry, PROJECT).label_config == "<View/>"
    made.notes(PROJECT)
    settle(made)
    assert made.notes(PROJECT).label_config == "<View/>", "what is read again is what was written"


def test_what_is_noted_while_the_store_is_away_joins_what_it_has(
    made: Projects, registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry.write_json(PROJECT, "project.json", {"label_config": "old", "extra_params": {"retrain_threshold": 5}})
    with monkeypatch.context() as patch:
        patch.setattr(registry, "read_json", away)
        made.note(PROJECT, label_config="new")
        settle(made)
    made.note(PROJECT, backend_url="http://127.0.0.1:9090")
    settle(made)
    expected = {"project": PROJECT, "label_config": "new", "extra_params": {"retrain_threshold": 5}}
    assert facts(made) == stored(registry) == expected | {"backend_url": "http://127.0.0.1:9090"}
    assert made.settings(PROJECT).retrain_threshold == 5


def test_many_threads_lose_no_fact(made: Projects, registry: Registry) -> None:
    def tell(number: int) -> None:
        made.note(f"{number}.1", label_config=str(number))
        made.note(PROJECT, **{f"fact_{number}": number})
        assert made.key(str(number)) == f"{number}.1"

    with ThreadPoolExecutor(16) as pool:
        list(pool.map(tell, range(100, 160)))
    settle(made)
    expected = {f"fact_{number}": number for number in range(100, 160)}
    assert facts(made) == stored(registry) == {**expected, "project": PROJECT}


def test_an_id_alone_is_the_newest_project_of_that_id(made: Projects, registry: Registry, settings: Settings) -> None:
    assert made.key("7") == "7", "nobody knows it"
    with pytest.raises(UnknownProject, match="connect this backend"):
        made.connected("7")
    for key in ("7.10", "7.9", "70.99"):
        made.note(key, label_config="<View/>")
    assert made.connected(7) == "7.10"
    settle(made)
    later = Projects(registry, settings)
    assert later.connected("7") == "7.10", "from the store"
    assert later.connected({"id": 7}) == "7.10"
    later.close()


@pytest.mark.parametrize("value", [["not", "an", "object"], {"label_config": 5}])
def test_notes_of_no_meaning_are_none(made: Projects, registry: Registry, value: object) -> None:
    registry.write_json(PROJECT, "project.json", value)
    assert facts(made) == {}
    made.note(PROJECT, label_config="<View/>")
    settle(made)
    assert stored(registry) == {"label_config": "<View/>", "project": PROJECT}
