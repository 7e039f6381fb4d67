"""Snapshots of a mirror: a second one does only what changed, and an old one can be made again from its manifest."""

from __future__ import annotations

import errno
import os
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from segloop.dataset import Manifest, Memory, Mirror, SnapshotInputs, load_manifest, rebuild, snapshot, sync
from segloop.dataset.files import Objects
from segloop.errors import ImageUnavailable, LabelStudioUnreachable, TrainingError
from segloop.settings import Settings
from tests.labelling import CONFIG, PROJECT, FakeImages, MemorySplits, Studio, half

PROJECT_ID = 29


class World:
    """A project of four tasks, its mirror, and the snapshots of it."""

    def __init__(self, folder: Path, mirror: Mirror) -> None:
        self.folder, self.mirror = folder, mirror
        self.studio = Studio()
        self.images = FakeImages()
        self.splits = MemorySplits()
        for number in range(1, 5):
            self.studio.submit(number, half("Sky"))

    def take(self, name: str, *, config: str = CONFIG, **settings: Any) -> Manifest:
        """A snapshot of the project as it is now, in a folder of this name."""
        self.images.loaded.clear()
        sync(self.mirror, self.studio, PROJECT_ID)
        memory, own = Memory(self.mirror), Settings(data_dir=self.folder, **settings)
        inputs = SnapshotInputs(PROJECT, config, self.images, self.splits, own, memory)
        return snapshot(inputs, self.mirror.tasks(), self.folder / name, steps=len(self.mirror))

    def objects(self) -> set[str]:
        return {
            str(path.relative_to(self.mirror.folder))
            for name in ("images", "masks")
            for path in (self.mirror.folder / name).iterdir()
        }


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    with Mirror(tmp_path / "mirror") as mirror:
        yield World(tmp_path, mirror)


def names(manifest: Manifest) -> set[str]:
    return {name for item in manifest.items for name in (item.image, item.mask)}


def drawn(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The ids of annotations as they are drawn from now on."""
    from segloop.dataset.class_maps import Drawer

    seen: list[int] = []
    honest = Drawer._draw

    def watched(self: Drawer, annotation: Any, *size: Any) -> Any:
        seen.append(annotation["id"])
        return honest(self, annotation, *size)

    monkeypatch.setattr(Drawer, "_draw", watched)
    return seen


def test_second_snapshot_of_what_did_not_change_loads_and_draws_nothing(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = world.take("one")
    assert len(world.images.loaded) == 4
    seen = drawn(monkeypatch)
    second = world.take("two")
    assert (world.images.loaded, seen) == ([], [])
    assert (second.items, second.hash) == (first.items, first.hash)
    assert load_manifest(world.folder / "two") == second
    image = first.items[0].image
    assert (world.folder / "two" / image).stat().st_ino == (world.folder / "one" / image).stat().st_ino
    assert world.objects() == names(second)


def test_only_what_changed_is_drawn_and_its_image_is_not_loaded(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.take("one")
    world.studio.change(2, half("Road"))
    seen = drawn(monkeypatch)
    manifest = world.take("two")
    assert world.images.loaded == []
    assert seen == [manifest.items[1].annotations[0].id]
    with Image.open(world.folder / "two" / manifest.items[1].mask) as mask:
        assert np.asarray(mask)[0].tolist() == [2] * 4 + [0] * 4
    assert world.objects() == names(manifest)


@pytest.mark.parametrize(
    ("change", "loads", "draws"),
    [
        (lambda world: world.take("two", config=CONFIG.replace('value="Sky"', 'value="Sky" background="red"')), 0, 4),
        (lambda world: world.take("two", unlabelled="ignore"), 0, 4),
        (lambda world: world.take("two", annotators="latest"), 0, 4),
        (lambda world: world.take("two", val_fraction=0.5), 0, 0),
    ],
)
def test_what_drawings_depend_on_has_them_made_anew(
    world: World, monkeypatch: pytest.MonkeyPatch, change: Callable[[World], Manifest], loads: int, draws: int
) -> None:
    world.take("one")
    seen = drawn(monkeypatch)
    change(world)
    assert (len(world.images.loaded), len(seen)) == (loads, draws)


def test_image_is_loaded_again_for_another_address_or_a_lost_file(world: World) -> None:
    manifest = world.take("one")
    world.studio.tasks[2]["data"] = {"image": "/data/upload/1/new.png"}
    world.studio.predict(2)
    world.take("two")
    assert world.images.loaded == ["/data/upload/1/new.png"]
    (world.mirror.folder / manifest.items[3].image).unlink()
    (world.mirror.folder / manifest.items[0].image).write_bytes(b"")
    world.take("three")
    assert world.images.loaded == ["/data/upload/1/1.png", "/data/upload/1/4.png"]
    assert load_manifest(world.folder / "three")


def test_tasks_that_went_or_were_skipped_leave_the_snapshot_and_the_objects(world: World) -> None:
    deleted, skipped, *left = sorted(world.take("one").items, key=lambda item: item.split)
    world.studio.delete(deleted.task)
    world.studio.change(skipped.task, was_cancelled=True)
    manifest = world.take("two")
    assert {item.task for item in manifest.items} == {item.task for item in left}
    assert {path.name for path in (world.mirror.folder / "images").iterdir()} == {
        Path(item.image).name for item in manifest.items
    }


def test_failed_task_is_tried_again(world: World) -> None:
    world.studio.tasks[1]["data"] = {"image": "gone"}
    assert [skipped.task for skipped in world.take("one").skipped] == [1]
    assert [skipped.task for skipped in world.take("two").skipped] == [1]
    assert world.images.loaded == ["gone"]


def test_files_are_copied_to_another_disk(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.EXDEV, "Invalid cross-device link")

    monkeypatch.setattr(os, "link", refuse)
    manifest = world.take("one")
    assert load_manifest(world.folder / "one") == manifest


def test_several_annotations_are_listed_and_a_bad_one_is_reported(world: World) -> None:
    world.studio.submit(1, half("Sky"))
    bad = half("Sky") | {"id": "moonshot", "value": {"rectanglelabels": ["Moon"]}}
    number = world.studio.submit(1, bad)
    manifest = world.take("one", annotators="majority")
    assert [len(item.annotations) for item in manifest.items] == [2, 1, 1, 1]
    ((left_out),) = manifest.skipped
    assert left_out.task == 1
    assert f"annotation {number}: Region 'moonshot' cannot be used" in left_out.reason
    assert world.take("two", annotators="majority").skipped == manifest.skipped


def test_few_held_out_tasks_are_warned_of(world: World, caplog: pytest.LogCaptureFixture) -> None:
    manifest = world.take("one", min_val_tasks=2)
    assert manifest.warnings[0].startswith("1 tasks are held out for validation, fewer than min_val_tasks=2")
    assert manifest.warnings[0] in caplog.text
    assert world.take("two", min_val_tasks=1).warnings == ()


def test_warnings_of_regions_are_remembered(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.studio.change(2, half("Sky"), half("Moon", right=True))
    first = world.take("one", min_val_tasks=1)
    assert [warning.partition(":")[0] for warning in first.warnings] == ["the label 'Moon' is not in the label config"]
    seen = drawn(monkeypatch)
    assert world.take("two", min_val_tasks=1).warnings == first.warnings
    assert seen == []
    world.studio.change(2, half("Sky"))
    assert world.take("three", min_val_tasks=1).warnings == ()


def test_what_is_ignored_is_rebuilt(world: World) -> None:
    world.studio.change(2, half("Sky"), half("Moon", right=True))
    world.studio.submit(2, half("Sky") | {"value": {}}, half("Road", right=True))
    manifest = world.take("one", annotators="majority")
    rebuilt = rebuild(manifest, world.mirror, images=world.images, dest=world.folder / "again")
    assert rebuilt == manifest


# -- images that cannot be had now, and a disk that fails


def lose_host(world: World, *tasks: int, host: str = "a.example") -> None:
    for number in tasks:
        world.studio.submit(number, half("Sky"))
        world.studio.tasks[number]["data"] = {"image": f"https://{host}/503/{number}.png"}


def test_a_host_that_is_away_is_waited_for_and_not_trained_without(world: World) -> None:
    lose_host(world, 5, 6, 7, 8, 9)
    lose_host(world, 10, host="b.example")
    with pytest.raises(ImageUnavailable, match=r"6 images of 6 tasks .*a.example \(5: .*503\); b.example \(1: .*24 h"):
        world.take("one")
    assert not (world.folder / "one" / "manifest.json").exists()
    # the images of other hosts are there by now, and the host that is away was asked three times
    assert len(world.images.loaded) == 4 + 3 + 1
    world.images.is_back = True
    assert len(world.take("one").items) == 10
    assert len(world.images.loaded) == 6


def test_a_host_that_stays_away_is_named_each_time_and_waited_for_once(world: World) -> None:
    lose_host(world, 5)
    with pytest.raises(ImageUnavailable):
        world.take("one")
    world.mirror.db.execute("UPDATE waits SET since = since - 25 * 3600")
    for name in ("two", "three"):
        lose_host(world, 6)  # no more is waited for its host
        manifest = world.take(name)
        assert {item.task for item in manifest.items} == {1, 2, 3, 4}
        assert any("a.example (2: " in warning for warning in manifest.warnings)
        assert {one.task for one in manifest.skipped} == {5, 6}
    # nothing is known of another host yet
    lose_host(world, 7, host="b.example")
    with pytest.raises(ImageUnavailable, match=r"^1 image of 1 task .* b.example"):
        world.take("four")
    # where others came since, one image's failure is its own
    world.mirror.db.execute("UPDATE waits SET since = since - 25 * 3600")
    world.studio.tasks[7]["data"] = {"image": "https://a.example/fine.png"}
    world.studio.predict(7)
    world.take("five")
    lose_host(world, 8)
    with pytest.raises(ImageUnavailable, match=r"^1 image "):
        world.take("six")


def test_without_patience_the_tasks_are_left_out_at_once(world: World) -> None:
    lose_host(world, 5)
    manifest = world.take("one", image_wait_hours=0)
    assert [one.task for one in manifest.skipped] == [5]


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "full"), sqlite3.OperationalError("disk I/O error")])
def test_a_disk_that_fails_ends_the_snapshot(world: World, monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    honest = Objects.put

    def put(self: Objects, name: str, data: bytes) -> None:
        if len(world.images.loaded) > 2:
            raise error
        honest(self, name, data)

    monkeypatch.setattr(Objects, "put", put)
    with pytest.raises(type(error)):
        world.take("one")
    assert not (world.folder / "one" / "manifest.json").exists()


# -- one image in several tasks


def test_tasks_with_the_same_image_are_on_the_same_side(world: World) -> None:
    for number in range(5, 30):
        world.studio.submit(number, half("Road"))
        world.studio.tasks[number]["data"] = {"image": f"/data/upload/1/{number % 5}.png?{number}"}
    manifest = world.take("one", val_fraction=0.4)
    sides: dict[str, set[str]] = {}
    for item in manifest.items:
        sides.setdefault(item.image, set()).add(item.split)
    assert len(sides) == 5
    assert all(len(side) == 1 for side in sides.values())
    assert manifest.tasks("val") > 0


def test_image_that_came_to_both_sides_is_not_trained_on(world: World) -> None:
    first = world.take("one", val_fraction=0.25)
    (held_out,) = first.part("val")
    other = first.part("train")[0].task
    world.studio.tasks[other]["data"] = {"image": f"{held_out.address}?copy"}
    world.studio.predict(other)
    manifest = world.take("two", val_fraction=0.25)
    assert {item.task: item.split for item in manifest.items}[held_out.task] == "val"
    assert other not in {item.task for item in manifest.items}
    assert [(one.task, f"task {held_out.task}" in one.reason) for one in manifest.skipped] == [(other, True)]
    assert world.splits.kept[other] == "train"


# -- rebuilding


def empty(world: World) -> None:
    """Lose the objects."""
    for name in world.objects():
        (world.mirror.folder / name).unlink()


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("lost", [False, True])
@pytest.mark.parametrize("annotators", ["ground-truth", "majority"])
def test_snapshot_is_rebuilt_byte_for_byte(world: World, lost: bool, annotators: str) -> None:
    world.studio.submit(2, half("Road", right=True))
    manifest = world.take("one", annotators=annotators)
    # What came later is no part of it.
    world.studio.submit(9, half("Road"))
    sync(world.mirror, world.studio, PROJECT_ID)
    if lost:
        empty(world)
    rebuilt = rebuild(manifest, world.mirror, images=world.images, dest=world.folder / "again")
    assert rebuilt == manifest
    assert files(world.folder / "again") == files(world.folder / "one")


def test_image_that_lies_in_the_task_is_rebuilt_from_there(world: World) -> None:
    world.studio.tasks[2]["data"] = {"image": "data:image/png;base64,AAAA"}
    manifest = world.take("one")
    assert [item.address for item in manifest.items][:2] == ["/data/upload/1/1.png", None]
    empty(world)
    rebuild(manifest, world.mirror, images=world.images, dest=world.folder / "again")
    assert files(world.folder / "again") == files(world.folder / "one")


def other_image(world: World) -> None:
    item = load_manifest(world.folder / "one").items[1]
    world.images.changed[item.address] = "/data/upload/1/other.png"


@pytest.mark.parametrize(
    ("deed", "reason"),
    [
        (lambda world: world.studio.change(2, half("Road")), "its annotation 102 was changed at"),
        (lambda world: world.studio.delete(2), "it is gone"),
        (lambda world: (world.studio.submit(2), world.studio.unlabel(2)), "its annotation 102 was deleted"),
        (other_image, "the image at its address is another one now"),
    ],
)
def test_what_cannot_be_rebuilt_is_named(world: World, deed: Callable[[World], object], reason: str) -> None:
    manifest = world.take("one")
    deed(world)
    sync(world.mirror, world.studio, PROJECT_ID)
    empty(world)
    with pytest.raises(TrainingError, match=f"cannot be rebuilt: task 2: {reason}"):
        rebuild(manifest, world.mirror, images=world.images, dest=world.folder / "again")
    assert not (world.folder / "again" / "manifest.json").exists()


def test_label_studio_being_away_stops_a_rebuild(world: World) -> None:
    manifest = world.take("one")
    empty(world)
    away = manifest.model_copy(
        update={"items": tuple(item.model_copy(update={"address": "away"}) for item in manifest.items)}
    )
    with pytest.raises(LabelStudioUnreachable):
        rebuild(away, world.mirror, images=world.images, dest=world.folder / "again")
