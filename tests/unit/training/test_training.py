"""The training recipe on images that a real network learns in seconds: loss, stages, resuming, metrics, failures."""

from __future__ import annotations

import json
import math
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from segloop.dataset import load_manifest
from segloop.errors import SettingsError
from segloop.formats import IGNORED
from segloop.network.network import load_bundle, save_bundle
from segloop.policy import Evidence
from segloop.registry.gallery import read_index
from segloop.training import Container, Network, compare, evaluate, main, recipe, train
from segloop.training.command import TERMINATED
from segloop.training.examples import Stage
from segloop.training.learner import criterion
from segloop.training.recipe import (
    PRETRAINED_BACKBONE_RATE,
    TerminatedError,
    backbone_rate_of,
    learning_rate,
    train_one_epoch,
)
from segloop.versions import Metrics, RecipeInfo
from tests.curves import scalars
from tests.painted import CLASSES, examples, hyperparameters
from tests.snapshots import write_base, write_snapshot
from worker.jobs.context import compare_bundles

pytestmark = pytest.mark.slow

CPU = torch.device("cpu")


@pytest.fixture
def base(tmp_path):
    """A container with a snapshot and hyperparameters for two steps."""
    write_snapshot(tmp_path / "input/data/snapshot", CLASSES, examples())
    return write_base(tmp_path, **hyperparameters())


@pytest.fixture(scope="module")
def learned(tmp_path_factory):
    """A container whose training has ended well."""
    base = tmp_path_factory.mktemp("learned")
    write_snapshot(base / "input/data/snapshot", CLASSES, examples())
    # with patience, even a run of seconds is measured on the way
    write_base(base, **hyperparameters(train_min_steps=12, train_patience=20))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SEGLOOP_TENSORBOARD_DIR", str(base / "curves"))
        assert main(["--base", str(base)]) == 0
    return base


# -- loss and schedule


def test_criterion_by_hand():
    logits = torch.zeros(1, 2, 1, 2)
    logits[0, 1] = math.log(3)  # class 1 with probability 3/4, class 0 with 1/4
    weights = torch.tensor([2.0, 1.0])
    both = criterion(logits, torch.tensor([[[0, 1]]]), weights)
    assert both.item() == pytest.approx((2 * math.log(4) + math.log(4 / 3)) / 3)
    assert criterion(logits, torch.tensor([[[IGNORED, 1]]]), weights).item() == pytest.approx(math.log(4 / 3))


def test_nothing_but_ignored_pixels_costs_nothing():
    logits = torch.ones(1, 2, 2, 2, requires_grad=True)
    loss = criterion(logits, torch.full((1, 4, 4), IGNORED), torch.ones(2))
    loss.backward()
    assert loss.item() == 0
    assert logits.grad.abs().sum() == 0


def test_the_learning_rate_rises_and_falls_to_zero():
    rates = [learning_rate(0.01, done) for done in np.linspace(0, 1, 101)]
    assert 0 < rates[0] < 0.001
    assert max(rates) == rates[5] == pytest.approx(0.01 * 0.95**0.9)
    assert rates[5:] == sorted(rates[5:], reverse=True)
    assert rates[100] == 0


# -- a run


def test_a_run_passes_through_its_stages(base, monkeypatch):
    write_base(base, **hyperparameters(train_min_steps=6))
    shapes = []

    def noted(run, learner, batches, *others):
        def shown():
            for images, target in batches:
                shapes.append(tuple(images.shape[2:]))
                yield images, target

        train_one_epoch(run, learner, shown(), *others)

    monkeypatch.setattr(recipe, "train_one_epoch", noted)
    monkeypatch.setattr(recipe, "stages", lambda *_, **__: [Stage((32, 32), 0.5, until=0.5), Stage((64, 64))])
    assert main(["--base", str(base)]) == 0
    assert shapes == [(32, 32)] * 3 + [(64, 64)] * 3


def test_a_run_learns_and_writes_a_bundle(learned):
    info = json.loads((learned / "model/version.json").read_text())
    assert info["metrics"]["miou"] > 0.3
    assert info["metrics"]["tasks"] == 2
    assert info["classes"] == list(CLASSES)
    assert info["snapshot"] == load_manifest(learned / "input/data/snapshot").hash
    assert (info["arch"], info["output_stride"], info["input_size"]) == ("fpn_resnet50", 4, 64)
    assert info["recipe"]["steps"] == 12
    assert not (learned / "output/failure").exists()


def test_progress_tells_of_every_step(learned):
    lines = [json.loads(line) for line in (learned / "output/data/progress.jsonl").read_text().splitlines()]
    steps = [line for line in lines if line["phase"] == "training"]
    assert [line["step"] for line in steps] == list(range(1, 13))
    assert steps[-1]["epoch"] == steps[-1]["epochs"] == 4
    assert steps[-1]["eta_s"] == 0
    assert steps[-1]["miou"] > 0
    assert all(math.isfinite(line["loss"]) and line["eta_s"] >= 0 for line in steps)
    assert (lines[-2]["phase"], lines[-2]["step"], lines[-2]["steps"]) == ("evaluating", 2, 2)
    info = json.loads((learned / "model/version.json").read_text())
    assert (lines[-1]["phase"], lines[-1]["evaluated"]) == ("evaluated", info["metrics"]["miou"])
    assert info["curves"]["loss"] == [[line["step"], round(line["loss"], 5)] for line in steps]
    assert info["curves"]["miou"][-1] == [12, round(info["metrics"]["miou"], 5)]


def test_a_trainings_log_is_json_where_that_is_asked_for(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("SEGLOOP_LOG_FORMAT", "json")
    assert main(["--base", str(tmp_path)]) == 1
    [line] = capsys.readouterr().err.splitlines()
    assert "hyperparameters" in json.loads(line)["message"]


def test_tensorboard_has_the_curves(learned):
    curves = scalars(learned / "curves")
    metrics = json.loads((learned / "model/version.json").read_text())["metrics"]
    assert [step for step, _ in curves["train/loss"]] == list(range(1, 13))
    assert len(curves["train/learning_rate"]) == 12
    assert len(curves["val/miou"]) > 1
    assert curves["val/miou"][-1] == (12, pytest.approx(metrics["miou"]))
    assert {name: curves[f"iou/{name}"][-1][1] for name in CLASSES} == pytest.approx(metrics["iou"])


def test_evaluate_gives_the_metrics_of_the_run(learned):
    told = []
    info = json.loads((learned / "model/version.json").read_text())
    network = replace(Network.load(learned / "model", CPU), temperature=1.0)
    found = evaluate(network, learned / "input/data/snapshot", CLASSES, told.append)
    assert found.summary == Metrics.model_validate(info["metrics"])
    assert found.temperature == info["temperature"] > 0
    assert found.counts.shape == (2, 3, 3)
    assert [progress["step"] for progress in told] == [1, 2]


def test_confidence_is_at_the_temperature(learned):
    network = Network.load(learned / "model", CPU)
    cold, hot = (
        evaluate(replace(network, temperature=temperature), learned / "input/data/snapshot", CLASSES).summary
        for temperature in (0.1, 10.0)
    )
    assert cold.miou == hot.miou
    assert cold.calibration_error != hot.calibration_error


def test_candidate_and_champion_are_compared_on_the_same_tasks(learned, tmp_path):
    snapshot = learned / "input/data/snapshot"
    first = compare(learned / "model", None, snapshot, CPU)
    assert (first.champion_metrics, first.evidence) == (None, Evidence())
    twin = compare(learned / "model", learned / "model", snapshot, CPU, gallery=tmp_path / "gallery.zip")
    assert twin.metrics == first.metrics
    assert twin.champion_metrics == twin.metrics.model_copy(update={"confusion": None})
    assert np.sum(twin.metrics.confusion) == twin.metrics.pixels
    assert (twin.evidence.interval, twin.evidence.ahead) == ((0, 0, 0), 0), "a twin is never ahead"
    assert twin.evidence.new_classes == set()
    assert set(twin.evidence.class_intervals.values()) == {(0, 0, 0)}
    images = read_index(tmp_path / "gallery.zip").images
    assert len(images) == twin.metrics.tasks
    assert all(image.miou == image.champion_miou for image in images)


def test_the_classes_that_the_champion_lacks_are_new(learned, tmp_path):
    older = tmp_path / "older"
    shutil.copytree(learned / "model", older)
    info = json.loads((older / "version.json").read_text())
    (older / "version.json").write_text(json.dumps(info | {"classes": [CLASSES[0], "Renamed"]}))
    assert compare(learned / "model", older, learned / "input/data/snapshot", CPU).evidence.new_classes == {CLASSES[1]}


def test_a_bundle_gets_its_gallery_once(learned, tmp_path, settings):
    bundle = tmp_path / "bundle"
    shutil.copytree(learned / "model", bundle)
    compare_bundles(bundle, None, learned / "input/data/snapshot", settings)
    first = (bundle / "gallery.zip").read_bytes()
    assert not any(image.has_champion for image in read_index(bundle / "gallery.zip").images)
    compare_bundles(bundle, learned / "model", learned / "input/data/snapshot", settings)
    assert (bundle / "gallery.zip").read_bytes() == first, "a version's files never change"


def test_evaluate_takes_classes_by_name(learned, tmp_path):
    network, info = load_bundle(learned / "model")
    save_bundle(tmp_path / "renamed", network, info.model_copy(update={"classes": ("Red", "Green")}))
    snapshot = learned / "input/data/snapshot"
    iou = evaluate(Network.load(tmp_path / "renamed", CPU), snapshot, CLASSES).summary.iou
    own = evaluate(Network.load(learned / "model", CPU), snapshot, CLASSES).summary.iou
    assert iou["Red"] == pytest.approx(own["Red"])
    assert iou["Blue"] == 0  # what the bundle calls Green is none of ours: background


def test_empty_predictions_are_worth_nothing(learned):
    metrics = evaluate(None, learned / "input/data/snapshot", CLASSES).summary
    assert metrics.miou == 0
    assert metrics.iou == {"Red": 0, "Blue": 0}
    assert 0 < metrics.pixel_accuracy < 1


def test_a_run_begins_with_the_champion(learned, base):
    shutil.copytree(learned / "model", base / "input/data/model")
    write_base(base, **hyperparameters(train_lr=1e-6))
    assert main(["--base", str(base)]) == 0
    before, after = (load_file(folder / "model/model.safetensors") for folder in (learned, base))
    key = "classifier.last.weight"
    torch.testing.assert_close(after[key], before[key], rtol=1e-3, atol=1e-5)


def test_a_backbone_that_began_with_published_weights_moves_slower_in_later_trainings_too(learned, base, tmp_path):
    weights = str(learned / "model/model.safetensors")
    write_base(base, **hyperparameters(weights=weights))
    assert main(["--base", str(base)]) == 0
    later = tmp_path / "later"
    shutil.copytree(base / "input/data/snapshot", later / "input/data/snapshot")
    shutil.copytree(base / "model", later / "input/data/model")
    write_base(later, **hyperparameters(weights="none"))
    assert main(["--base", str(later)]) == 0
    recipes = [json.loads((folder / "model/version.json").read_text())["recipe"] for folder in (learned, base, later)]
    assert [recipe["backbone_rate"] for recipe in recipes] == [1.0, PRETRAINED_BACKBONE_RATE, PRETRAINED_BACKBONE_RATE]
    assert [recipe["learning_rate"] for recipe in recipes] == [1e-3, 5e-4, 5e-4], "random weights move faster"


@pytest.mark.parametrize(
    ("recipe", "rate"),
    [
        (RecipeInfo(backbone_rate=0.5, weights="coco"), 0.5),
        (RecipeInfo(weights="coco"), PRETRAINED_BACKBONE_RATE),
        (RecipeInfo(weights="none"), 1.0),
        (RecipeInfo(), 1.0),
    ],
)
def test_how_fast_a_champions_backbone_moves(recipe, rate):
    assert backbone_rate_of(recipe) == rate


def test_a_stopped_run_ends_as_if_it_had_not_been_stopped(tmp_path):
    whole, base = tmp_path / "whole", tmp_path / "stopped"
    for folder in (whole, base):
        write_snapshot(folder / "input/data/snapshot", CLASSES, examples(train=4, val=1))
        write_base(folder, **hyperparameters(train_min_steps=3))
    train(Container(whole))
    answers = iter([False, True])
    with pytest.raises(TerminatedError):
        train(Container(base), lambda: next(answers))
    assert (base / "checkpoints/checkpoint.pt").exists()
    assert not (base / "model").exists()
    info = train(Container(base))
    assert info.recipe.steps == 4  # two steps are a pass, and a run ends with a whole one
    one, other = (load_file(folder / "model/model.safetensors") for folder in (whole, base))
    assert all(torch.equal(one[key], other[key]) for key in one)
    lines = [json.loads(line) for line in (base / "output/data/progress.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if line["phase"] == "training"] == [1, 2, 3, 4]


def test_one_image_is_enough_to_begin(tmp_path):
    write_snapshot(tmp_path / "input/data/snapshot", CLASSES, examples(train=1, val=1))
    write_base(tmp_path, **hyperparameters(train_batch_size=4))
    assert main(["--base", str(tmp_path)]) == 0


# -- failures


def failure(base):
    return (base / "output/failure").read_text()


def test_a_missing_snapshot_is_the_reason(tmp_path):
    write_base(tmp_path, **hyperparameters())
    assert main(["--base", str(tmp_path)]) == 1
    assert "snapshot" in failure(tmp_path)


def test_an_unusable_hyperparameter_is_the_reason(base):
    write_base(base, **hyperparameters(train_lr="fast"), sagemaker_region="nowhere")
    assert main(["--base", str(base)]) == 1
    assert "SEGLOOP_TRAIN_LR is 'fast'" in failure(base)
    with pytest.raises(SettingsError, match="SEGLOOP_TRAIN_LR"):
        Container(base).settings()


def test_missing_hyperparameters_are_the_reason(base):
    shutil.rmtree(base / "input/config")
    assert main(["--base", str(base)]) == 1
    assert "hyperparameters" in failure(base)


def test_a_loss_that_diverges_is_the_reason(base):
    write_base(base, **hyperparameters(train_lr=1e20, train_min_steps=12))
    assert main(["--base", str(base)]) == 1
    assert "lower train_lr" in failure(base)


def test_a_broken_checkpoint_costs_time_only(base, caplog):
    (base / "checkpoints").mkdir()
    (base / "checkpoints/checkpoint.pt").write_bytes(b"x" * 64)
    assert main(["--base", str(base)]) == 0
    assert "cannot be read" in caplog.text


def test_a_checkpoint_of_another_network_is_the_reason(base):
    (base / "checkpoints").mkdir()
    torch.save({"network": {"weight": torch.zeros(1)}}, base / "checkpoints/checkpoint.pt")
    assert main(["--base", str(base)]) == 1
    assert "another network" in failure(base)


@pytest.mark.slow
def test_sigterm_saves_and_exits_and_the_next_start_goes_on(base):
    write_base(base, **hyperparameters(train_min_steps=100_000))
    command = [sys.executable, "-m", "segloop.training", "--base", str(base)]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as process:
        progress = base / "output/data/progress.jsonl"
        deadline = time.monotonic() + 100
        while not progress.exists() and time.monotonic() < deadline:
            time.sleep(0.1)
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == TERMINATED
    assert (base / "checkpoints/checkpoint.pt").exists()
    write_base(base, **hyperparameters())
    assert subprocess.run(command, stderr=subprocess.DEVNULL, timeout=100, check=False).returncode == 0
    assert json.loads((base / "model/version.json").read_text())["recipe"]["steps"] >= 1
