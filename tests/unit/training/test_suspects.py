"""Suspected labels: pieces that a network contradicts become a bounded file with outlines; folds see no label twice."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from segloop.dataset import Item, Manifest
from segloop.formats import IGNORED
from segloop.network.network import build_network, save_bundle
from segloop.settings import Settings
from segloop.suspects import PHOTOS, SUSPECTS, Judged, Suspects, read_photo, read_suspects
from segloop.suspects.format import MOST_IMAGES, MOST_OF_IMAGE, MOST_PIECES, MOST_POINTS
from segloop.training import adaptation, folds
from segloop.training.evaluation import Network
from segloop.training.folds import FOLDS, FoldInputs, fold_logits, fold_of
from segloop.training.panel import Panel, Room, room_in
from segloop.training.suspects import SuspectInputs, as_file, find_suspects, outline, worst
from segloop.versions import Metrics, RecipeInfo, VersionInfo
from tests.snapshots import write_snapshot

CLASSES = ("Sky", "Road")
SIZE = 120, 160


def true_map() -> np.ndarray:
    """Sky above Road, and nothing at the left edge."""
    class_map = np.full(SIZE, 1, np.uint8)
    class_map[60:] = 2
    class_map[:, :20] = 0
    return class_map


def logits_of(class_map: np.ndarray) -> np.ndarray:
    """Logits float32 (3, 30, 40) of a network that sees a class map, and is not wholly sure."""
    small = cv2.resize(class_map, (40, 30), interpolation=cv2.INTER_NEAREST_EXACT)
    return np.stack([np.where(small == channel, 4.0, 0.0) for channel in range(3)]).astype(np.float32)


def item(task: int) -> Item:
    return Item(
        task=task,
        image_tag="image",
        annotations=(),
        image=f"images/{task:064x}.png",
        mask=f"masks/{task:064x}.png",
        width=SIZE[1],
        height=SIZE[0],
        split="val",
    )


def looked_at(folder: Path, labels: list[np.ndarray], room: Room | None = None) -> Suspects:
    panel = Panel(room or room_in(folder), 3)
    for task, label in enumerate(labels, start=1):
        panel.hear(item(task), label, logits_of(true_map()))
    panel.calibrate(1.0)
    return as_file(worst(panel.look(held_out=True)), CLASSES, Judged(held_out=len(panel)))


def test_a_missing_and_a_mistaken_piece_are_found_where_they_are(tmp_path: Path) -> None:
    missing, mistaken, ignored = true_map(), true_map(), true_map()
    missing[70:110, 60:100] = 0
    mistaken[10:40, 100:140] = 2
    ignored[10:40, 100:140] = IGNORED
    found = looked_at(tmp_path, [true_map(), missing, mistaken, ignored])
    by_task = {found.image_of(one).task: one for one in found.suspects}
    assert by_task.keys() == {2, 3}
    first, second = by_task[2], by_task[3]
    assert (first.labelled, first.seen) == ("Background", "Road")
    assert (second.labelled, second.seen) == ("Road", "Sky")
    left, top, width, height = first.box
    # without the 3 pixels at its boundary
    assert (left * 160, top * 120, width * 160, height * 120) == pytest.approx((63, 73, 34, 34), abs=2)
    assert first.area == pytest.approx(34 * 34 / (120 * 160), rel=0.1)
    assert 0.8 < first.margin <= 1
    assert first.label == (), "background has no outline"
    drawn = np.zeros(SIZE, np.uint8)
    cv2.fillPoly(drawn, [np.array(ring).reshape(-1, 2) for ring in first.network], 1)
    assert (drawn == (true_map() == 2)).mean() > 0.97, "the road as the network sees it"
    assert not looked_at(tmp_path, [true_map()]).suspects


@pytest.mark.slow
def test_what_is_kept_is_bounded(tmp_path: Path) -> None:
    label = true_map()
    for number in range(MOST_OF_IMAGE + 2):
        label[70:90, 22 + 19 * number : 34 + 19 * number] = 1
    found = looked_at(tmp_path, [label])
    assert len(found.suspects) == MOST_OF_IMAGE
    many = looked_at(tmp_path, [np.where(label == 1, 1, 3 - label).astype(np.uint8) % 3 for _ in range(3)] * 40)
    assert len(many.images) <= MOST_IMAGES
    assert len(many.suspects) <= MOST_PIECES
    assert [one.score for one in many.suspects] == sorted((one.score for one in many.suspects), reverse=True)


def test_where_there_is_no_room_for_logits_fewer_images_are_judged(tmp_path: Path) -> None:
    found = looked_at(tmp_path, [true_map()] * 5, Room(tmp_path, 3 * (120 * 160 + 2 * 3 * 30 * 40)))
    assert found.judged.held_out == 3


@pytest.mark.slow
def test_an_outline_of_any_mask_has_few_enough_points() -> None:
    noise = np.random.default_rng(0).random((200, 200)) < 0.5
    assert 0 < sum(map(len, outline(noise))) <= 2 * MOST_POINTS
    square = np.zeros((50, 50), np.bool_)
    square[10:20, 30:40] = True
    [ring] = outline(square)
    assert {(x, y) for x, y in zip(ring[::2], ring[1::2], strict=True)} == {(30, 10), (40, 10), (40, 20), (30, 20)}


def test_folds_share_no_task_and_are_of_one_size() -> None:
    tasks = [number // 2 for number in range(40)]
    sides = fold_of(tasks, seed=1)
    assert np.bincount(sides[::2], minlength=FOLDS).tolist() == [7, 7, 6]
    assert (sides[::2] == sides[1::2]).all(), "images of a task are together"


def version(manifest: Manifest) -> VersionInfo:
    return VersionInfo(
        created_at="2026-11-22T00:00:00+00:00",
        arch="fpn_resnet50",
        output_stride=4,
        input_size=64,
        classes=CLASSES,
        snapshot=manifest.hash,
        metrics=Metrics(),
        recipe=RecipeInfo(seconds=0.0),
    )


@pytest.mark.slow
def test_images_of_one_task_alone_make_no_folds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A task may have many images. Where features fit of none but its own, no head could learn from another task."""
    blank = np.zeros((32, 32, 3), np.uint8), np.zeros((32, 32), np.uint8)
    manifest = write_snapshot(tmp_path, CLASSES, [(*blank, "train")] * 30)
    pages = [one.model_copy(update={"task": max(one.task - 18, 1)}) for one in manifest.items]
    monkeypatch.setattr(adaptation, "MOST_BYTES", 0)
    monkeypatch.setattr(folds, "chosen", lambda items, seed: list(items))
    network = Network(build_network("fpn_resnet50", 3, 4).eval(), CLASSES, 32, torch.device("cpu"))
    inputs = FoldInputs(version(manifest), network, tmp_path, pages, Settings(), budget_s=1e6, most_steps=1)
    assert [*fold_logits(inputs)] == []


@pytest.mark.slow
def test_a_bundle_gets_its_suspects_and_photos(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    examples = [
        (
            rng.integers(0, 256, (48, 64, 3), np.uint8),
            rng.integers(0, 3, (3, 4), np.uint8).repeat(16, 0).repeat(16, 1),
            side,
        )
        for side in ("train", "val", "val")
    ]
    manifest: Manifest = write_snapshot(tmp_path / "snapshot", CLASSES, examples)
    torch.manual_seed(0)
    save_bundle(tmp_path / "bundle", build_network("fpn_resnet50", 3, 4), version(manifest))
    inputs = SuspectInputs(tmp_path / "bundle", tmp_path / "snapshot", Settings(), torch.device("cpu"))
    found = find_suspects(inputs)
    assert read_suspects(tmp_path / "bundle" / SUSPECTS) == found
    assert found.judged == Judged(held_out=2, held_out_of=2, training=0, training_of=1)
    assert {one.task for one in found.images} <= {2, 3}
    for number, one in enumerate(found.images):
        data = read_photo(tmp_path / "bundle" / PHOTOS, f"{number}.jpg")
        assert data is not None
        assert cv2.imdecode(np.frombuffer(data, np.uint8), 1).shape == (one.height, one.width, 3)
        assert one.mask in manifest.items[one.task - 1].mask
