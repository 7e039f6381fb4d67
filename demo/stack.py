"""A running segloop: `segloop up` as a child process, with settings of its own."""

from __future__ import annotations

import contextlib
import os
import secrets
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import Any

import httpx

from demo.programs import free_port

UP = (sys.executable, "-m", "segloop.cli", "up")
#: Longest time that backend, workers and queue may take to answer, and to stop, in seconds.
START_S = 120.0
STOP_S = 40.0


class RunningSegloop:
    """`segloop up` on a free loopback port, with basic auth, a webhook secret and a data folder of its own.

    Keyword arguments are settings by their names: `RunningSegloop(folder, weights="none")`.
    """

    def __init__(self, folder: Path, **settings: Any) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.user, self.password, self.secret = "segloop", secrets.token_urlsafe(12), secrets.token_urlsafe(24)
        self.data_dir = folder / "data"
        self.log = folder / "segloop.log"
        own = {"data_dir": self.data_dir, "basic_auth_user": self.user, "basic_auth_pass": self.password}
        own |= {"webhook_secret": self.secret, "host": "127.0.0.1", "port": self.port, **settings}
        self.environment = clean_environment() | {f"SEGLOOP_{name.upper()}": str(value) for name, value in own.items()}
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> RunningSegloop:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def start(self) -> None:
        """Start, and wait until the backend answers."""
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                # it stops as Ctrl-C stops it, also when this process is killed
                [sys.executable, "-m", "segloop.processes", "SIGINT", str(self.log.with_suffix(".lock")), *UP],
                env=self.environment,
                cwd=self.log.parent,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        deadline = time.monotonic() + START_S
        while time.monotonic() < deadline:
            if self._process.poll() is not None:
                break
            with contextlib.suppress(httpx.HTTPError):
                if httpx.get(f"{self.url}/health", timeout=1).status_code == 200:
                    return
            time.sleep(0.2)
        self.stop()
        raise RuntimeError(f"segloop did not start; its log ends:\n{self.log.read_text(errors='replace')[-3000:]}")

    def stop(self) -> None:
        """Stop as Ctrl-C does, and be sure that nothing is left."""
        process, self._process = self._process, None
        if process is None:
            return
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(signal.SIGINT)
        try:
            process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()

    def client(self, **options: Any) -> httpx.Client:
        """A client with the backend's basic auth."""
        return httpx.Client(base_url=self.url, auth=(self.user, self.password), timeout=100, **options)


def clean_environment() -> dict[str, str]:
    """This process's environment without anybody's segloop or Label Studio settings."""
    foreign = ("SEGLOOP_", "LABEL_STUDIO_", "BASIC_AUTH_", "REDIS_URL", "PORT")
    return {name: value for name, value in os.environ.items() if not name.startswith(foreign)}
