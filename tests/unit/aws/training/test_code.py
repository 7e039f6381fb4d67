"""The code channel of SageMaker's trainings and its entry: what is uploaded, installed and run."""

from __future__ import annotations

import hashlib
import json
import signal
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from segloop.aws.training import entry
from segloop.aws.training.code import REQUIREMENTS, code_files, requirements_of
from segloop.aws.uploads import Folder
from tests.snapshots import write_base
from tests.waiting import PATIENCE_S

ROOT = Path(__file__).parents[4]


def test_the_requirements_are_the_locks() -> None:
    lock = (ROOT / "requirements.lock").read_text("utf-8")
    assert REQUIREMENTS.read_text("utf-8") == requirements_of(lock), "run make lock"
    assert "--hash=sha256:" in REQUIREMENTS.read_text("utf-8")


def test_the_code_is_the_same_every_time(tmp_path: Path) -> None:
    first, second = code_files(tmp_path / "a"), code_files(tmp_path / "b")
    assert first["segloop.zip"].read_bytes() == second["segloop.zip"].read_bytes()
    assert set(first) == {"train.py", "requirements.txt", "segloop.zip"}
    assert Folder("code", first, "train.py").last in first


def test_what_is_installed_is_not_installed_again() -> None:
    text = f"pytest=={pytest.__version__} \\\n    --hash=sha256:00\nno-such-thing==1.0 \\\n    --hash=sha256:11\npydantic==0.0.1 ; python_version < '9' \\\n    --hash=sha256:22\n"
    left = entry.lacking(text)
    assert "pytest" not in left
    assert "no-such-thing==1.0" in left
    assert "--hash=sha256:22" in left
    assert entry.lacking(REQUIREMENTS.read_text("utf-8")) == ""


@pytest.mark.slow
def test_what_cannot_be_installed_is_told(tmp_path: Path) -> None:
    wheels = tmp_path / "wheels"
    wheels.mkdir()
    requirements = tmp_path / "requirements.txt"
    requirements.write_text(f"no-such-thing==1.0 --hash=sha256:{'0' * 64}\n", "utf-8")
    target = tmp_path / "target"
    target.mkdir()
    assert "no-such-thing==1.0" in entry.install(requirements, target, wheels)


@pytest.mark.slow
def test_wheels_are_installed_offline(tmp_path: Path) -> None:
    wheels = tmp_path / "wheels"
    wheels.mkdir()
    wheel = wheels / "tinything-1.0-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as file:
        file.writestr("tinything.py", "VALUE = 7\n")
        file.writestr("tinything-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: tinything\nVersion: 1.0\n")
        file.writestr("tinything-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        file.writestr("tinything-1.0.dist-info/RECORD", "tinything.py,,\ntinything-1.0.dist-info/METADATA,,\n")
    requirements = tmp_path / "requirements.txt"
    sha256 = hashlib.sha256(wheel.read_bytes()).hexdigest()
    requirements.write_text(f"tinything==1.0 --hash=sha256:{sha256}\n", "utf-8")
    target = tmp_path / "target"
    target.mkdir()
    assert entry.install(requirements, target, wheels) == ""
    assert (target / "tinything.py").read_text("utf-8") == "VALUE = 7\n"


def test_one_process_trains_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(entry, "BASE", write_base(tmp_path))
    monkeypatch.setattr(entry, "_gpus", lambda: 1)
    assert entry.command() == [sys.executable, "-m", "segloop.training", "--base", str(tmp_path)]


@pytest.mark.parametrize(("recipe", "torchrun"), [("full", True), ("quick", False)])
def test_hosts_and_gpus_train_by_torchrun(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, recipe: str, torchrun: bool
) -> None:
    monkeypatch.setattr(entry, "BASE", write_base(tmp_path, recipe=recipe))
    monkeypatch.setattr(entry, "_gpus", lambda: 4)
    hosts = {"current_host": "algo-2", "hosts": ["algo-2", "algo-1"]}
    (tmp_path / "input/config/resourceconfig.json").write_text(json.dumps(hosts), "utf-8")
    command = entry.command()
    assert ("torch.distributed.run" in command) == torchrun
    if torchrun:
        assert {"--nnodes=2", "--node-rank=1", "--nproc-per-node=4", "--master-addr=algo-1"} <= set(command)


@pytest.mark.slow
def test_sigterm_is_passed_on(tmp_path: Path) -> None:
    """The training gets the signal, its exit status is the container's, and the last progress is printed."""
    child = "import signal, sys, time; signal.signal(signal.SIGTERM, lambda *_: sys.exit(7)); print('ready', flush=True); time.sleep(60)"
    progress = tmp_path / "output" / "data" / "progress.jsonl"
    progress.parent.mkdir(parents=True)
    progress.write_text('{"phase": "training", "step": 5}\n{"phase": "evaluating", "step": 1}\n', "utf-8")
    program = (
        "import os, sys; from pathlib import Path; from segloop.aws.training import entry; "
        f"entry.BASE = Path({str(tmp_path)!r}); sys.exit(entry.run([sys.executable, '-c', {child!r}], dict(os.environ)))"
    )
    with subprocess.Popen([sys.executable, "-c", program], cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        process.send_signal(signal.SIGTERM)
        out = process.stdout.read()
        assert process.wait(PATIENCE_S) == 7
    assert f'{entry.PROGRESS} {{"phase": "training", "step": 5}}' in out
