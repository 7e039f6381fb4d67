"""Programs of other projects, each in a virtual environment of its own that this machine keeps, on loopback ports."""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import httpx

STOP_TIMEOUT_S: Final = 10.0
_POLL_S: Final = 0.2
# PR_SET_PDEATHSIG (1) outlives the exec; the parent may have died before it was set.
_DIE_WITH_PARENT: Final = (
    "import ctypes, os, signal, sys; "
    "ctypes.CDLL(None).prctl(1, signal.SIGKILL); "
    "os.getppid() == int(sys.argv[1]) or sys.exit(1); "
    "os.execv(sys.argv[2], sys.argv[2:])"
)


class ProgramFailed(Exception):
    """A program could not be installed or started; the text says what it wrote last."""


class Program:
    """A server on loopback that dies with the thread that started it.

    Args:
        name: as it is called in errors.
        command: the path of the program, and its arguments.
        environment: all of its environment: nothing is inherited.
        log: file that it writes to.
        failed: the error that is raised.
    """

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        *,
        environment: Mapping[str, str],
        folder: Path,
        log: Path,
        failed: type[ProgramFailed] = ProgramFailed,
    ) -> None:
        self._name, self._command, self._environment = name, command, environment
        self._folder, self._log, self._failed = folder, log, failed
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int | None:
        """Of the process, while it runs."""
        return None if self._process is None else self._process.pid

    def start(self, health: str, timeout_s: float, poll_s: float = _POLL_S) -> None:
        """Start it, and wait until it answers at `health`.

        Raises:
            ProgramFailed (`failed`): it ends, or does not answer in time.
        """
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-c", _DIE_WITH_PARENT, str(os.getpid()), *self._command],
                env=dict(self._environment),
                cwd=self._folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        deadline_s = time.monotonic() + timeout_s
        with httpx.Client(trust_env=False, timeout=5.0) as http:
            while not _answers(http, health):
                if self._process.poll() is not None:
                    raise self._failed(f"{self._name} ended at its start ({self._process.returncode}):\n{self._tail()}")
                if time.monotonic() > deadline_s:
                    raise self._failed(f"{self._name} did not start within {timeout_s:.0f} s:\n{self._tail()}")
                time.sleep(poll_s)

    def stop(self) -> None:
        """Stop it and whatever it started."""
        process, self._process = self._process, None
        if process is None:
            return
        for number in (signal.SIGTERM, signal.SIGKILL):
            try:
                # It leads a session of its own, so the group is its own process tree.
                os.killpg(process.pid, number)
                process.wait(STOP_TIMEOUT_S)
            except ProcessLookupError:
                break
            except subprocess.TimeoutExpired:
                continue
        process.wait()

    def _tail(self) -> str:
        return self._log.read_text(errors="replace")[-2000:]


def cache_folder(name: str) -> Path:
    """Where this machine keeps what a program needs; named after the program and its version."""
    return Path.home() / ".cache" / "segloop" / name


def installed(folder: Path, lock: Path, failed: type[ProgramFailed] = ProgramFailed) -> Path:
    """The virtual environment `venv` in a folder, made on demand from a lock file.

    Raises:
        ProgramFailed (`failed`): uv cannot make it.
    """
    venv = folder / "venv"
    stamp = venv / "segloop.lock.sha256"
    wanted = hashlib.sha256(lock.read_bytes()).hexdigest()
    with alone(folder, "venv"):
        # The interpreter is a link, which hangs in the air once its Python is gone.
        if (venv / "bin" / "python").exists() and stamp.is_file() and stamp.read_text() == wanted:
            return venv
        shutil.rmtree(venv, ignore_errors=True)
        _run(failed, "uv", "venv", "--quiet", "--python", sys.executable, str(venv))
        # Without --no-deps uv would resolve anew what the lock has decided.
        install = ("uv", "pip", "install", "--quiet", "--no-deps", "--require-hashes")
        _run(failed, *install, "--python", str(venv / "bin" / "python"), "--requirements", str(lock))
        stamp.write_text(wanted)
    return venv


@contextmanager
def alone(folder: Path, name: str) -> Iterator[None]:
    """Within this machine's lock `name` of a folder; the system frees it when its holder dies."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def free_port() -> int:
    """A port of loopback that nothing listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _answers(http: httpx.Client, url: str) -> bool:
    try:
        return http.get(url).is_success
    except httpx.TransportError:
        return False


def _run(failed: type[ProgramFailed], program: str, *arguments: str) -> None:
    beside = Path(sys.executable).parent / program
    path = shutil.which(program) or (str(beside) if beside.is_file() else None)
    if path is None:
        raise failed(f"{program} is not installed: `make` installs it into the virtual environment")
    done = subprocess.run([path, *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        raise failed(f"`{program} {' '.join(arguments)}` failed:\n{(done.stdout + done.stderr)[-2000:]}")
