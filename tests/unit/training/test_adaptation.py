from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from demo.scenes import CLASSES, NO_LABEL, draw_scene
from segloop.dataset import AnnotationRef, Item, load_manifest
from segloop.errors import TrainingError
from segloop.network.network import SegmentationNetwork
from segloop.network.transforms import normalise
from segloop.settings import Settings
from segloop.training import Container, Network, adapt, evaluate, main, train
from segloop.training import adaptation as module
from segloop.training.adaptation import MOST_IMAGES, Features, choose, views_of
from segloop.training.examples import Examples
from segloop.training.recipe import TerminatedError
from tests.curves import scalars
from tests.snapshots import Example, write_base, write_snapshot

SMALL: dict[str, Any] = {"weights": "none", "input_size": 96, "device": "cpu"}


def scenes(first: int, count: int, val: int, values: list[int]) -> list[Example]:
    """Drawn scenes of 96x64, the last `val` held out; `values` gives the class map's value of each of CLASSES."""
    lookup = np.zeros(256, np.uint8)
    lookup[: len(CLASSES)] = values
    lookup[NO_LABEL] = 0
    examples: list[Example] = []
    for seed in range(first, first + count):
        image, mask = draw_scene(np.random.default_rng(seed), 96, 64)
        examples.append((image, lookup[mask], "val" if seed >= first + count - val else "train"))
    return examples


def labelled(task: int, day: int) -> Item:
    name = f"{task:064x}"
    return Item(
        task=task,
        image_tag="image",
        annotations=(AnnotationRef(id=task, updated_at=f"2026-11-{day:02}T00:00:00Z"),),
        image=f"images/{name}.png",
        mask=f"masks/{name}.png",
        width=128,
        height=96,
        split="train",
    )


class Pooling(nn.Module):
    """A backbone whose features are the mean colour of each square of 16 pixels, scaled by `gain`."""

    def __init__(self, gain: float = 1.0) -> None:
        super().__init__()
        self.gain = gain

    def forward(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"out": self.gain * nn.functional.avg_pool2d(images, 16)}


@pytest.fixture
def examples(tmp_path: Path) -> Examples:
    manifest = write_snapshot(tmp_path / "snapshot", CLASSES, scenes(0, 3, 0, [1, 2, 3, 4, 5]))
    (tmp_path / "cache").mkdir()
    return Examples(
        tmp_path / "snapshot", manifest.items, Settings(input_size=96), tmp_path / "cache", len(CLASSES) + 1
    )


def test_few_items_are_all_chosen_the_latest_first() -> None:
    chosen = choose([labelled(1, day=3), labelled(2, day=9), labelled(3, day=5)], seed=0)
    assert [item.task for item in chosen] == [2, 3, 1]


def test_of_many_items_half_are_the_latest_and_half_random_ones_in_turns() -> None:
    items = [labelled(task, day=2 if task >= 900 else 1) for task in range(1000)]
    chosen = [item.task for item in choose(items, seed=0)]
    assert len(chosen) == len(set(chosen)) == MOST_IMAGES
    assert all(task >= 900 for task in chosen[::2])
    assert sum(task < 900 for task in chosen[1::2]) > MOST_IMAGES // 3
    assert chosen == [item.task for item in choose(items, seed=0)]


def test_views_are_the_images_as_served_then_mirrored_then_random_ones(examples: Examples) -> None:
    settings = Settings(**SMALL)
    views = [view for view, _ in zip(views_of(examples, settings), range(7), strict=False)]
    assert {tuple(image.shape) for image, _ in views} == {(3, 64, 96)}
    for (image, target), (mirrored, mirrored_target) in zip(views[:3], views[3:6], strict=True):
        assert torch.equal(image.flip(-1), mirrored)
        assert torch.equal(target.flip(-1), mirrored_target)
    assert not any(torch.equal(views[6][0], image) for image, _ in views[:6])


def test_where_images_are_served_in_windows_so_are_the_first_views(tmp_path: Path) -> None:
    """What a head's statistics and areas are taken from has the scale and the colours of what is served."""
    manifest = write_snapshot(tmp_path / "snapshot", CLASSES, scenes(0, 3, 0, [1, 2, 3, 4, 5]))
    (tmp_path / "cache").mkdir()
    settings = Settings(**{**SMALL, "input_size": 64, "long_side": 96})
    loaded = Examples(tmp_path / "snapshot", manifest.items, settings, tmp_path / "cache", len(CLASSES) + 1)
    windows = [loaded.served_view(index, number) for index in range(3) for number in range(2)]
    views = [view for view, _ in zip(views_of(loaded, settings), range(7), strict=False)]
    for place, (image, target) in enumerate(views[:3]):
        pixels, mask = windows[2 * place + place % 2]
        assert torch.equal(image, torch.from_numpy(normalise(pixels)))
        assert torch.equal(target, torch.from_numpy(mask.astype(np.int64)))
        assert torch.equal(image.flip(-1), views[3 + place][0])
    shown = [torch.from_numpy(normalise(pixels)) for pixels, _ in windows]
    assert not any(torch.equal(views[6][0], image) for image in shown)


class Pyramid(nn.Module):
    """A backbone whose features are the mean colour of squares of 4 and of 16 pixels, the latter scaled by `gain`."""

    def __init__(self, gain: float) -> None:
        super().__init__()
        self.gain = gain

    def forward(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        fine, coarse = (nn.functional.avg_pool2d(images, side) for side in (4, 16))
        return {"fine": fine, "out": self.gain * coarse}


@pytest.mark.parametrize("gain", [1.0, 1e6])
def test_each_level_of_features_is_kept_in_8_bits(tmp_path: Path, gain: float) -> None:
    network = SegmentationNetwork(Pyramid(gain), nn.Conv2d(3, 2, 1), ("fine", "out"))
    features = Features(tmp_path, network, (96, 128), 20)
    rng = np.random.default_rng(0)
    images = torch.from_numpy(rng.uniform(0, 4, (3, 3, 96, 128)).astype(np.float32))
    images[:, 2] = 0
    targets = torch.from_numpy(rng.integers(0, 5, (3, 96, 128)))
    for image, target in zip(images, targets, strict=True):
        features.add(image, target)
    levels, maps = features.batch([2, 0])
    for level, expected in zip(levels, network.features(images[[2, 0]]), strict=True):
        step = expected.amax(dim=(2, 3), keepdim=True) / 255
        assert ((level - expected).abs() <= 0.51 * step).all()
        assert level.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(maps, targets[[2, 0]])


def test_without_a_backbone_the_reason_is_said(tmp_path: Path) -> None:
    base = write_base(tmp_path, **SMALL, recipe="quick")
    write_snapshot(Container(base).snapshot, CLASSES, scenes(0, 3, 1, [1, 2, 3, 4, 5]))
    assert main(["--base", str(base)]) == 1
    assert "needs weights or a served version" in (base / "output" / "failure").read_text()


def test_an_unknown_recipe_is_the_reason(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="'slow': use quick or full"):
        Container(write_base(tmp_path, recipe="slow")).recipe()
    assert Container(write_base(tmp_path)).recipe() == "full"


@pytest.fixture(scope="module", params=["fpn_resnet50", "fcn_resnet50"])
def champion(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A network that knows drawn scenes by other labels: sky, tree or pole, and road or building."""
    base = tmp_path_factory.mktemp("champion")
    write_base(
        base,
        **{**SMALL, "arch": request.param},
        train_epochs=1,
        train_min_steps=10,
        train_batch_size=4,
        output_stride=16,
    )
    write_snapshot(Container(base).snapshot, ("Above", "Below"), scenes(100, 14, 2, [1, 2, 2, 1, 1]))
    train(Container(base))
    return base / "model"


@pytest.fixture
def base(tmp_path: Path, champion: Path) -> Path:
    """Ten labelled scenes that the champion never saw, by its backbone's unknown names; four more are held out."""
    write_base(tmp_path, **SMALL, recipe="quick", adapt_minutes=0.05)
    container = Container(tmp_path)
    write_snapshot(container.snapshot, CLASSES, scenes(0, 14, 4, [1, 2, 3, 4, 5]))
    shutil.copytree(champion, container.champion)
    return tmp_path


@pytest.mark.slow
def test_ten_images_of_new_labels_give_a_useful_version(
    base: Path, champion: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SEGLOOP_TENSORBOARD_DIR", str(base / "curves"))
    assert main(["--base", str(base)]) == 0
    container = Container(base)
    info = json.loads((container.model / "version.json").read_text())
    empty = evaluate(None, container.snapshot, CLASSES).summary.miou
    assert info["metrics"]["miou"] > 0.3 > empty
    served = json.loads((champion / "version.json").read_text())
    assert (info["recipe"]["kind"], info["classes"]) == ("quick", list(CLASSES))
    assert (info["arch"], info["output_stride"]) == (served["arch"], served["output_stride"])
    network = Network.load(container.model, torch.device("cpu"))
    assert evaluate(network, container.snapshot, CLASSES).summary.iou == info["metrics"]["iou"]
    # the head alone was trained: the backbone is the champion's, its statistics included
    before, after = load_file(champion / "model.safetensors"), load_file(container.model / "model.safetensors")
    assert all(torch.equal(before[key], after[key]) for key in before if key.startswith("backbone."))
    assert not any(
        torch.equal(before[key], after[key])
        for key in before
        if key.startswith("classifier.") and before[key].ndim == 4
    )
    assert load_manifest(container.snapshot).hash == info["snapshot"]
    curves = scalars(base / "curves")
    assert len(curves["train/loss"]) == info["recipe"]["steps"]
    assert curves["val/miou"] == [(info["recipe"]["steps"], pytest.approx(info["metrics"]["miou"]))]


@pytest.mark.slow
def test_a_stop_ends_it_and_it_begins_again(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    container = Container(base)
    asked = iter([False] * 3)
    with pytest.raises(TerminatedError):
        adapt(container, lambda: next(asked, True))
    assert not container.model.exists()
    monkeypatch.setattr(module, "LEAST_STEPS", 1)
    monkeypatch.setattr(module, "LEAST_IMAGES", 2)
    assert adapt(container).recipe.steps >= 1
    assert (container.model / "version.json").is_file()
