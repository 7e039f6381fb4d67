"""A real Valkey for tests: on a socket of its own, persistent if asked, killable."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path

from redis import Redis
from redis.exceptions import RedisError

from segloop.settings import Settings
from segloop.supervisor import valkey_command
from tests.waiting import until


class Valkey:
    """A Valkey server in a folder; its data survives `kill` and `start`, as the embedded one's does."""

    def __init__(self, folder: Path) -> None:
        self.settings = Settings(data_dir=folder, redis_url="")
        self.url = self.settings.queue_url
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> Valkey:
        command = valkey_command(self.settings)
        self._process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        until(self._answers, "Valkey's answer")
        return self

    def _answers(self) -> bool:
        try:
            with Redis.from_url(self.url) as client:
                return bool(client.ping())
        except RedisError:
            return False

    def kill(self) -> None:
        assert self._process is not None
        os.kill(self._process.pid, signal.SIGKILL)
        self._process.wait()

    def stop(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
