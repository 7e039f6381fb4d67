"""Consistency training: views of images without annotations, and the loss of what is said of them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from segloop.dataset import Manifest, load_manifest, write_manifest
from segloop.formats import IGNORED
from segloop.network.transforms import MEAN, STD
from segloop.settings import Settings
from segloop.training import Container, train
from segloop.training.consistency import SURE, UnannotatedBatch, UnannotatedViews, consistency_loss, cut_mix
from segloop.training.examples import Examples, Stage
from tests.painted import CLASSES, examples, hyperparameters
from tests.snapshots import write_base, write_snapshot

SIZE = (8, 8)


class Said(nn.Module):
    """A network that says of each pixel what its image holds there: logits float32 (B, 3, h, w)."""

    def __init__(self) -> None:
        super().__init__()
        self.factor = nn.Parameter(torch.ones(()))

    def forward(self, images: Tensor) -> Tensor:
        return images * self.factor


def batch(weak: Tensor, strong: Tensor, inside: Tensor | None = None) -> UnannotatedBatch:
    inside = torch.ones(weak[:, 0].shape, dtype=torch.bool) if inside is None else inside
    return UnannotatedBatch(weak, strong, inside, inside.sum().float())


def of_class(value: int, logit: float) -> Tensor:
    """Two images of one class."""
    images = torch.zeros(2, 3, *SIZE)
    images[:, value] = logit
    return images


def test_what_the_network_is_sure_of_is_learnt_and_nothing_else() -> None:
    sure, unsure, other = of_class(1, 9.0), of_class(1, 2.0), of_class(2, 9.0)
    assert unsure.softmax(1).max() < SURE < sure.softmax(1).max()
    assert consistency_loss(Said(), batch(sure, sure)) < 0.01  # type: ignore[arg-type]
    assert consistency_loss(Said(), batch(sure, other)).item() == pytest.approx(9, abs=0.01)  # type: ignore[arg-type]
    assert consistency_loss(Said(), batch(unsure, other)) == 0  # type: ignore[arg-type]


def test_what_is_outside_of_the_image_is_not_learnt() -> None:
    inside = torch.zeros(2, *SIZE, dtype=torch.bool)
    inside[:, :4] = True
    strong = of_class(1, 9.0)
    strong[:, :, 4:] = of_class(2, 9.0)[:, :, 4:]
    whole = batch(of_class(1, 9.0), strong)
    part = batch(of_class(1, 9.0), strong, inside)
    assert consistency_loss(Said(), whole) > 1  # type: ignore[arg-type]
    # CutMix moves a rectangle to the same place of the next image, so that what is outside stays outside
    assert consistency_loss(Said(), part) < 0.01  # type: ignore[arg-type]


def test_only_what_is_said_of_the_strong_view_has_a_gradient() -> None:
    network = Said()
    consistency_loss(network, batch(of_class(1, 9.0), of_class(2, 9.0))).backward()  # type: ignore[arg-type,no-untyped-call]
    assert network.factor.grad is not None
    assert network.factor.grad == pytest.approx(9, abs=0.01)


def test_cut_mix_moves_pixels_with_their_labels() -> None:
    torch.manual_seed(0)
    images = torch.stack([torch.full((3, *SIZE), float(number)) for number in range(3)])
    labels = images[:, 0].long()
    mixed, moved = cut_mix(images, labels)
    assert (mixed[:, 0].long() == moved).all()
    assert all({int(one) for one in image.unique()} == {number, (number - 1) % 3} for number, image in enumerate(moved))
    assert (labels == images[:, 0]).all(), "what was given stays as it is"


def with_unannotated(folder: Path) -> Manifest:
    """A snapshot of which two of the training images have no annotation."""
    manifest = write_snapshot(folder, CLASSES, examples(8))
    train_items = manifest.part("train")
    others = tuple(item.model_copy(update={"annotations": ()}) for item in train_items[-2:])
    kept = tuple(item for item in manifest.items if item.task not in {other.task for other in others})
    manifest = manifest.model_copy(update={"items": kept, "unannotated": others}).sealed()
    write_manifest(folder, manifest)
    return manifest


def test_both_views_show_the_same_pixels_in_other_colours(tmp_path: Path) -> None:
    manifest = with_unannotated(tmp_path)
    settings = Settings(input_size=64)
    kept = Examples(tmp_path, manifest.unannotated or (), settings, tmp_path / "cache", 3)
    views = UnannotatedViews(kept, 0, Stage((64, 64)))
    for position in range(4):
        weak, strong, inside = views[position]
        assert all((one == again).all() for one, again in zip((weak, strong, inside), views[position], strict=True))
        assert (weak != strong).any()
        grey = [(one.numpy().transpose(1, 2, 0) * STD + MEAN).mean(axis=2)[inside.numpy()] for one in (weak, strong)]
        assert np.corrcoef(*grey)[0, 1] > 0.5
    assert not views[0][0].equal(views[2][0]), "another pass, another crop"
    other = replace(views.stage, factor=0.5, size=(32, 32))
    assert UnannotatedViews(kept, 0, other)[0][0].shape == (3, 32, 32)


@pytest.mark.slow
def test_images_without_annotations_change_what_a_training_learns(tmp_path: Path) -> None:
    found = {}
    for name in ("with", "without"):
        base = tmp_path / name
        snapshot = base / "input/data/snapshot"
        with_unannotated(snapshot)
        if name == "without":
            write_manifest(snapshot, load_manifest(snapshot).model_copy(update={"unannotated": None}).sealed())
        write_base(base, **hyperparameters(train_min_steps=4, train_lr=1e-3))
        info = train(Container(base))
        assert info is not None
        found[name] = info.files
    assert found["with"] != found["without"]
    assert IGNORED == 255
