"""Training on this machine: `python -m segloop.training` as a child that ends with its parent."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import IO, Literal

from segloop.errors import DiskFull, TrainingError
from segloop.formats import VERSION_FILE, WEIGHTS_FILE
from segloop.metrics.curves import ProgressFile
from segloop.processes import die_with_parent, lock_file, terminate
from segloop.trainers.base import Run, RunStatus

#: Serving stays responsive beside training.
NICENESS = 10
#: Time that a stopped training has to save its checkpoint, in seconds.
STOP_S = 15.0


class LocalTrainer:
    """Trains in `run.folder/base`, one child process per run; its output goes to this process's stderr and `train.log`."""

    poll_later_s: float | None = None

    def __init__(self, command: tuple[str, ...] = (sys.executable, "-m", "segloop.training")) -> None:
        self._command = command
        self._running: dict[str, subprocess.Popen[bytes]] = {}
        self._progress: dict[str, ProgressFile] = {}

    def fetch_snapshot(self, digest: str, folder: Path) -> bool:
        """There is none: nothing of a run leaves its machine."""
        return False

    def submit(self, run: Run) -> None:
        """Start the run, or go on from its checkpoints.

        Raises:
            TrainingError: another process still trains in the run's folder.
        """
        base = _base(run)
        # A training whose worker was killed may live for a moment yet.
        lock = lock_file(base / "lock")
        try:
            if _is_finished(base):
                return
            _prepare(base, run)
            self._running[run.id] = self._start(base, lock)
        finally:
            os.close(lock)

    def poll(self, run: Run) -> RunStatus:
        """How the run is, from its exit status and its files.

        Raises:
            DiskFull: it ended because the disk is, or was, full; submitted again, it goes on from its checkpoints.
        """
        base = _base(run)
        process = self._running.get(run.id)
        code = process.poll() if process is not None else None
        if process is not None and code is None:
            return self._status("running", run)
        if _is_finished(base):
            return self._status("finished", run)
        DiskFull.check(base)  # whatever it says that it ended for
        if code == DiskFull.EXIT_STATUS:
            raise DiskFull(base, os.strerror(errno.ENOSPC))
        failure = base / "output" / "failure"
        if failure.is_file():
            return RunStatus("failed", reason=failure.read_text(encoding="utf-8", errors="replace").strip()[-2000:])
        if code is not None and code > 0 and code != 128 + signal.SIGTERM:
            return RunStatus("failed", reason=f"The training ended with status {code}: see {base / 'train.log'}.")
        return RunStatus("lost", reason=f"The training ended unfinished (status {code}); out of memory?")

    def collect(self, run: Run) -> Path:
        """The run's own bundle folder. Its checkpoints, three times as large, have served their purpose, and go.

        Raises:
            TrainingError: it is not finished.
        """
        if not _is_finished(_base(run)):
            raise TrainingError(f"Run {run.id} has no trained bundle.")
        shutil.rmtree(_base(run) / "checkpoints", ignore_errors=True)
        return _base(run) / "model"

    def stop(self, run: Run) -> None:
        """Ask the training to save and exit; kill it if it does not."""
        process = self._running.pop(run.id, None)
        if process is not None:
            terminate(process, STOP_S)

    def _status(self, state: Literal["running", "finished"], run: Run) -> RunStatus:
        file = self._progress.setdefault(run.id, ProgressFile(_base(run) / "output" / "data" / "progress.jsonl"))
        file.read()
        return RunStatus(state, file.last, curves=file.curves.as_dict())

    def _start(self, base: Path, lock: int) -> subprocess.Popen[bytes]:
        worker = os.getpid()

        def in_child() -> None:
            die_with_parent(signal.SIGKILL, worker)
            os.setpriority(os.PRIO_PROCESS, 0, NICENESS)

        # preexec_fn, for nothing else sets the parent-death signal before any code of the child can run;
        # a job's process has one thread at this point.
        process = subprocess.Popen(
            [*self._command, "--base", str(base)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            preexec_fn=in_child,
            pass_fds=(lock,),
        )
        threading.Thread(target=_tee, args=(process.stdout, base / "train.log"), daemon=True).start()
        return process


def _base(run: Run) -> Path:
    return run.folder / "base"


def _is_finished(base: Path) -> bool:
    return (base / "model" / VERSION_FILE).is_file() and (base / "model" / WEIGHTS_FILE).is_file()


def _prepare(base: Path, run: Run) -> None:
    config = base / "input" / "config"
    data = base / "input" / "data"
    for folder in (config, data, base / "output" / "data", base / "checkpoints", base / "model"):
        folder.mkdir(parents=True, exist_ok=True)
    (base / "output" / "failure").unlink(missing_ok=True)
    (config / "hyperparameters.json").write_text(json.dumps(dict(run.hyperparameters), indent=1), encoding="utf-8")
    _link(data / "snapshot", run.snapshot)
    if run.champion is not None:
        _link(data / "model", run.champion)


def _link(link: Path, target: Path) -> None:
    """Point at a folder; a link left by an earlier start of the run is replaced."""
    if link.is_symlink():
        link.unlink()
    elif link.exists():
        shutil.rmtree(link)
    link.symlink_to(target.absolute(), target_is_directory=True)


def _tee(pipe: IO[bytes], log: Path) -> None:
    with pipe, log.open("ab", buffering=0) as file:
        while chunk := os.read(pipe.fileno(), 65536):
            with contextlib.suppress(OSError):  # a full disk: what it prints still has to be read
                file.write(chunk)
            sys.stderr.buffer.write(chunk)
            sys.stderr.buffer.flush()
