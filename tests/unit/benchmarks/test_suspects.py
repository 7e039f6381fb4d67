"""What `benchmarks.suspects` damages and counts, a tiny run of it, and cleanlab beside segloop's own formulas."""

from __future__ import annotations

import json

import numpy as np
import pytest

from benchmarks import suspects
from benchmarks.damage import KINDS, damage_masks
from demo.scenes import NO_LABEL, draw_scene
from segloop.suspects.confident import Thresholds, confident_classes, self_confidence, soft_minimum


def masks(count: int) -> list[np.ndarray]:
    drawn = (draw_scene(np.random.default_rng(number), 160, 120)[1] for number in range(count))
    return [np.where(mask == NO_LABEL, 0, mask + 1).astype(np.uint8) for mask in drawn]


def test_every_way_of_damage_changes_a_good_part_of_a_mask_and_no_other_mask():
    before = masks(10)
    damaged, how = damage_masks(before, 0.5, seed=3)
    assert sorted(how.values()) == sorted(KINDS)
    for place, (mask, kept) in enumerate(zip(damaged, before, strict=True)):
        changed = (mask != kept).mean()
        assert bool(changed > 0.003) is (place in how), how.get(place)
        assert set(np.unique(mask)) <= {value for one in before for value in np.unique(one)}
    again, same = damage_masks(before, 0.5, seed=3)
    assert same == how
    assert all((one == other).all() for one, other in zip(again, damaged, strict=True))


def test_precision_is_of_suspects_and_recall_of_damaged_masks():
    truth = suspects.Truth([], [], {0: "class swapped", 4: "wrong image"})
    order = [(0, True), (0, True), (3, False), (4, False), *[(9, False)] * 60, (4, True)]
    figures = suspects.counted(order, truth)
    assert (figures["precision at 20"], figures["recall at 20"]) == (2 / 20, 0.5)
    assert (figures["precision at 100"], figures["recall at 100"]) == (3 / 100, 1.0)


@pytest.mark.slow
def test_a_run_on_drawn_scenes_with_folds_over_random_weights(capsys):
    options = ["--scenes", "14", "--judge", "folds", "--budget-s", "600", "--share", "0.4", "--input-size", "64"]
    assert suspects.main([*options, "--no-cleanlab", "--steps", "20"]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["method"] for line in lines] == [
        "segloop",
        "segloop, images",
        "segloop, recall at 100 by damage",
    ]
    assert all((line["images"], line["damaged"]) == (14, 6) for line in lines)
    assert 0 <= lines[0]["precision at 20"] <= 1
    assert lines[1]["recall at 20"] == 1.0, "all images are among the first 20"


@pytest.mark.slow
def test_cleanlab_gives_images_the_same_quality_and_counts_the_same_pixels(tmp_path):
    """Without a band, which cleanlab does not know. Of the pixels that it counts it names the least confident ones: as many,
    but for those where the label wins."""
    python = suspects.cleanlab_python()
    if python is None:
        pytest.skip("cleanlab cannot be installed here")
    rng = np.random.default_rng(5)
    logits = rng.normal(0, 1, (3, 4, 48, 60))
    labels = rng.integers(0, 4, (3, 6, 6)).repeat(8, axis=1).repeat(10, axis=2).astype(np.uint8)
    np.put_along_axis(logits, labels[:, None].astype(int), 1.5, axis=1)
    probabilities = (np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)).astype(np.float32)
    quality, issues = suspects.run_cleanlab(python, list(probabilities), list(labels), tmp_path)
    step = suspects.STEP
    seen = [(probabilities[n][:, ::step, ::step], labels[n][::step, ::step]) for n in range(len(labels))]
    thresholds = Thresholds(4)
    for one, given in seen:
        thresholds.update(one, given)
    own = np.stack([self_confidence(one, given) for one, given in seen])
    assert [soft_minimum(one.ravel()) for one in own] == pytest.approx(quality, rel=1e-3)
    counted = sum(int((confident_classes(one, thresholds.values()) != given).sum()) for one, given in seen)
    unsure = sum(int((confident_classes(one, thresholds.values()) == 255).sum()) for one, _ in seen)
    least = np.zeros(own.size, bool)
    least[np.argsort(own.ravel(), kind="stable")[: counted - unsure]] = True
    ours = least.reshape(own.shape) & np.stack([one.argmax(axis=0) != given for one, given in seen])
    theirs = np.stack([issue[::step, ::step] for issue in issues])
    assert ours.sum() > 20
    assert (ours != theirs).sum() <= 2, "ties and rounding apart"
