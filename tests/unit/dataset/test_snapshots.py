"""Snapshots: the frozen folder, the annotation that counts, the split that never moves, and what is left out."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from segloop.blind import is_blind
from segloop.dataset import load_manifest, snapshot
from segloop.dataset.class_maps import counting_annotations
from segloop.errors import LabelConfigError, LabelStudioUnreachable, NothingToTrain, TrainingError
from segloop.settings import Settings
from tests.labelling import (
    CONFIG,
    EARLIER,
    HEIGHT_PX,
    LATER,
    PROJECT,
    WIDTH_PX,
    FakeImages,
    MemorySplits,
    annotation,
    half,
    snapshot_inputs,
    take,
    task,
    two_tasks,
)

TWO_IMAGES = """<View><Image name="left" value="$l"/><Image name="right" value="$r"/>
<BrushLabels name="b" toName="left"><Label value="Sky"/></BrushLabels>
<BrushLabels name="c" toName="right"><Label value="Sky"/></BrushLabels>
<RectangleLabels name="box" toName="left"><Label value="Sky"/></RectangleLabels></View>"""


def mask(dest: Path, name: str) -> NDArray[np.uint8]:
    return np.asarray(Image.open(dest / "snap" / name))


def test_snapshot_holds_originals_masks_and_a_manifest(tmp_path: Path) -> None:
    manifest = take(tmp_path, two_tasks())
    first, second = manifest.items
    assert (first.task, first.image_tag, first.width, first.height) == (17, "image", WIDTH_PX, HEIGHT_PX)
    assert [(ref.id, ref.updated_at) for ref in first.annotations] == [(5, EARLIER)]
    assert {first.split, second.split} == {"train", "val"}
    assert manifest.classes == ("Sky", "Road")
    assert mask(tmp_path, first.mask).tolist() == [[2] * 4 + [1] * 4] * 4
    assert mask(tmp_path, second.mask).tolist() == [[0] * 4 + [1] * 4] * 4
    original = FakeImages().load("/data/upload/1/17.png", 17).blob.bytes
    assert (tmp_path / "snap" / first.image).read_bytes() == original
    for name in (first.image, first.mask):
        content = (tmp_path / "snap" / name).read_bytes()
        assert Path(name).stem == hashlib.sha256(content).hexdigest()
    assert load_manifest(tmp_path / "snap") == manifest
    assert load_manifest(tmp_path / "snap" / "manifest.json") == manifest


def test_images_without_annotations_are_kept_apart_from_both_sides(tmp_path: Path) -> None:
    others = [{"id": 30, "data": {"image": "gone"}}, *(task(number) for number in (31, 17))]
    plain, splits = take(tmp_path / "plain", two_tasks()), MemorySplits()
    manifest = take(tmp_path, two_tasks(), unannotated=others, splits=splits)
    assert manifest.items == plain.items
    [other] = manifest.unannotated or ()
    assert (other.task, other.annotations) == (31, ()), "30 has no image, and that of 17 is annotated"
    assert (mask(tmp_path, other.mask) == 255).all()
    assert load_manifest(tmp_path / "snap") == manifest
    assert manifest.hash != plain.hash
    assert splits.load().keys() == {17, 18}
    (tmp_path / "snap" / other.image).unlink()
    with pytest.raises(TrainingError, match="has no file"):
        load_manifest(tmp_path / "snap")


def test_empty_annotation_is_all_background_or_nothing_by_setting(tmp_path: Path) -> None:
    tasks = [*two_tasks(), task(19, annotation(7))]
    manifest = take(tmp_path / "background", tasks)
    assert not mask(tmp_path / "background", manifest.items[2].mask).any()
    ignoring = Settings(data_dir=tmp_path, unlabelled="ignore")
    manifest = take(tmp_path / "ignore", tasks, settings=ignoring)
    assert [item.task for item in manifest.items] == [17, 18]
    assert mask(tmp_path / "ignore", manifest.items[1].mask).tolist() == [[255] * 4 + [1] * 4] * 4
    (left_out,) = manifest.skipped
    assert left_out.task == 19
    assert "annotation 7 labels no pixel" in left_out.reason


def test_one_bad_task_never_costs_the_others(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    unusable = half("Sky") | {"value": half("Sky")["value"] | {"width": 0}, "id": "moonshot"}
    manifest = take(
        tmp_path,
        [
            task(1, annotation(1), image="gone"),
            *two_tasks(),
            task(20, annotation(8, unusable)),
            task(21, annotation(9, was_cancelled=True)),
            task(22, annotation(10), other="x"),
            task(23, annotation(11), image="broken"),
        ],
    )
    assert [item.task for item in manifest.items] == [17, 18]
    reasons = {skipped.task: skipped.reason for skipped in manifest.skipped}
    assert reasons.keys() == {1, 20, 21, 22, 23}
    assert "moonshot" in reasons[20]
    assert "no annotation that was not skipped" in reasons[21]
    assert "no image" in reasons[22]
    assert reasons[23] == "ZeroDivisionError: a defect"
    assert "task 20 is left out of the snapshot" in caplog.text


def test_an_unknown_label_costs_no_task_and_is_warned_of_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    tasks = [
        task(1, annotation(1, half("Road"), half("Moon", right=True))),
        task(2, annotation(2, half("Moon"))),
        task(3, annotation(3, half("Moon"), half("Moon", right=True))),
        task(4, annotation(4, half("Sky"), half("sky ", right=True))),
    ]
    manifest = take(tmp_path, tasks, settings=Settings(data_dir=tmp_path, min_val_tasks=1))
    # Of task 3 nothing is known.
    assert [item.task for item in manifest.items] == [1, 2, 4]
    assert [left_out.task for left_out in manifest.skipped] == [3]
    rows = [mask(tmp_path, item.mask)[0].tolist() for item in manifest.items]
    assert rows == [[2] * 4 + [255] * 4, [255] * 4 + [0] * 4, [1] * 4 + [255] * 4]
    moon, sky = manifest.warnings
    assert moon == (
        "the label 'Moon' is not in the label config: the pixels of 2 regions in 2 tasks are ignored (tasks 1, 2)"
    )
    assert sky == (
        "the label 'sky ' is not in the label config, which has 'Sky': "
        "the pixels of 1 region in 1 task are ignored (task 4)"
    )
    assert all(warning in caplog.text for warning in manifest.warnings)
    assert load_manifest(tmp_path / "snap") == manifest


def test_an_annotation_that_points_nowhere_is_left_out_and_not_background(tmp_path: Path) -> None:
    stray = half("Sky", to_name="img")
    manifest = take(tmp_path, [*two_tasks(), task(3, annotation(9, stray, half("Road", right=True, to_name="img")))])
    assert [item.task for item in manifest.items] == [17, 18]
    [left_out] = manifest.skipped
    assert left_out.task == 3
    assert (
        "annotation 9: all its regions (2) point at 'img', which is no tag of the label config ('image')"
        in left_out.reason
    )


def test_regions_that_cannot_be_used_are_counted(tmp_path: Path) -> None:
    flat = half("Sky") | {"value": half("Sky")["value"] | {"height": 0}, "id": "flat"}
    stray = half("Sky", right=True, to_name="img")
    tasks = [task(n, annotation(n, half("Road"), flat, stray)) for n in range(1, 6)]
    manifest = take(tmp_path, tasks, settings=Settings(data_dir=tmp_path, min_val_tasks=1))
    assert len(manifest.items) == 5
    assert mask(tmp_path, manifest.items[0].mask)[0].tolist() == [2] * 4 + [255] * 4
    target, region = manifest.warnings
    assert target.startswith("'img' is no tag of the label config: 5 regions in 5 tasks")
    assert target.endswith("(tasks 1, 2, 3, ...)")
    assert region.startswith("5 regions in 5 tasks cannot be used: task 1, region 'flat': it has no area")
    assert region.count("region 'flat'") == 3


def test_pages_of_a_repeater_are_items(tmp_path: Path) -> None:
    config = """<View><Repeater on="$pages" indexFlag="{{i}}"><Image name="p_{{i}}" value="$pages[{{i}}].url"/>
    <BrushLabels name="b_{{i}}" toName="p_{{i}}"><Label value="Sky"/></BrushLabels>
    <RectangleLabels name="r_{{i}}" toName="p_{{i}}"><Label value="Road"/></RectangleLabels></Repeater></View>"""
    tasks = [
        task(n, annotation(n, half("Road", to_name="p_1")), pages=[{"url": f"{n}-{i}"} for i in range(n)])
        for n in (2, 3)
    ]
    manifest = take(tmp_path, tasks, config=config)
    assert [(item.task, item.image_tag) for item in manifest.items] == [
        (2, "p_0"), (2, "p_1"), (3, "p_0"), (3, "p_1"), (3, "p_2"),
    ]  # fmt: skip
    assert [mask(tmp_path, item.mask).any() for item in manifest.items] == [False, True, False, True, False]
    assert manifest.classes == ("Sky", "Road")
    assert manifest.skipped == ()


def test_label_studio_being_away_stops_a_snapshot(tmp_path: Path) -> None:
    with pytest.raises(LabelStudioUnreachable):
        take(tmp_path, [*two_tasks(), task(19, annotation(7), image="away")])
    with pytest.raises(TrainingError, match="cannot be read"):
        load_manifest(tmp_path / "snap")


def test_unusable_label_config_stops_a_snapshot(tmp_path: Path) -> None:
    with pytest.raises(LabelConfigError):
        take(tmp_path, two_tasks(), config="<View/>")


@pytest.mark.parametrize(
    ("tasks", "sentence"),
    [
        ([], "has 0 tasks with usable annotations"),
        (two_tasks()[:1], "has 1 tasks with usable annotations"),
        ([task(1, annotation(1), image="gone")], "task 1: gone answered 404"),
    ],
)
def test_too_few_tasks_are_nothing_to_train(tmp_path: Path, tasks: list[dict[str, Any]], sentence: str) -> None:
    with pytest.raises(NothingToTrain, match=sentence):
        take(tmp_path, tasks)
    assert not (tmp_path / "snap" / "manifest.json").exists()


@pytest.mark.parametrize(
    ("tasks", "known", "sentence"),
    [
        (
            [task(n, annotation(n), image="same.png") for n in (1, 2, 3)],
            {},
            "has 3 tasks .*all of them show the same images",
        ),
        (two_tasks(), {16: "val", 17: "train", 18: "train"}, "none of those that were held out for validation is left"),
        (two_tasks(), {16: "train", 17: "val", 18: "val"}, "all of them are held out for validation"),
    ],
)
def test_what_cannot_be_split_names_the_cause(
    tmp_path: Path, tasks: list[dict[str, Any]], known: dict[int, Any], sentence: str
) -> None:
    with pytest.raises(NothingToTrain, match=sentence):
        take(tmp_path, tasks, splits=MemorySplits(known))


def test_each_image_of_a_task_is_an_item_on_the_same_side(tmp_path: Path) -> None:
    tasks = [task(i, annotation(i, half("Sky", to_name="left")), l=f"l{i}", r=f"r{i}") for i in (1, 2)]
    manifest = take(tmp_path, tasks, config=TWO_IMAGES)
    assert [(item.task, item.image_tag) for item in manifest.items] == [
        (1, "left"), (1, "right"), (2, "left"), (2, "right"),
    ]  # fmt: skip
    assert manifest.items[0].split == manifest.items[1].split != manifest.items[2].split
    assert [mask(tmp_path, item.mask).any() for item in manifest.items] == [True, False, True, False]
    assert (manifest.tasks("train"), manifest.tasks("val")) == (1, 1)
    assert len(manifest.part("train")) == 2


def test_each_page_of_an_image_list_is_an_item(tmp_path: Path) -> None:
    config = CONFIG.replace('value="$image"', 'valueList="$image"')
    regions = [half("Sky") | {"item_index": 0}, half("Road", right=True) | {"item_index": 1}]
    tasks = [task(i, annotation(i, *regions), image=[f"a{i}", f"b{i}"]) for i in (1, 2)]
    manifest = take(tmp_path, tasks, config=config)
    assert [(item.task, item.item_index) for item in manifest.items] == [(1, 0), (1, 1), (2, 0), (2, 1)]
    assert mask(tmp_path, manifest.items[0].mask).tolist() == [[1] * 4 + [0] * 4] * 4
    assert mask(tmp_path, manifest.items[1].mask).tolist() == [[0] * 4 + [2] * 4] * 4
    assert load_manifest(tmp_path / "snap") == manifest


def test_second_attempt_removes_what_the_first_left(tmp_path: Path) -> None:
    take(tmp_path, [*two_tasks(), task(19, annotation(7, half("Road")))])
    (tmp_path / "snap" / "images" / ".half-written").write_bytes(b"x")
    manifest = take(tmp_path, two_tasks())
    files = {str(path.relative_to(tmp_path / "snap")) for path in (tmp_path / "snap").rglob("*") if path.is_file()}
    named = {name for item in manifest.items for name in (item.image, item.mask)}
    assert files == named | {"manifest.json"}


def test_progress_counts_tasks(tmp_path: Path) -> None:
    steps: list[dict[str, Any]] = []
    take(tmp_path, two_tasks(), progress=steps.append)
    assert [(step["phase"], step["step"], step["steps"]) for step in steps] == [("snapshot", 1, 2), ("snapshot", 2, 2)]


@pytest.mark.slow
def test_snapshot_is_dated_before_its_first_task_was_read(tmp_path: Path) -> None:
    def tasks() -> Iterator[dict[str, Any]]:
        time.sleep(1.1)
        yield from two_tasks()

    begin = datetime.now(UTC)
    manifest = snapshot(snapshot_inputs(tmp_path), tasks(), tmp_path)
    assert datetime.fromisoformat(manifest.created_at) <= begin + timedelta(seconds=1)


# -- the annotation that counts


@pytest.mark.parametrize(
    ("annotations", "wanted"),
    [
        ([], None),
        ([annotation(1, was_cancelled=True)], None),
        ([annotation(1), annotation(2, was_cancelled=True, updated_at=LATER)], 1),
        ([annotation(1, updated_at=LATER), annotation(2)], 1),
        ([annotation(1), annotation(2)], 2),
        ([annotation(1, ground_truth=True), annotation(2, updated_at=LATER)], 1),
        ([annotation(1, ground_truth=True, was_cancelled=True), annotation(2)], 2),
        ([annotation(1, updated_at="2026-11-22T13:30:00+02:00"), annotation(2, updated_at=EARLIER)], 2),
    ],
)
def test_newest_annotation_counts_but_ground_truth_first(annotations: list[dict[str, Any]], wanted: int | None) -> None:
    chosen = counting_annotations(annotations, "ground-truth")
    assert [one["id"] for one in chosen] == ([] if wanted is None else [wanted])


def test_blind_tasks_are_held_out(tmp_path: Path) -> None:
    settings = Settings(data_dir=tmp_path / "data", blind_share=0.3, val_fraction=0.1)
    tasks = [task(number, annotation(number, half("Sky"))) for number in range(1, 41)]
    blind = {number for number in range(1, 41) if is_blind(PROJECT, number, 0.3)}
    splits = MemorySplits()
    taken = take(tmp_path, tasks, settings=settings, splits=splits)
    assert {item.task for item in taken.part("val")} == blind
    assert len(blind) > 4, "more than val_fraction"
    before = MemorySplits(dict.fromkeys(blind, "train"))
    taken = take(tmp_path, tasks, settings=settings, splits=before)
    assert not {item.task for item in taken.part("val")} & blind, "what was trained on does not move"


def test_blind_tasks_leave_one_to_train_on_and_show_nothing_that_is_trained_on(tmp_path: Path) -> None:
    settings = Settings(data_dir=tmp_path / "data", blind_share=0.5)
    blind = [number for number in range(1, 100) if is_blind(PROJECT, number, 0.5)][:3]
    taken = take(tmp_path, [task(number, annotation(number, half("Sky"))) for number in blind], settings=settings)
    assert len(taken.part("train")) == 1
    other = next(number for number in range(1, 100) if not is_blind(PROJECT, number, 0.5))
    same = {"image": f"/data/upload/1/{other}.png"}
    tasks = [task(other, annotation(1, half("Sky"))), *(task(n, annotation(n, half("Sky")), **same) for n in blind[:1])]
    more = [task(number, annotation(number, half("Sky"))) for number in range(200, 210)]
    taken = take(tmp_path, [*tasks, *more], settings=settings, splits=MemorySplits({other: "train"}))
    assert {item.task for item in taken.part("train")} >= {other, blind[0]}


def test_snapshots_share_a_sticky_split(tmp_path: Path) -> None:
    splits = MemorySplits()
    few = take(tmp_path / "few", two_tasks(), splits=splits)
    more = take(
        tmp_path / "more",
        [*(task(i, annotation(i, half("Sky"))) for i in range(1, 9)), *two_tasks()],
        splits=splits,
    )
    sides = {item.task: item.split for item in more.items}
    assert {item.task: item.split for item in few.items}.items() <= sides.items()
    assert more.tasks("val") == 2
    assert splits.kept == sides
    # A task that is gone keeps its side for when it comes back.
    take(tmp_path / "again", two_tasks(), splits=splits)
    assert splits.kept == sides
