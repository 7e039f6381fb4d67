"""The local trainer with real child processes: progress, failure, kills, and no child without a parent."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from segloop.errors import TrainingError
from segloop.trainers.base import Run, RunStatus
from segloop.trainers.local import LocalTrainer
from tests.waiting import until

TESTS = Path(__file__).resolve().parents[1]
COMMAND = (sys.executable, str(TESTS / "tiny_training.py"))


def run_of(tmp_path: Path, **hyperparameters: str) -> Run:
    snapshot = tmp_path / "snapshot"
    snapshot.mkdir(exist_ok=True)
    champion = tmp_path / "champion"
    champion.mkdir(exist_ok=True)
    return Run("retrain-1", tmp_path, snapshot, champion, {"train_epochs": "3", **hyperparameters})


def finish(trainer: LocalTrainer, run: Run) -> RunStatus:
    until(lambda: trainer.poll(run).state != "running")
    return trainer.poll(run)


def child(run: Run) -> int:
    """Pid of the training, by its command line."""
    for folder in Path("/proc").iterdir():
        if folder.name.isdecimal():
            try:
                if str(run.folder / "base").encode() in (folder / "cmdline").read_bytes():
                    return int(folder.name)
            except OSError:
                continue
    return 0


def test_trains_and_collects(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    trainer, run = LocalTrainer(COMMAND), run_of(tmp_path)
    with pytest.raises(TrainingError):
        trainer.collect(run)
    trainer.submit(run)
    assert os.getpriority(os.PRIO_PROCESS, child(run)) == 10
    status = finish(trainer, run)
    assert status == RunStatus("finished", {"epoch": 3})
    assert (tmp_path / "base/checkpoints").is_dir()
    assert (trainer.collect(run) / "model.safetensors").read_bytes() == b"weights"
    assert not (tmp_path / "base/checkpoints").exists(), "three times the size of the model, and of no use any more"
    data = tmp_path / "base" / "input" / "data"
    assert (data / "snapshot").resolve() == run.snapshot
    assert (data / "model").resolve() == run.champion
    until(lambda: "epoch 0 begins" in (tmp_path / "base" / "train.log").read_text(encoding="utf-8"))
    assert "epoch 0 begins" in capfd.readouterr().err


@pytest.mark.slow
def test_a_finished_run_is_not_trained_again(tmp_path: Path) -> None:
    run = run_of(tmp_path)
    first = LocalTrainer(COMMAND)
    first.submit(run)
    finish(first, run)
    second = LocalTrainer(("false",))
    second.submit(run)
    assert second.poll(run).state == "finished"


@pytest.mark.slow
def test_failure_gives_the_reason(tmp_path: Path) -> None:
    trainer, run = LocalTrainer(COMMAND), run_of(tmp_path, fails="1")
    trainer.submit(run)
    assert finish(trainer, run) == RunStatus("failed", reason="It cannot learn.")


@pytest.mark.slow
def test_a_crash_names_the_log(tmp_path: Path) -> None:
    trainer, run = LocalTrainer(COMMAND), run_of(tmp_path, crashes="1")
    trainer.submit(run)
    status = finish(trainer, run)
    assert status.state == "failed"
    assert "train.log" in status.reason


@pytest.mark.slow
def test_a_killed_training_is_lost_and_goes_on_from_its_checkpoint(tmp_path: Path) -> None:
    trainer, run = LocalTrainer(COMMAND), run_of(tmp_path, train_epochs="40")
    trainer.submit(run)
    until(lambda: ((trainer.poll(run).progress) or {}).get("epoch", 0) > 2)
    os.kill(child(run), signal.SIGKILL)
    assert finish(trainer, run).state == "lost"
    trainer.submit(run)
    assert finish(trainer, run).state == "finished"
    begins = (tmp_path / "base" / "train.log").read_text(encoding="utf-8").splitlines()
    assert begins[0] == "epoch 0 begins"
    assert begins[1] != "epoch 0 begins"
    assert (tmp_path / "base/output/data/progress.jsonl").read_text(encoding="utf-8").count("\n") == 40


def test_stop_lets_it_save(tmp_path: Path) -> None:
    trainer, run = LocalTrainer(COMMAND), run_of(tmp_path, train_epochs="1000")
    trainer.submit(run)
    until(lambda: trainer.poll(run).progress is not None)
    trainer.stop(run)
    assert child(run) == 0
    assert int((tmp_path / "base/checkpoints/epoch").read_text(encoding="utf-8")) >= 1
    assert trainer.poll(run).state == "lost"
    trainer.stop(run)


@pytest.mark.slow
def test_training_dies_with_its_worker_and_the_next_takes_over(tmp_path: Path) -> None:
    program = (
        "import sys, time; from pathlib import Path; "
        "from segloop.trainers.base import Run; from segloop.trainers.local import LocalTrainer; "
        "folder = Path(sys.argv[1]); "
        "run = Run('retrain-1', folder, folder / 'snapshot', None, {'train_epochs': '200'}); "
        "trainer = LocalTrainer(tuple(sys.argv[2:])); trainer.submit(run); time.sleep(600)"
    )
    run = run_of(tmp_path, train_epochs="200")
    worker = subprocess.Popen([sys.executable, "-c", program, str(tmp_path), *COMMAND], cwd=TESTS.parent)
    progress = tmp_path / "base" / "output" / "data" / "progress.jsonl"
    until(progress.exists)
    training = child(run)
    worker.kill()
    worker.wait()
    trainer = LocalTrainer(COMMAND)
    trainer.submit(run)
    assert child(run) != training
    trainer.stop(run)
    assert "epoch 0 begins" not in (tmp_path / "base" / "train.log").read_text(encoding="utf-8").splitlines()[1:]
