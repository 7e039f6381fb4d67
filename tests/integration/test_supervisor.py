"""`segloop up` as a real process: started from elsewhere, killed in parts, stopped."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

from segloop import supervisor
from segloop.errors import SettingsError
from segloop.queue import Jobs
from segloop.settings import Settings, environment
from segloop.supervisor import _configuration, valkey_command
from tests.waiting import until
from worker.__main__ import run

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = "from segloop import supervisor; from segloop.settings import load_settings; supervisor.up(load_settings())"


class Up:
    """A running `segloop up` and what it printed."""

    def __init__(self, settings: Settings, cwd: Path, variables: dict[str, str]) -> None:
        self._socket = str(settings.valkey_socket)
        self.mark = f"SEGLOOP_TEST_MARK={os.getpid()}-{time.monotonic_ns()}"
        name, _, value = self.mark.partition("=")
        self.process = subprocess.Popen(
            [sys.executable, "-c", PROGRAM],
            env={**environment(settings), "PYTHONPATH": str(ROOT), name: value, **variables},
            cwd=cwd,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self.lines: list[str] = []
        self._reader = threading.Thread(target=lambda: self.lines.extend(self.process.stdout or ()))
        self._reader.start()

    @property
    def text(self) -> str:
        return "".join(self.lines)

    def family(self) -> dict[int, str]:
        """Command lines of every living process that this one brought forth."""
        found = {}
        for folder in Path("/proc").iterdir():
            if folder.name.isdecimal():
                try:
                    command = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode()
                    # Valkey writes its title over its environment.
                    marked = self.mark.encode() in (folder / "environ").read_bytes() or self._socket in command
                    if marked and command:
                        found[int(folder.name)] = command
                except OSError:
                    continue
        return found

    def pid_of(self, part: str) -> int | None:
        pids = [pid for pid, command in self.family().items() if part in command and "segloop.processes" not in command]
        return min(pids) if pids else None

    def wait(self, seconds: float = 40) -> int:
        code = self.process.wait(seconds)
        self._reader.join(10)
        self.process.stdout.close()  # type: ignore[union-attr]
        return code


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    return Settings(data_dir=tmp_path / "da ta", port=port, redis_url="", weights="none", label_studio_api_key="")


@pytest.fixture
def start(settings: Settings, tmp_path: Path) -> Iterator[Callable[..., Up]]:
    started: list[Up] = []

    def begin(**variables: str) -> Up:
        started.append(Up(settings, tmp_path, variables))
        return started[-1]

    yield begin
    for up in started:
        for pid in up.family():
            os.kill(pid, signal.SIGKILL)
        if up.process.poll() is None or not up.process.stdout.closed:  # type: ignore[union-attr]
            up.process.kill()
            up.wait()


def is_healthy(settings: Settings) -> bool:
    try:
        return httpx.get(f"http://127.0.0.1:{settings.port}/health", timeout=2, trust_env=False).is_success
    except httpx.HTTPError:
        return False


def redis_answers(settings: Settings) -> bool:
    jobs = Jobs.open(settings)
    try:
        return bool(jobs.connection.ping()) and jobs.connection.scard("rq:workers") == 2
    except Exception:  # noqa: BLE001
        return False
    finally:
        jobs.close()


@pytest.mark.slow
def test_everything_runs_restarts_and_ends(settings: Settings, start: Callable[..., Up]) -> None:
    up = start(SEGLOOP_LOG_FORMAT="json")
    until(lambda: f"segloop is up at http://127.0.0.1:{settings.port}" in up.text)
    assert "no password is set" in up.text
    until(lambda: redis_answers(settings))

    refused = start()
    assert refused.wait() != 0
    assert "already runs" in refused.text

    for part in ("unixsocket:", "segloop.server", "worker retrain"):
        pid = up.pid_of(part)
        assert pid is not None, f"{part} is not among {up.family()}"
        os.kill(pid, signal.SIGKILL)
        until(lambda part=part, pid=pid: up.pid_of(part) not in (None, pid))  # type: ignore[misc]
    until(lambda: is_healthy(settings) and redis_answers(settings))

    up.process.send_signal(signal.SIGINT)
    assert up.wait() == 0
    assert up.family() == {}
    assert "Traceback" not in up.text
    lines = [json.loads(line) for line in up.lines]
    loggers = {line["logger"] for line in lines}
    assert {"supervisor", "_granian"} <= loggers, "of supervisord, and of the server"
    assert any(logger.startswith(("rq", "worker")) for logger in loggers), "of workers"


@pytest.mark.slow
@pytest.mark.parametrize("victim", ["up", "supervisord"])
def test_a_killed_supervisor_leaves_nothing_and_can_be_started_again(
    settings: Settings, start: Callable[[], Up], victim: str
) -> None:
    up = start()
    until(lambda: is_healthy(settings))
    pid = up.process.pid if victim == "up" else up.pid_of("supervisor.supervisord")
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    again = start()
    if victim == "supervisord":
        # The old `up` tells what happened; the new one may come before it is gone.
        assert up.wait() != 0
        assert "supervisord ended" in up.text
        if again.process.poll() is not None:
            again = start()
    until(lambda: up.family() == {})
    until(lambda: is_healthy(settings) or again.process.poll() is not None)
    if again.process.poll() is not None:
        again = start()
        until(lambda: is_healthy(settings))
    again.process.terminate()
    assert again.wait() == 0
    assert again.family() == {}


def test_a_taken_port_is_refused(settings: Settings, start: Callable[[], Up]) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", settings.port))
        other.listen()
        up = start()
        assert up.wait() != 0
    assert f"cannot listen on 127.0.0.1:{settings.port}" in up.text
    assert up.family() == {}


def test_a_data_folder_that_cannot_be_used_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    settings = Settings(data_dir=tmp_path / "file" / "data", redis_url="redis://127.0.0.1:1")
    for begin in (supervisor.up, run):
        with pytest.raises(
            SettingsError, match=r"data folder .*/file/data cannot be used: Not a directory\. Set SEGLOOP_DATA"
        ):
            begin(settings)


def test_a_path_too_long_for_a_socket(tmp_path: Path) -> None:
    settings = Settings(data_dir=tmp_path / ("long" * 30), redis_url="")
    command = valkey_command(settings)
    assert len(command[command.index("--unixsocket") + 1]) < 104
    assert settings.valkey_socket.parent.stat().st_mode & 0o777 == 0o700
    settings.valkey_socket.parent.rmdir()


def test_no_valkey_with_a_redis_url(tmp_path: Path) -> None:
    text = _configuration(Settings(data_dir=tmp_path, redis_url="redis://queue:6379"), tmp_path)
    assert "[program:valkey]" not in text
    assert "[program:web]" in text


def test_secrets_stay_out_of_the_configuration(tmp_path: Path) -> None:
    settings = Settings(data_dir=tmp_path, basic_auth_pass="hunter2", label_studio_api_key="t0ken", redis_url="")
    text = _configuration(settings, tmp_path)
    assert "hunter2" not in text
    assert "t0ken" not in text
    variables = environment(settings)
    assert variables["SEGLOOP_BASIC_AUTH_PASS"] == "hunter2"
    assert "BASIC_AUTH_PASS" not in variables


@pytest.mark.parametrize("name", ["a ;b", "a #b", "a\nb"])
def test_a_path_that_cannot_be_configured_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(SettingsError, match="path like this"):
        _configuration(Settings(data_dir=tmp_path / name, redis_url=""), tmp_path)
