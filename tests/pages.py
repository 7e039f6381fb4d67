"""What tests of the status page need: versions with metrics, curves and a gallery over a real registry and queue, and presses."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from demo.scenes import CLASSES, NO_LABEL, draw_scene
from segloop.backend import Backend
from segloop.metrics import ConfusionMatrix
from segloop.queue import Jobs
from segloop.registry import Registry, open_registry
from segloop.registry.gallery import GALLERY, Entry, write_gallery
from segloop.serving import ServedModels
from segloop.settings import Settings
from segloop.versions import VersionInfo
from segloop.web import create_app
from tests.toys import BRUSH, ToyImages, toy_loader

PROJECT = "29.1795383040"
COLOURS = {"Sky": "#56b4e9", "Road": "#8c8c94", "Building": "#d55e00", "Tree": "#009e73", "Pole": "#cc79a7"}


class PageWorld:
    """A backend over a real registry and queue; Label Studio is away unless the settings name one."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.registry = open_registry(settings)
        self.jobs = Jobs.open(settings)
        models = ServedModels(self.registry, settings, toy_loader)
        self.backend = Backend(settings, self.registry, models, ToyImages(), lambda: self.jobs)
        self.app = create_app(self.backend, settings)
        self.client = self.app.test_client()
        self.registry.write_json(PROJECT, "project.json", {"project": PROJECT, "label_config": BRUSH})

    def close(self) -> None:
        self.backend.close()
        self.jobs.close()


@pytest.fixture
def world(settings: Settings, redis_url: str) -> Iterator[PageWorld]:
    """Over an empty data folder and queue."""
    made = PageWorld(settings.model_copy(update={"redis_url": redis_url}))
    yield made
    made.close()


@pytest.fixture
def served(world: PageWorld, tmp_path: Path) -> list[str]:
    """Three versions, of which the second is served."""
    names = [add_version(world.registry, tmp_path, seed, 0.5 + seed / 10, 0.5) for seed in (1, 2, 3)]
    for name in names[:2]:
        world.registry.promote(PROJECT, name, "test")
    return names


def fields(page: str, action: str) -> dict[str, str]:
    """The hidden fields of the first form with this action."""
    form = re.search(rf'<form method="post" action="[^"]*/{action}">(.*?)</form>', page, re.S)
    assert form, f"no form {action}"
    return dict(re.findall(r'name="([^"]+)" value="([^"]*)"', form[1]))


def press(world: PageWorld, action: str, **changed: str) -> Any:
    """Press the first button of this action, with some fields changed."""
    data = fields(world.client.get("/ui/projects/29").text, action) | changed
    return world.client.post(f"/ui/projects/29/{action}", data=data)


def get_json(world: PageWorld, path: str) -> Any:
    return world.client.get(path, headers={"Accept": "application/json"}).json


def add_version(registry: Registry, folder: Path, seed: int, miou: float, champion_miou: float | None = None) -> str:
    """Put a version into the registry that claims this mIoU; its figures and its gallery are of drawn scenes."""
    bundle = folder / f"bundle-{seed}"
    bundle.mkdir(parents=True)
    (bundle / "model.safetensors").write_bytes(bytes([seed] * 64))
    entries, matrix = [], ConfusionMatrix(CLASSES)
    for number, (image, truth) in enumerate(scenes()):
        guess = worsened(truth, 3 + 4 * (3 - number) + seed % 3)
        matrix.update(truth, guess)
        champion = None if champion_miou is None else worsened(truth, 22 - 4 * number)
        scores = (0.31 + 0.12 * number, None if champion is None else 0.28 + 0.1 * number)
        entries.append(Entry(101 + number, image, truth, guess, scores[0], champion, scores[1]))
    write_gallery(bundle / GALLERY, entries, CLASSES, COLOURS)
    return registry.add(PROJECT, bundle, described(matrix, seed, miou, champion_miou))


@cache
def scenes() -> list[tuple[np.ndarray, np.ndarray]]:
    """Three photos RGB uint8 (240, 320, 3), each with its class map uint8 (240, 320)."""
    drawn = [draw_scene(np.random.default_rng((9, number)), 320, 240) for number in range(3)]
    return [(image, np.where(mask == NO_LABEL, 0, mask + 1).astype(np.uint8)) for image, mask in drawn]


def described(matrix: ConfusionMatrix, seed: int, miou: float, champion_miou: float | None) -> VersionInfo:
    """A version.json for these figures."""
    summary = {**matrix.summary(tasks=12).model_dump(), "miou": miou}
    gate = "wins" if champion_miou is None or miou > champion_miou else "does not win"
    theirs = None
    if champion_miou is not None:
        theirs = {**summary, "miou": champion_miou, "iou": {n: (v or 0) - 0.03 for n, v in summary["iou"].items()}}
    known = {
        "created_at": f"2026-11-2{seed}T12:00:00+00:00",
        "arch": "deeplabv3_resnet50",
        "output_stride": 16,
        "input_size": 512,
        "classes": list(CLASSES),
        "parent": None,
        "snapshot": "0" * 64,
        "metrics": {
            **summary,
            "boundary_f1": 0.61,
            "boundary_f1_by_class": dict.fromkeys(CLASSES, 0.61),
            "calibration_error": 0.04,
            "confusion": matrix.counts.tolist(),
        },
        "champion_metrics": theirs,
        "decision": {
            "act": gate == "wins",
            "reason": f"The candidate {gate}: mIoU {miou:.4f} against the champion's {champion_miou or 0:.4f} on 12 tasks.",
            "interval": None if champion_miou is None else [miou - champion_miou, -0.011, 0.034],
            "ahead": None if champion_miou is None else 0.87,
        },
        "recipe": {"kind": "full", "seconds": 412.0},
        "curves": curves(200, miou),
    }
    return VersionInfo.model_validate(known)


def curves(steps: int, miou: float) -> dict[str, list[list[float]]]:
    """Curves of a run that ends at a mIoU."""
    rng = np.random.default_rng(0)
    loss = [[s, round(0.35 + 1.9 * math.exp(-s / 60) + 0.06 * rng.standard_normal(), 4)] for s in range(1, steps + 1)]
    marks = [s for s in (50, 100, 150, 200) if s <= steps]
    return {"loss": loss, "miou": [[s, round(miou * (1 - math.exp(-s / 55)), 4)] for s in marks]}


def worsened(truth: np.ndarray, radius: int) -> np.ndarray:
    """A class map as a network might guess it: its borders moved, and a piece missing."""
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (radius, radius))
    guess = cv2.morphologyEx(truth, cv2.MORPH_OPEN, kernel)
    return np.roll(guess, (radius // 2, -radius // 3), (0, 1)).astype(np.uint8)
