"""Runs a real Label Studio on loopback, for the demo and the tests: its own venv, its own data, nothing left behind."""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import httpx

VERSION: Final = "1.23.2"
EMAIL: Final = "demo@segloop.local"
PASSWORD: Final = "segloop-demo"
LOCK: Final = Path(__file__).resolve().parent.parent / "requirements-label-studio.lock"

# Migrating an empty database takes 40 s on an idle machine; a copy of a migrated one starts in 5 s.
START_TIMEOUT_S: Final = 240.0
STOP_TIMEOUT_S: Final = 10.0
_POLL_S: Final = 0.2
_UPLOADS_AT_ONCE: Final = 50
# PR_SET_PDEATHSIG (1) outlives the exec; the parent may have died before it was set.
_DIE_WITH_PARENT: Final = (
    "import ctypes, os, signal, sys; "
    "ctypes.CDLL(None).prctl(1, signal.SIGKILL); "
    "os.getppid() == int(sys.argv[1]) or sys.exit(1); "
    "os.execv(sys.argv[2], sys.argv[2:])"
)


class LabelStudioFailed(Exception):
    """Label Studio could not be installed or started; the text says what it wrote last."""


def cache_folder() -> Path:
    """Where this machine keeps the installed Label Studio and its migrated data folder."""
    return Path.home() / ".cache" / "segloop" / f"label-studio-{VERSION}"


def installed() -> Path:
    """The virtual environment of Label Studio, made on demand from `requirements-label-studio.lock`."""
    venv = cache_folder() / "venv"
    stamp = venv / "segloop.lock.sha256"
    wanted = hashlib.sha256(LOCK.read_bytes()).hexdigest()
    with _alone("venv"):
        # The interpreter is a link, which hangs in the air once its Python is gone.
        if (venv / "bin" / "python").exists() and stamp.is_file() and stamp.read_text() == wanted:
            return venv
        shutil.rmtree(venv, ignore_errors=True)
        _run("uv", "venv", "--quiet", "--python", sys.executable, str(venv))
        # Without --no-deps uv would resolve anew what the lock has decided.
        install = ("uv", "pip", "install", "--quiet", "--no-deps", "--require-hashes")
        _run(*install, "--python", str(venv / "bin" / "python"), "--requirements", str(LOCK))
        stamp.write_text(wanted)
    return venv


def template() -> Path:
    """A data folder with a migrated database and the demo's user, made once per machine."""
    folder = cache_folder() / "template"
    venv = installed()
    with _alone("template"):
        if not folder.is_dir():
            draft = folder.with_name("template.draft")
            # What an attempt that was killed left behind.
            shutil.rmtree(draft, ignore_errors=True)
            draft.mkdir()
            with RunningLabelStudio(draft, venv=venv) as migrated:
                pass
            migrated.log.unlink()
            draft.replace(folder)
    return folder


class RunningLabelStudio:
    """A Label Studio of one's own on a free loopback port, within a `with`.

    Start it from a thread that lives as long as it shall: it dies with the thread that started it.

    Attributes:
        url: its address.
        email, password: of its one user.
        token: the user's legacy token.
        folder: its data; `folder/files` is served as local files, `folder/label-studio.log` is what it wrote.
    """

    def __init__(self, folder: Path | None = None, *, venv: Path | None = None, port: int = 0) -> None:
        """Prepare to run on `folder` as it is, or on a fresh copy of the template that is removed at the end."""
        self._temporary = folder is None
        self._venv = venv
        self._process: subprocess.Popen[bytes] | None = None
        self.folder = folder or Path(tempfile.mkdtemp(prefix="segloop-label-studio-"))
        self.port = port or _free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.email = EMAIL
        self.password = PASSWORD
        # Of this template alone, and good for nothing beyond loopback.
        self.token = hashlib.sha1(EMAIL.encode()).hexdigest()

    @property
    def log(self) -> Path:
        """What it wrote."""
        return self.folder / "label-studio.log"

    def __enter__(self) -> Self:
        try:
            if self._temporary:
                shutil.copytree(template(), self.folder, dirs_exist_ok=True)
            (self.folder / "files").mkdir(exist_ok=True)
            self._start()
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
        if self._temporary:
            shutil.rmtree(self.folder, ignore_errors=True)

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

    def _start(self) -> None:
        program = (self._venv or installed()) / "bin" / "label-studio"
        command = [str(program), "start", "--no-browser", "--internal-host", "127.0.0.1", "--port", str(self.port)]
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-c", _DIE_WITH_PARENT, str(os.getpid()), *command],
                env=self._environment(),
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        deadline_s = time.monotonic() + START_TIMEOUT_S
        with httpx.Client(trust_env=False, timeout=5.0) as http:
            while not self._is_healthy(http):
                if self._process.poll() is not None:
                    raise LabelStudioFailed(
                        f"Label Studio ended at its start ({self._process.returncode}):\n{self._tail()}"
                    )
                if time.monotonic() > deadline_s:
                    raise LabelStudioFailed(
                        f"Label Studio did not start within {START_TIMEOUT_S:.0f} s:\n{self._tail()}"
                    )
                time.sleep(_POLL_S)

    def _is_healthy(self, http: httpx.Client) -> bool:
        try:
            return http.get(f"{self.url}/health").is_success
        except httpx.TransportError:
            return False

    def _tail(self) -> str:
        return self.log.read_text(errors="replace")[-2000:]

    def _environment(self) -> dict[str, str]:
        # Nothing is inherited but the search path: neither proxies, nor LABEL_STUDIO_* of the caller.
        return {
            "PATH": os.environ.get("PATH", os.defpath),
            "HOME": str(self.folder),
            "LANG": "C.UTF-8",
            "LABEL_STUDIO_BASE_DATA_DIR": str(self.folder),
            "LABEL_STUDIO_USERNAME": self.email,
            "LABEL_STUDIO_PASSWORD": self.password,
            "LABEL_STUDIO_USER_TOKEN": self.token,
            "LABEL_STUDIO_ENABLE_LEGACY_API_TOKEN": "true",
            "LABEL_STUDIO_HOST": self.url,
            "LABEL_STUDIO_LATEST_VERSION_CHECK": "false",
            "LABEL_STUDIO_SENTRY_DSN": "",
            "LABEL_STUDIO_FRONTEND_SENTRY_DSN": "",
            "LABEL_STUDIO_COLLECT_ANALYTICS": "false",
            "LABEL_STUDIO_ML_BLOCK_LOCAL_IP": "false",
            "LABEL_STUDIO_SSRF_PROTECTION_ENABLED": "false",
            "LABEL_STUDIO_LOCAL_FILES_SERVING_ENABLED": "true",
            "LABEL_STUDIO_LOCAL_FILES_DOCUMENT_ROOT": str(self.folder / "files"),
        }

    # -- What an annotator or an administrator would do

    @cached_property
    def api_key(self) -> str:
        """A personal access token of the user, created at the first use."""
        with self.client() as client:
            token: str = _checked(client.post("/api/token/")).json()["token"]
        return token

    def client(self) -> httpx.Client:
        """A client with the user's authentication and `url` as its base; close it after use."""
        return httpx.Client(
            base_url=self.url, headers={"Authorization": f"Token {self.token}"}, timeout=60.0, trust_env=False
        )

    def create_project(self, title: str, label_config: str, **fields: Any) -> dict[str, Any]:
        """Create a project and return it as Label Studio describes it."""
        with self.client() as client:
            body = {"title": title, "label_config": label_config, **fields}
            project: dict[str, Any] = _checked(client.post("/api/projects/", json=body)).json()
        return project

    def upload_images(self, project_id: int, images: Sequence[Path]) -> list[int]:
        """Import image files as uploads, one task each; the ids of the tasks, in the order of `images`."""
        task_ids: list[int] = []
        with self.client() as client:
            for start in range(0, len(images), _UPLOADS_AT_ONCE):
                batch = images[start : start + _UPLOADS_AT_ONCE]
                # Label Studio keeps one file per field name.
                files = {f"file{index}": (path.name, path.read_bytes()) for index, path in enumerate(batch)}
                response = client.post(
                    f"/api/projects/{project_id}/import", params={"return_task_ids": "true"}, files=files
                )
                task_ids += _checked(response).json()["task_ids"]
        return task_ids

    def submit_annotation(self, task_id: int, result: Sequence[Mapping[str, Any]], **fields: Any) -> dict[str, Any]:
        """Submit an annotation as an annotator would and return it."""
        with self.client() as client:
            body = {"result": list(result), "lead_time": 1.0, **fields}
            annotation: dict[str, Any] = _checked(client.post(f"/api/tasks/{task_id}/annotations/", json=body)).json()
        return annotation


def _checked(response: httpx.Response) -> httpx.Response:
    if not response.is_success:
        raise LabelStudioFailed(
            f"{response.request.method} {response.url} answered {response.status_code}: {response.text[:500]}"
        )
    return response


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextmanager
def _alone(name: str) -> Iterator[None]:
    """Within this machine's lock `name`; the system frees it when its holder dies."""
    cache_folder().mkdir(parents=True, exist_ok=True)
    with (cache_folder() / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _run(program: str, *arguments: str) -> None:
    beside = Path(sys.executable).parent / program
    path = shutil.which(program) or (str(beside) if beside.is_file() else None)
    if path is None:
        raise LabelStudioFailed(f"{program} is not installed: `make` installs it into the virtual environment")
    done = subprocess.run([path, *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        raise LabelStudioFailed(f"`{program} {' '.join(arguments)}` failed:\n{(done.stdout + done.stderr)[-2000:]}")
