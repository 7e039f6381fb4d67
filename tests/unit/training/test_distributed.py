"""Two processes by torchrun, on the CPU with gloo: they train one version together, and end together."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time

import pytest
import torch

from segloop.errors import SettingsError
from segloop.policy import should_promote
from segloop.training import Network, evaluate
from segloop.training.distributed import Team
from segloop.versions import read_version
from tests.painted import CLASSES, examples, hyperparameters
from tests.snapshots import write_base, write_snapshot


def torchrun(base):
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    return [*command, "-m", "segloop.training", "--base", str(base)]


def failure(base):
    return (base / "output/failure").read_text()


@pytest.fixture
def base(tmp_path):
    """A container for a run of two processes."""
    write_snapshot(tmp_path / "input/data/snapshot", CLASSES, examples(8, 2))
    return write_base(tmp_path, **hyperparameters(train_batch_size=4, train_precision="float32"))


def test_a_batch_that_cannot_be_shared_is_refused():
    team = Team(torch.device("cpu"), rank=0, size=3)
    assert team.share(6) == 2
    with pytest.raises(SettingsError, match="train_batch_size 4 can't be shared by 3 processes: use a multiple of 3"):
        team.share(4)
    with pytest.raises(SettingsError, match=r"leaves one image for each of 3 CPU processes.*use 6"):
        team.share(3)
    assert Team(torch.device("cuda"), rank=0, size=3).share(3) == 1  # SyncBatchNorm sees the whole batch
    assert Team(torch.device("cpu")).share(1) == 1


@pytest.mark.slow
def test_two_processes_train_a_version_that_is_promoted(base):
    write_base(base, **hyperparameters(train_batch_size=4, train_min_steps=16, train_precision="float32"))
    assert subprocess.run(torchrun(base), timeout=250, check=False).returncode == 0
    lines = [json.loads(line) for line in (base / "output/data/progress.jsonl").read_text().splitlines()]
    losses = [line["loss"] for line in lines if "loss" in line]
    assert len(losses) == 16  # the main process alone reports
    assert sum(losses[-4:]) < 0.7 * sum(losses[:4])
    info = read_version(base / "model")
    assert (info.recipe.processes, info.recipe.steps) == (2, 16)
    assert should_promote(info.metrics, None).act
    found = evaluate(Network.load(base / "model", torch.device("cpu")), base / "input/data/snapshot", CLASSES).summary
    assert found.miou == pytest.approx(info.metrics.miou, abs=1e-6)


@pytest.mark.slow
def test_a_process_that_fails_ends_all_with_its_reason(base):
    write_base(base, **hyperparameters(train_batch_size=3))
    result = subprocess.run(torchrun(base), timeout=250, check=False, capture_output=True)
    assert result.returncode != 0
    assert "train_batch_size 3 can't be shared by 2 processes" in failure(base)
    assert not (base / "model").exists()


def processes_of(base):
    """Ids of the running training processes of a container."""
    found = subprocess.run(
        ["pgrep", "-f", f"segloop.training --base {base}"], capture_output=True, text=True, check=False
    )
    return [int(line) for line in found.stdout.split()]


def running(base):
    """A run of two processes that has taken a step."""
    write_base(base, **hyperparameters(train_batch_size=4, train_min_steps=100_000))
    process = subprocess.Popen(torchrun(base), stderr=subprocess.DEVNULL)
    progress = base / "output/data/progress.jsonl"
    deadline = time.monotonic() + 200
    while not progress.exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.1)
    assert progress.exists()
    return process


@pytest.mark.slow
def test_sigterm_saves_and_ends_all(base):
    with running(base) as process:
        process.send_signal(signal.SIGTERM)
        assert process.wait(100) != 0
    assert (base / "checkpoints/checkpoint.pt").exists()
    assert not (base / "output/failure").exists()
    assert processes_of(base) == []


@pytest.mark.slow
def test_a_killed_process_ends_all_with_a_reason(base):
    with running(base) as process:
        os.kill(processes_of(base)[-1], signal.SIGKILL)
        assert process.wait(100) != 0
    assert failure(base)
    assert processes_of(base) == []
