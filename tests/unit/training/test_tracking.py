"""Curves of trainings: where they go, and what a missing extra costs. That trainings write them: test_training."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest

from segloop.dataset import Manifest, load_manifest
from segloop.settings import Settings
from segloop.training import Container, tracking
from segloop.training.tracking import NoTracker, TensorBoard
from segloop.versions import Metrics
from tests.curves import plugins, scalars
from tests.painted import CLASSES, examples
from tests.snapshots import write_base, write_snapshot

SUMMARY = Metrics(miou=0.5, pixel_accuracy=0.75, iou={"Red": 0.25, "Blue": None}, tasks=2)


@pytest.fixture
def container(tmp_path: Path) -> Container:
    return Container(write_base(tmp_path / "base", recipe="quick", train_lr=0.125, segloop_route="x"))


@pytest.fixture
def manifest(container: Container) -> Manifest:
    write_snapshot(container.snapshot, CLASSES, examples(2, 1))
    return load_manifest(container.snapshot)


def settings(tmp_path: Path, **values: Any) -> Settings:
    return Settings(tensorboard_dir=str(tmp_path / "curves"), **values)


def test_without_the_setting_nothing_is_written(container: Container, manifest: Manifest, tmp_path: Path) -> None:
    with tracking.tracking(Settings(), container, manifest) as tracker:
        tracker.step(1, 0.5, 1e-3)
        tracker.evaluation(1, SUMMARY)
    assert isinstance(tracker, NoTracker)
    assert not (tmp_path / "curves").exists()


def test_only_the_process_that_leads_writes(container: Container, manifest: Manifest, tmp_path: Path) -> None:
    with tracking.tracking(settings(tmp_path), container, manifest, is_main=False) as tracker:
        assert isinstance(tracker, NoTracker)


def test_steps_evaluations_and_hyperparameters(container: Container, manifest: Manifest, tmp_path: Path) -> None:
    with tracking.tracking(settings(tmp_path, train_lr=0.125), container, manifest) as tracker:
        tracker.step(1, 1.5, 1e-3)
        tracker.step(2, 1.25, 2e-3)
        tracker.evaluation(2, SUMMARY)
    [folder] = (tmp_path / "curves" / manifest.project).iterdir()
    assert folder.name.endswith(manifest.hash[:8])
    assert scalars(folder) == {
        "train/loss": [(1, 1.5), (2, 1.25)],
        "train/learning_rate": [(1, pytest.approx(1e-3)), (2, pytest.approx(2e-3))],
        "val/miou": [(2, 0.5)],
        "val/pixel_accuracy": [(2, 0.75)],
        "iou/Red": [(2, 0.25)],
    }
    for name in ("train_lr", "recipe", "quick"):
        assert name in plugins(folder)
    assert "segloop_route" not in plugins(folder)


def test_a_run_that_is_gone_on_from_stays_one_run(container: Container, manifest: Manifest, tmp_path: Path) -> None:
    for step in (1, 2):
        with tracking.tracking(settings(tmp_path), container, manifest) as tracker:
            tracker.step(step, 1.0, 1e-3)
    [folder] = (tmp_path / "curves" / manifest.project).iterdir()
    assert [step for step, _ in scalars(folder)["train/loss"]] == [1, 2]


def test_without_the_extra_the_training_goes_on(
    container: Container,
    manifest: Manifest,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(tracking, "find_spec", lambda name: None)
    with caplog.at_level(logging.WARNING), tracking.tracking(settings(tmp_path), container, manifest) as tracker:
        assert isinstance(tracker, NoTracker)
    assert "segloop[tensorboard]" in caplog.text


def test_a_run_without_a_step_writes_nothing(tmp_path: Path) -> None:
    TensorBoard(tmp_path / "none", {}).close()
    assert not (tmp_path / "none").exists()
