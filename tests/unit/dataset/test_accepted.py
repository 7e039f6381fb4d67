"""Annotations that segloop made of its own pre-labels: known by their mark, no change, and never held out."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest

from segloop.accepted import accepted_annotation, is_accepted, was_made
from segloop.dataset import Memory, Mirror, SnapshotInputs, snapshot
from segloop.dataset.manifest import Split
from segloop.settings import Settings
from tests.labelling import CONFIG, PROJECT, FakeImages, MemorySplits, annotation, half, task


def accepted(number: int, task_id: int, **fields: Any) -> dict[str, Any]:
    """As Label Studio gives it back: through its JSON."""
    prediction = {"id": 7, "model_version": "v1", "result": [half("Sky")]}
    made = accepted_annotation(PROJECT, task_id, prediction)
    del made["unique_id"]
    return {**annotation(number), **orjson.loads(orjson.dumps(made)), **fields}


@pytest.fixture
def mirror(tmp_path: Path) -> Iterator[Mirror]:
    with Mirror(tmp_path / "mirror") as mirror:
        yield mirror


def put(mirror: Mirror, revision: int, *tasks: dict[str, Any]) -> int:
    with mirror.writing():
        return mirror.put(tasks, revision)


def test_the_mark_is_lost_with_the_first_change() -> None:
    own = accepted(1, 5)
    assert is_accepted(own)
    assert own["result"][0]["meta"] == {"text": ["Accepted by segloop, unseen: v1"]}
    assert is_accepted({**own, "result": [dict(reversed(own["result"][0].items()))]}), "the order of keys is no change"
    for change in ({"result": [half("Road")]}, {"result": []}, {"ground_truth": True}, {"was_cancelled": True}):
        assert not is_accepted({**own, **change})
        assert was_made({**own, **change})
    for other in (None, 0, 12345, "4503599627370496", True):
        assert not was_made({**own, "import_id": other})
    assert own["import_id"] < 2**53, "JavaScript keeps it exactly"


def test_an_acceptance_and_its_end_are_no_changes(mirror: Mirror) -> None:
    assert put(mirror, 1, task(1, annotation(11, half("Sky")))) == 1
    assert put(mirror, 2, task(2, accepted(12, 2)), task(1, annotation(11, half("Sky")), accepted(13, 1))) == 0
    assert mirror.changed_after(1) == []
    assert [one["id"] for one in mirror.tasks()] == [1]
    assert [one["id"] for one in mirror.tasks(accepted=True)] == [1, 2]
    assert (mirror.records.accepted(), mirror.records.accepted_annotations()) == ({2}, [12, 13])
    assert len(mirror) == 2, "Label Studio counts it, and so does the mirror"
    with mirror.writing():
        mirror.drop([2], 3)
    assert mirror.changed_after(1) == []


def test_who_changes_it_makes_it_his_own(mirror: Mirror) -> None:
    put(mirror, 1, task(1, accepted(11, 1)))
    assert put(mirror, 2, task(1, accepted(11, 1, result=[half("Road")]))) == 1
    assert (mirror.changed_after(1), mirror.records.accepted()) == ([1], frozenset())
    with mirror.writing():
        mirror.drop([1], 3)
    assert mirror.changed_after(2) == [1]


@pytest.mark.parametrize("trained", [False, True])
def test_what_was_accepted_is_never_held_out(mirror: Mirror, tmp_path: Path, trained: bool) -> None:
    people = [task(number, annotation(100 + number, half("Sky"))) for number in range(1, 6)]
    made = [task(number, accepted(100 + number, number)) for number in range(6, 31)]
    both = task(31, annotation(131, half("Road")), accepted(132, 31))
    put(mirror, 1, *people, *made, both)
    # of a task that was held out by a person's label once, what segloop accepted judges nothing, and teaches nothing
    splits = MemorySplits({6: "val"})
    settings = Settings(data_dir=tmp_path, val_fraction=0.5, accept_train=trained, auto_accept=True)
    inputs = SnapshotInputs(
        *(PROJECT, CONFIG, FakeImages(), splits, settings, Memory(mirror)),  # type: ignore[arg-type]
        accepted=mirror.records.accepted() if trained else frozenset(),
    )
    manifest = snapshot(inputs, mirror.tasks(accepted=trained), tmp_path / "snapshot")
    sides: dict[int, Split] = {item.task: item.split for item in manifest.items}
    assert sides.keys() == {*range(1, 6), 31} | (set(range(7, 31)) if trained else set())
    assert all(sides[number] == "train" for number in sides if 6 <= number <= 30)
    held_out = [number for number, side in sides.items() if side == "val"]
    assert len(held_out) == 3, "half of what people labelled"
    (item,) = [item for item in manifest.items if item.task == 31]
    assert [one.id for one in item.annotations] == [131], "a person's label comes first"
