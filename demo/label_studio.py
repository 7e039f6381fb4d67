"""Runs a real Label Studio on loopback, for the demo and the tests: its own venv, its own data, nothing left behind."""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import httpx

from demo import programs
from demo.programs import Program, ProgramFailed, alone, cache_folder, free_port

VERSION: Final = "1.23.2"
EMAIL: Final = "demo@segloop.local"
PASSWORD: Final = "segloop-demo"
LOCK: Final = Path(__file__).resolve().parent.parent / "requirements-label-studio.lock"

# Migrating an empty database takes 40 s on an idle machine; a copy of a migrated one starts in 5 s.
START_TIMEOUT_S: Final = 240.0
_UPLOADS_AT_ONCE: Final = 50


class LabelStudioFailed(ProgramFailed):
    """Label Studio could not be installed or started; the text says what it wrote last."""


def cache() -> Path:
    """Where this machine keeps the installed Label Studio and its migrated data folder."""
    return cache_folder(f"label-studio-{VERSION}")


def installed() -> Path:
    """The virtual environment of Label Studio, made on demand from `requirements-label-studio.lock`."""
    return programs.installed(cache(), LOCK, LabelStudioFailed)


def template() -> Path:
    """A data folder with a migrated database and the demo's user, made once per machine."""
    folder = cache() / "template"
    venv = installed()
    with alone(cache(), "template"):
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

    def __init__(
        self,
        folder: Path | None = None,
        *,
        venv: Path | None = None,
        port: int = 0,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        """Prepare to run on `folder` as it is, or on a fresh copy of the template that is removed at the end.

        `environment` holds variables of Label Studio that are to be other than here.
        """
        self._own_environment = dict(environment or {})
        self._temporary = folder is None
        self._venv = venv
        self._program: Program | None = None
        self.folder = folder or Path(tempfile.mkdtemp(prefix="segloop-label-studio-"))
        self.port = port or free_port()
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

    @property
    def pid(self) -> int | None:
        """Of its process, while it runs."""
        return None if self._program is None else self._program.pid

    def stop(self) -> None:
        """Stop it and whatever it started."""
        if self._program is not None:
            self._program.stop()

    def _start(self) -> None:
        program = (self._venv or installed()) / "bin" / "label-studio"
        command = [str(program), "start", "--no-browser", "--internal-host", "127.0.0.1", "--port", str(self.port)]
        self._program = Program(
            "Label Studio",
            command,
            environment=self._environment(),
            folder=self.folder,
            log=self.log,
            failed=LabelStudioFailed,
        )
        self._program.start(f"{self.url}/health", START_TIMEOUT_S)

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
            **self._own_environment,
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
