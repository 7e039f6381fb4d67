"""Processes that end with their parent, however it dies. Run as a program, it starts a command that does:

python -m segloop.processes SIGNAL LOCK COMMAND...

The command gets SIGNAL when its parent dies, and holds a shared lock on the file LOCK for as long as it runs.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

from segloop.errors import SettingsError

_PR_SET_PDEATHSIG = 1


def die_with_parent(signum: int, parent_pid: int) -> None:
    """Have the kernel send this process `signum` when its parent dies; Linux only, elsewhere it does nothing.

    `parent_pid` is who the parent should be: one that is gone already gets its child killed now.
    The signal comes more than once where the parent has threads: its children are handed from one to the next.
    Source: prctl(2), PR_SET_PDEATHSIG; it survives exec, and is not inherited by children.
    """
    if sys.platform != "linux":
        return
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signum, 0, 0, 0)
    if os.getppid() != parent_pid:
        os.kill(os.getpid(), signum)


def at_end(*functions: Callable[[], object]) -> None:
    """Call functions one after another once this process's main thread has ended.

    Unlike `atexit`, which forked children of multiprocessing, such as granian's, leave out before Python 3.13.
    """

    def wait() -> None:
        threading.main_thread().join()
        for function in functions:
            function()

    # not a daemon: the interpreter waits for it
    threading.Thread(target=wait, name="at the end").start()


def terminate(process: subprocess.Popen[bytes], timeout_s: float) -> None:
    """Ask a child to end, and kill it if it has not within the time."""
    process.terminate()
    try:
        process.wait(timeout_s)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def lock_file(path: Path, *, shared: bool = False) -> int:
    """Lock a file, waiting for whoever holds it; held until the descriptor and every inherited copy of it is closed."""
    descriptor = _open(path)
    fcntl.flock(descriptor, fcntl.LOCK_SH if shared else fcntl.LOCK_EX)
    return descriptor


def try_lock_file(path: Path) -> int | None:
    """Lock a file as `lock_file` does, or give None if somebody holds it."""
    descriptor = _open(path)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    return descriptor


def data_folder(path: Path) -> Path:
    """Make a folder for data of this machine's, unless it is there; the folder.

    Raises:
        SettingsError: it cannot be made, or not be written to.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
        if not os.access(path, os.W_OK | os.X_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
    except OSError as error:
        raise SettingsError(
            f"the data folder {path} cannot be used: {error.strerror}. Set SEGLOOP_DATA_DIR to one that can."
        ) from error
    return path


def _open(path: Path) -> int:
    path.parent.mkdir(parents=True, exist_ok=True)
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)


def main(arguments: list[str]) -> None:
    """Replace this process by the command."""
    name, lock, *command = arguments
    die_with_parent(signal.Signals[name], os.getppid())
    descriptor = lock_file(Path(lock), shared=True)
    os.set_inheritable(descriptor, True)
    os.execvp(command[0], command)  # noqa: S606 - a command line of our own


if __name__ == "__main__":
    main(sys.argv[1:])
