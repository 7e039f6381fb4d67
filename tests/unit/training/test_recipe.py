"""How a run keeps its time, when it evaluates, saves and stops, and what a killed one loses."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time

import pytest
import torch
from safetensors.torch import load_file

from segloop.training import Container, train
from segloop.training.finishing import steps_to_finish
from segloop.training.learner import COMPILE_STEPS, Learner, computes_bfloat16, is_compiled
from segloop.training.run import COOLDOWN, EVALUATIONS, PATIENT_EVALUATIONS, Clock, Run
from tests.painted import CLASSES, examples, hyperparameters
from tests.snapshots import write_base, write_snapshot

CPU = torch.device("cpu")


class FakeTime:
    """A clock that stands still but when it is moved."""

    def __init__(self):
        self.s = 1000.0

    def __call__(self):
        return self.s


def a_run(now=None, *, steps=1000, budget_s=0.0, **values):
    return Run(None, None, CPU, steps, 10, budget_s, 0, torch.ones(2), clock=Clock(now or FakeTime()), **values)


# -- the wall-clock budget


class TimedContainer(Container):
    """A container in which a training step takes 10 s and each held-out image 5 s, by a fake clock."""

    def __init__(self, base, now):
        super().__init__(base)
        self.now = now

    def report(self, progress):
        super().report(progress)
        if "step" in progress:
            self.now.s += 10 if progress["phase"] == "training" else 5


@pytest.mark.slow
def test_the_budget_holds_evaluations_too(tmp_path):
    held_out = 12
    write_snapshot(tmp_path / "input/data/snapshot", CLASSES, examples(4, held_out))
    write_base(tmp_path, **hyperparameters(train_min_steps=10_000, train_minutes=4))
    now = FakeTime()
    recipe = train(TimedContainer(tmp_path, now), now=now).recipe
    # the time for finishing is kept back too, and it takes none here
    kept_s = 10 * steps_to_finish(4, 2)
    assert 4 * 60 - kept_s - 10 <= now.s - 1000 <= 4 * 60 + 10
    # one evaluation of 60 s is a quarter of the budget: only the last is made
    assert recipe.steps == pytest.approx((240 - 5 * held_out - kept_s) / 10, abs=1)


def test_preparation_is_within_the_budget():
    now = FakeTime()
    run = a_run(now, budget_s=100)
    now.s += 30
    assert run.done == pytest.approx(0.3)


def test_time_for_the_last_evaluation_is_kept_back():
    now = FakeTime()
    run = a_run(now, budget_s=100, evaluation_steps=4)
    now.s += 10
    run.begin()
    now.s += 10
    run.step = 2
    assert run.reserve_s == 20  # 4 steps of 5 s
    assert run.done == pytest.approx(20 / 80)
    run.note(0.5, 36.0)
    assert run.reserve_s == 36
    assert run.done == pytest.approx(20 / 64)
    run.note(0.5, 90.0)
    assert run.done == pytest.approx(20 / 50)  # never more than half


def test_progress_is_by_what_ends_the_run():
    now = FakeTime()
    run = a_run(now, budget_s=100)
    assert run.expected_steps == 1000
    now.s += 20
    run.step = 10
    assert run.expected_steps == 50  # the budget allows no more
    run.step = 300
    assert run.expected_steps == 1000
    run.last_step = 600
    assert run.expected_steps == 600


def test_a_dear_evaluation_is_left_out_under_a_budget():
    run = a_run(budget_s=100)
    run.step = 300
    run.evaluation_s = 6.0
    assert not run.is_evaluation_due()
    run.step, run.evaluation_s = 550, 4.0
    assert run.is_evaluation_due()
    assert not run.is_evaluation_due()  # made


@pytest.mark.parametrize(("seconds", "patience", "due"), [(4.0, 0, True), (6.0, 0, False), (6.0, 3, True)])
def test_a_run_without_a_budget_spends_little_on_evaluations_too(seconds, patience, due):
    now = FakeTime()
    run = a_run(now, patience=patience)
    now.s += 50
    run.step, run.evaluation_s = 500, seconds
    assert run.is_evaluation_due() == due


# -- evaluations and patience


@pytest.mark.parametrize(("patience", "evaluations"), [(0, EVALUATIONS), (3, PATIENT_EVALUATIONS)])
def test_evaluations_are_evenly_spread_and_the_last_is_the_result(patience, evaluations):
    run = a_run(patience=patience)
    made = []
    for run.step in range(10, 1001, 10):
        if run.is_evaluation_due():
            made.append(run.step)
    assert len(made) == evaluations - 1
    assert made == [1000 * place // evaluations for place in range(1, evaluations)]


def test_a_run_without_a_rise_goes_over_to_its_end():
    run = a_run(patience=2)
    for run.step, miou in ((100, 0.3), (200, None), (300, 0.4), (350, 0.4)):
        run.note(miou, 1.0)
        assert run.last_step is None
    run.step = 400
    run.note(0.39, 1.0)
    assert run.last_step == 500
    assert run.done == pytest.approx(1 - COOLDOWN)
    run.step = 450
    run.note(0.1, 1.0)
    assert run.last_step == 500  # once


def test_nothing_is_stopped_that_ends_soon():
    run = a_run(patience=1)
    run.step = 900
    run.note(None, 1.0)
    assert run.last_step is None


@pytest.mark.slow
def test_a_patient_run_stops_early(tmp_path):
    write_snapshot(tmp_path / "input/data/snapshot", CLASSES, examples(4, 1))
    # so low a rate moves nothing
    write_base(tmp_path, **hyperparameters(train_min_steps=40, train_patience=1, train_lr=1e-12))
    info = train(Container(tmp_path))
    assert info.recipe.steps < 40


# -- checkpoints


@pytest.mark.parametrize(
    ("cost_s", "since_s", "due"),
    [(0.0, 0.1, True), (1.0, 19.0, False), (1.0, 21.0, True), (30.0, 59.0, False), (30.0, 61.0, True)],
)
def test_a_dear_checkpoint_waits_but_never_longer_than_a_minute(cost_s, since_s, due):
    now = FakeTime()
    run = a_run(now, checkpoint_s=cost_s)
    now.s += since_s
    assert run.is_checkpoint_due == due


@pytest.mark.slow
def test_a_killed_run_ends_with_the_same_weights(tmp_path):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    for base in (whole, killed):
        write_snapshot(base / "input/data/snapshot", CLASSES, examples(4, 1))
        write_base(base, **hyperparameters(train_min_steps=12))
    # processes of their own: with another number of threads sums are of another order
    command = [sys.executable, "-m", "segloop.training", "--base"]
    checkpoint = killed / "checkpoints/checkpoint.pt"
    with subprocess.Popen([*command, str(killed)], stderr=subprocess.DEVNULL) as process:
        deadline = time.monotonic() + 100
        while not checkpoint.exists() and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.02)
        process.kill()
        assert process.wait() == -signal.SIGKILL
    assert not (killed / "model").exists()
    assert torch.load(checkpoint, weights_only=True)["step"] in (2, 4, 6, 8, 10)  # ends of epochs
    for base in (killed, whole):
        subprocess.run([*command, str(base)], stderr=subprocess.DEVNULL, check=True)
    ours, theirs = (load_file(base / "model/model.safetensors") for base in (killed, whole))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    metrics = [json.loads((base / "model/version.json").read_text())["metrics"] for base in (killed, whole)]
    assert metrics[0] == metrics[1]


# -- precision and compilation


@pytest.mark.parametrize(("precision", "expected"), [("bfloat16", True), ("float32", False)])
def test_the_precision_is_as_told(settings, precision, expected):
    told = settings.model_copy(update={"train_precision": precision})
    assert computes_bfloat16(told, CPU) is expected


@pytest.mark.parametrize(
    ("told", "device", "steps", "expected"),
    [
        ("on", "cpu", 1, True),
        ("off", "cuda", 10**6, False),
        ("auto", "cpu", 10**6, False),
        ("auto", "cuda", COMPILE_STEPS - 1, False),
        ("auto", "cuda", COMPILE_STEPS, True),
    ],
)
def test_compilation_is_for_long_runs_on_a_gpu(settings, told, device, steps, expected):
    assert is_compiled(settings.model_copy(update={"train_compile": told}), torch.device(device), steps) is expected


class OnePixel(torch.nn.Module):
    """Stands for a network: logits that are a linear map of each pixel."""

    def __init__(self):
        super().__init__()
        self.linear = torch.nn.Conv2d(3, 2, 1)

    def forward(self, images):
        return self.linear(images)


@pytest.mark.parametrize(("bfloat16", "dtype"), [(True, torch.bfloat16), (False, torch.float32)])
def test_steps_compute_in_the_precision_and_lose_in_float32(bfloat16, dtype):
    seen = []
    network = OnePixel()
    network.linear.register_forward_hook(lambda _module, _inputs, output: seen.append(output.dtype))
    learner = Learner(network, torch.ones(2), bfloat16=bfloat16)
    loss = learner(torch.ones(1, 3, 4, 4), torch.zeros(1, 4, 4, dtype=torch.int64), torch.tensor(16.0))
    assert (seen, loss.dtype) == ([dtype], torch.float32)
