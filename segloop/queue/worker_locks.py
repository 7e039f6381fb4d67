"""Which workers of one machine live: the kernel opens the lock of one that dies, however it dies."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

from segloop.processes import try_lock_file


class WorkerLocks:
    """A folder in which each live worker holds a lock on a file of its own."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def register(self) -> tuple[str, int]:
        """A new worker's name (host.pid.random), and the descriptor that holds its lock; the job's process inherits it."""
        name = f"{socket.gethostname()}.{os.getpid()}.{uuid4().hex[:6]}"
        pending = self._folder / f".{name}"
        descriptor = try_lock_file(pending)
        assert descriptor is not None  # noqa: S101 - nobody else has this name
        # it becomes visible with its lock held: without, another worker could take it for a dead one's
        pending.replace(self._path(name))
        return name, descriptor

    def is_dead(self, name: str) -> bool | None:
        """Whether a worker is dead; None if it never ran on this machine."""
        path = self._path(name)
        if not path.exists():
            return None
        descriptor = try_lock_file(path)
        if descriptor is None:
            return False
        os.close(descriptor)
        return True

    def dead(self) -> Iterator[str]:
        """The names of dead workers."""
        for path in self._folder.glob("*.lock"):
            if self.is_dead(path.stem):
                yield path.stem

    def forget(self, name: str) -> None:
        """Remove the lock of a dead worker."""
        self._path(name).unlink(missing_ok=True)

    def _path(self, name: str) -> Path:
        return self._folder / f"{name}.lock"
