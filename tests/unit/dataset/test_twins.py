"""Tasks that show the same, in whatever file, and tasks of one group are on one side of the split."""

from __future__ import annotations

import hashlib
import io
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from segloop.dataset import Manifest, SnapshotInputs, Split, snapshot
from segloop.dataset.looks import Look, near_duplicates
from segloop.dataset.twins import group_of, settle_groups
from segloop.settings import Settings
from tests.labelling import CONFIG, PROJECT, FakeFile, FakeImage, MemorySplits, annotation, half, task

Pixels = NDArray[np.uint8]


def scene(number: int) -> Pixels:
    """A picture of its own: a few soft blots, as a photo has."""
    random = np.random.default_rng(number)
    coarse = random.integers(0, 256, (6, 8, 3)).astype(np.uint8)
    return np.asarray(cv2.resize(coarse, (320, 240), interpolation=cv2.INTER_CUBIC), dtype=np.uint8)


def encoded(pixels: Pixels, kind: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind, **options)
    return buffer.getvalue()


@dataclass
class Files:
    """Images by their address."""

    files: dict[str, bytes] = field(default_factory=dict)

    def load(self, uri: str, task_id: int | None) -> FakeImage:
        data = self.files[uri]
        pixels = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
        suffix = ".png" if data.startswith(b"\x89PNG") else ".jpg"
        return FakeImage(pixels, FakeFile(data, hashlib.sha256(data).hexdigest(), suffix))


def take(folder: Path, files: dict[int, bytes], data: dict[int, Any] | None = None, **own: Any) -> Manifest:
    """A snapshot of tasks with these image files, and these other fields of data."""
    images = Files({f"{number}.file": content for number, content in files.items()})
    tasks = [
        task(number, annotation(number, half("Sky")), image=f"{number}.file", **(data or {}).get(number, {}))
        for number in files
    ]
    splits, learnt = own.pop("splits", None) or MemorySplits(), own.pop("learnt", None)
    settings = Settings(data_dir=folder, **{"val_fraction": 0.4, **own})
    inputs = SnapshotInputs(PROJECT, CONFIG, images, splits, settings, learnt=learnt)  # type: ignore[arg-type]
    return snapshot(inputs, tasks, folder / "snap")


def sides(manifest: Manifest) -> dict[int, Split]:
    return {item.task: item.split for item in manifest.items}


COPIES = {
    "a byte more": lambda pixels: encoded(pixels) + b"x",
    "other compression": lambda pixels: encoded(pixels, compress_level=0),
    "JPEG": lambda pixels: encoded(pixels, "JPEG", quality=75),
    "half the size": lambda pixels: encoded(np.ascontiguousarray(pixels[::2, ::2])),
}


@pytest.mark.slow
@pytest.mark.parametrize("copy", COPIES)
def test_copies_are_on_the_side_of_the_original(tmp_path: Path, copy: str) -> None:
    originals = {number: encoded(scene(number)) for number in range(1, 11)}
    copies = {number + 20: COPIES[copy](scene(number)) for number in range(1, 11)}
    found = sides(take(tmp_path, originals | copies))
    assert len(found) == 20
    assert set(found.values()) == {"train", "val"}
    assert all(found[number] == found[number + 20] for number in range(1, 11))


@pytest.mark.slow
def test_only_equal_pixels_count_by_setting(tmp_path: Path) -> None:
    originals = {number: encoded(scene(number)) for number in range(1, 11)}
    copies = {number + 20: COPIES["JPEG"](scene(number)) for number in range(1, 11)}
    found = sides(take(tmp_path, originals | copies, twin_similarity=1))
    assert any(found[number] != found[number + 20] for number in range(1, 11))


def test_copies_that_were_split_before_are_not_trained_on(tmp_path: Path) -> None:
    files = {1: encoded(scene(1)), 2: COPIES["JPEG"](scene(1)), 3: encoded(scene(3)), 4: encoded(scene(4))}
    splits = MemorySplits({1: "val", 2: "train", 3: "train", 4: "train"})
    manifest = take(tmp_path, files, splits=splits)
    assert sides(manifest) == {1: "val", 3: "train", 4: "train"}
    assert [(one.task, "task 1" in one.reason) for one in manifest.skipped] == [(2, True)]
    assert splits.kept[2] == "train"


def test_flat_images_are_no_near_duplicates(tmp_path: Path) -> None:
    flat = {number: encoded(np.full((60, 80, 3), 100 + number, np.uint8)) for number in range(1, 11)}
    assert not any(Look.of(np.full((60, 80, 3), grey, np.uint8)).outline for grey in (0, 100, 255))
    assert sorted(sides(take(tmp_path, flat)).values()) == ["train"] * 6 + ["val"] * 4


@pytest.mark.slow
def test_a_camera_that_stands_still_is_split_all_the_same(tmp_path: Path) -> None:
    def frame(number: int) -> bytes:
        pixels = scene(1)
        pixels[100:110, 10 * number : 10 * number + 10] = 255
        return encoded(pixels)

    manifest = take(tmp_path, {number: frame(number) for number in range(1, 11)})
    assert sorted(sides(manifest).values()) == ["train"] * 6 + ["val"] * 4
    assert any("SEGLOOP_SPLIT_BY" in warning for warning in manifest.warnings)


def test_near_duplicates_are_found_over_many_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("segloop.dataset.looks._BLOCK", 3)
    outlines = [Look.of(scene(number % 5)).outline for number in range(8)]
    assert sorted(near_duplicates([*outlines, b""], 0.94)) == [(0, 5), (1, 6), (2, 7)]


# -- groups


@pytest.mark.slow
def test_tasks_of_a_group_are_on_one_side(tmp_path: Path) -> None:
    files = {number: encoded(scene(number)) for number in range(1, 31)}
    data = {number: {"meta": {"drive": number % 6}} for number in range(1, 30)}
    manifest = take(tmp_path, files, data, split_by="meta.drive")
    found = sides(manifest)
    for drive in range(6):
        assert len({found[number] for number in range(1, 30) if number % 6 == drive}) == 1
    assert manifest.tasks("val") > 0
    assert any("1 tasks have no 'meta.drive'" in warning for warning in manifest.warnings)


def test_groups_that_were_split_before_move_to_the_training_side(tmp_path: Path) -> None:
    known: dict[int, Split] = {1: "val", 2: "train", 3: "val", 4: "val", 5: "train"}
    groups = {1: "a", 2: "a", 3: "b", 4: "b", 5: "c"}
    assert settle_groups(known, groups) == {1: "train", 2: "train", 3: "val", 4: "val", 5: "train"}
    # nothing else is held out: the group with most of the held-out tasks stays, and its others are not trained on
    known = {1: "val", 2: "train", 3: "val", 4: "val", 5: "train", 6: "train"}
    groups = {1: "a", 2: "a", 3: "b", 4: "b", 5: "b", 6: "c"}
    settled: dict[int, Split] = {1: "train", 2: "train", 3: "val", 4: "val", 5: "train", 6: "train"}
    assert settle_groups(known, groups) == settled
    files = {number: encoded(scene(number)) for number in groups}
    splits = MemorySplits(known)
    data = {number: {"drive": group} for number, group in groups.items()}
    manifest = take(tmp_path, files, data, split_by="drive", splits=splits)
    assert sides(manifest) == {1: "train", 2: "train", 3: "val", 4: "val", 6: "train"}
    assert [one.task for one in manifest.skipped] == [5]
    assert splits.kept == settled


@pytest.mark.parametrize(
    ("data", "name", "wanted"),
    [
        ({"drive": 7}, "drive", "7"),
        ({"meta": {"drive": "x"}}, "meta.drive", "x"),
        ({"meta.drive": "y", "meta": {"drive": "x"}}, "meta.drive", "y"),
        ({"drive": None}, "drive", None),
        ({"meta": "text"}, "meta.drive", None),
        ({}, "drive", None),
    ],
)
def test_group_of_a_task(data: dict[str, Any], name: str, wanted: str | None) -> None:
    assert group_of(data, name) == wanted


# -- tasks that were deleted and imported again


@pytest.mark.slow
def test_what_the_champion_was_trained_on_is_not_held_out_when_it_comes_back(tmp_path: Path) -> None:
    files = {number: encoded(scene(number)) for number in range(1, 51)}
    splits = MemorySplits()
    champion = take(tmp_path / "one", files, splits=splits, val_fraction=0.2)
    again = {number + 50: content for number, content in files.items()}
    manifest = take(tmp_path / "two", again, learnt=champion, splits=splits, val_fraction=0.2)
    found, before = sides(manifest), sides(champion)
    assert {number - 50: side for number, side in found.items()} == before


def test_a_held_out_task_that_the_champion_was_trained_on_moves(tmp_path: Path) -> None:
    files = {number: encoded(scene(number)) for number in range(1, 11)}
    champion = take(tmp_path / "one", files, splits=MemorySplits())
    trained = [number for number, side in sides(champion).items() if side == "train"]
    again = {number + 50: content for number, content in files.items()}
    splits = MemorySplits({number + 50: "val" if number == trained[0] else "train" for number in files})
    held_out = {number + 50 for number, side in sides(champion).items() if side == "val"}
    splits.kept |= dict.fromkeys(held_out, "val")
    found = sides(take(tmp_path / "two", again, splits=splits, learnt=champion))
    assert {number for number, side in found.items() if side == "val"} == held_out
    assert splits.kept[trained[0] + 50] == "train"
