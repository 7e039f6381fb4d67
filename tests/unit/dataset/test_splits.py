"""The split of a project's tasks: it grows and never moves a task, and keeps tasks that share an image together."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from segloop.dataset import Manifest, ProjectSplits, Split, exclude_trained, join_splits
from segloop.dataset.splits import assign_splits, find_twins
from segloop.errors import NothingToTrain
from tests.labelling import PROJECT


def test_split_by_hand() -> None:
    assert assign_splits(PROJECT, [], {}, 0.2) == {}
    assert assign_splits(PROJECT, [1], {}, 0.2) == {1: "train"}
    first = min((1, 2), key=lambda number: hashlib.sha256(f"{PROJECT}/{number}".encode()).digest())
    assert assign_splits(PROJECT, [1, 2], {}, 0.2) == {first: "val", 3 - first: "train"}
    ten = assign_splits(PROJECT, range(10), {}, 0.2)
    assert sum(split == "val" for split in ten.values()) == 2
    # Two of the tasks of the val side are gone: they are made up for, and nothing else moves.
    assert assign_splits(PROJECT, [1, 2, 3], {1: "train", 2: "train", 9: "val"}, 0.4)[3] == "val"


def test_splits_of_projects_differ() -> None:
    sides = [assign_splits(f"{number}.1", range(40), {}, 0.5) for number in range(4)]
    assert len({tuple(sorted(side.items())) for side in sides}) == 4


@pytest.mark.slow
@given(
    st.lists(st.sets(st.integers(1, 60), max_size=20), min_size=1, max_size=6),
    st.floats(0.05, 0.95),
)
def test_task_never_moves_and_the_share_is_kept_as_the_set_grows(growth: list[set[int]], fraction: float) -> None:
    known: dict[int, Split] = {}
    present: set[int] = set()
    for added in growth:
        present |= added
        splits = assign_splits(PROJECT, present, known, fraction)
        assert splits.keys() == present
        assert known.items() <= splits.items()
        kept = sum(split == "val" for split in known.values())
        target = min(max(round(fraction * len(present)), 1), len(present) - 1)
        new = len(present) - len(known)
        vals = sum(split == "val" for split in splits.values())
        assert vals == min(max(target, kept), kept + new)
        if len(present) >= 2:
            assert set(splits.values()) == {"train", "val"}
        known = splits


def test_split_is_kept_as_json_of_the_project() -> None:
    class Store:
        def __init__(self) -> None:
            self.files: dict[tuple[str, str], str] = {}

        def read_json(self, project: str, name: str) -> Any:
            text = self.files.get((project, name))
            return None if text is None else json.loads(text)

        def write_json(self, project: str, name: str, value: Any) -> None:
            self.files[project, name] = json.dumps(value)

    store = Store()
    splits = ProjectSplits(store, PROJECT)
    assert splits.load() == {}
    splits.save({17: "val", 3: "train"})
    assert splits.load() == {3: "train", 17: "val"}
    kept = json.loads(store.files[PROJECT, "split.json"])
    assert kept == {"format": 1, "splits": {"3": "train", "17": "val"}}


@pytest.mark.parametrize(
    ("known", "wanted"),
    [
        ({}, None),
        ({1: "val"}, ["val", "val", "val"]),
        ({2: "train"}, ["train", "train", "train"]),
        ({1: "val", 2: "train"}, ["val", "train", "val"]),
    ],
)
def test_tasks_that_share_an_image_go_together(known: dict[int, Split], wanted: list[Split] | None) -> None:
    splits = assign_splits(PROJECT, range(1, 9), known, 0.4, {1: 1, 2: 1, 3: 1})
    sides = [splits[task] for task in (1, 2, 3)]
    assert sides == wanted if wanted else len(set(sides)) == 1
    assert set(splits.values()) == {"train", "val"}


def test_twins_never_take_the_last_task_to_train_on() -> None:
    splits = assign_splits(PROJECT, [1, 2, 3], {}, 0.5, {1: 1, 2: 1, 3: 1})
    assert set(splits.values()) == {"train"}


def test_twins_are_found_through_others() -> None:
    assert find_twins([(1, "a"), (2, "b"), (3, "c"), (4, "b"), (4, "c"), (1, "a"), (5, "e")]) == {2: 2, 3: 2, 4: 2}
    assert find_twins([(9, "a"), (8, "b"), (7, "a"), (7, "b")]) == {7: 7, 8: 7, 9: 7}


def manifest_of(**tasks: Split) -> Manifest:
    """Tasks t1, t2, ... on their sides; the image of one is its number, or what follows an underscore."""
    items = [
        {
            "task": int(name[1:].partition("_")[0]),
            "image_tag": "image",
            "annotations": [],
            "image": f"images/{int(name.rpartition('_')[2].removeprefix('t')):064x}.png",
            "mask": f"masks/{0:064x}.png",
            "width": 1,
            "height": 1,
            "split": side,
        }
        for name, side in tasks.items()
    ]
    value = {
        "project": PROJECT,
        "created_at": "",
        "label_config": "",
        "classes": [],
        "unlabelled": "ignore",
        "items": items,
    }
    return Manifest.model_validate_json(json.dumps(value))


def test_what_was_trained_on_elsewhere_is_trained_on_from_now_on() -> None:
    learnt = manifest_of(t1="train", t2="val", t3="train", t4="val")
    known: dict[int, Split] = {3: "val", 4: "train", 5: "val"}
    assert join_splits(known, learnt) == {1: "train", 2: "val", 3: "train", 4: "train", 5: "val"}
    assert join_splits({}, learnt) == {1: "train", 2: "val", 3: "train", 4: "val"}


def test_no_held_out_task_is_one_that_was_trained_on() -> None:
    learnt = manifest_of(t1="train", t2="val", t6="train")
    # 1 itself, and 4, which has the image of 6
    left = exclude_trained(manifest_of(t1="val", t2="val", t3="train", t4_6="val", t5="val"), learnt)
    assert [(item.task, item.split) for item in left.items] == [(2, "val"), (3, "train"), (5, "val")]
    assert [one.task for one in left.skipped] == [1, 4]
    assert left.hash == left.digest()
    same = manifest_of(t2="val", t6="train")
    assert exclude_trained(same, learnt) is same
    with pytest.raises(NothingToTrain, match="cannot be compared"):
        exclude_trained(manifest_of(t1="val", t3="train"), learnt)
