"""The commands of README.md and docs/, run as they stand there.

Only what cannot be true of every machine is replaced: port 9090 by a free one, `your-token` and project 1 by those of
the test's Label Studio, and versions' names, which end in a hash, by those of the same number.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import httpx
import pytest
import redis
from PIL import Image

from demo.label_studio import RunningLabelStudio
from demo.programs import free_port
from demo.stack import clean_environment
from segloop.registry import open_registry
from segloop.settings import Settings
from tests.documented import ROOT, Fence, fences
from tests.toys import BRUSH, toy_bundle

pytestmark = pytest.mark.slow

READY_S = 90.0
COMMAND_S = 120.0
STOP_S = 40.0
#: The store's three versions belong to this project; Label Studio's first.
PROJECT = "1.1795383040"

PROGRAMS = {
    "segloop": f'exec {sys.executable} -m segloop.cli "$@"',
    # what the target would do, but with this tree's segloop, and without making .venv first
    "make": f"/usr/bin/env -i PATH=/usr/bin:/bin make -s -n -C {ROOT} -o .venv/.ready \"$@\" | sed 's#.venv/bin/##' | sh -e",
}


def of(mode: str) -> list[Fence]:
    return [fence for fence in fences() if fence.mode == mode]


def quick_start() -> Fence:
    """The fence that starts segloop in the quick start."""
    return next(fence for fence in of("in the background") if fence.page == "docs/quickstart.md")


@dataclass
class Sandbox:
    """A folder that is home, store and working folder, with programs of this tree on the path; `data` is the data folder."""

    folder: Path
    data: Path
    port: int = field(default_factory=free_port)
    names: dict[str, str] = field(default_factory=dict)
    label_studio: str = "http://127.0.0.1:9"
    token: str = ""
    project: int = 1

    @property
    def settings(self) -> Settings:
        return Settings(data_dir=self.data, store=str(self.folder / "store"), weights="none")

    def environment(self, **more: str) -> dict[str, str]:
        programs = self.folder / "bin"
        programs.mkdir(parents=True, exist_ok=True)
        for name, script in PROGRAMS.items():
            (programs / name).write_text(f"#!/bin/sh\n{script}\n", "utf-8")
            (programs / name).chmod(0o755)
        own = {
            "HOME": str(self.folder),
            "PATH": os.pathsep.join((str(programs), str(Path(sys.executable).parent), os.environ["PATH"])),
            "PYTHONPATH": str(ROOT),
            "PORT": str(self.port),
            "LABEL_STUDIO_URL": self.label_studio,
            "LABEL_STUDIO_API_KEY": self.token,
            "SEGLOOP_DATA_DIR": str(self.data),
            "SEGLOOP_STORE": str(self.folder / "store"),
            "SEGLOOP_WEIGHTS": "none",
        }
        return clean_environment() | own | more

    def here(self, text: str) -> str:
        """A fence's text with the names of this place."""
        text = re.sub(r"\bv\d+-[0-9a-f]{8}\b", lambda name: self.names[name[0].partition("-")[0]], text)
        text = text.replace("http://localhost:8080", self.label_studio).replace("your-token", self.token or "none")
        return text.replace("--project 1", f"--project {self.project}").replace(":9090", f":{self.port}")

    def start(self, text: str, **more: str) -> subprocess.Popen[bytes]:
        """Run a shell script, which ends at its first failing command."""
        work = self.folder / "work"
        work.mkdir(exist_ok=True)
        with (self.folder / "output.txt").open("w") as output:
            return subprocess.Popen(
                ["bash", "-euo", "pipefail", "-c", self.here(text)],
                env=self.environment(**more),
                cwd=work,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def output(self) -> str:
        return (self.folder / "output.txt").read_text("utf-8", errors="replace")


def make_versions(sandbox: Sandbox) -> None:
    """Three versions, the last of them served."""
    registry = open_registry(sandbox.settings)
    for number in (1, 2, 3):
        folder, info = toy_bundle(sandbox.folder / f"bundle{number}", seed=number)
        name = registry.add(PROJECT, folder, info)
        registry.promote(PROJECT, name, "It wins.")
        sandbox.names[f"v{number}"] = name


@contextmanager
def in_background(sandbox: Sandbox, fence: Fence, **more: str) -> Iterator[None]:
    """A fence's program, ready; it must live until it is stopped, and stop when it is told to."""
    process = sandbox.start(fence.text, **more)
    try:
        deadline = time.monotonic() + READY_S
        while not is_ready(sandbox, fence, more):
            assert process.poll() is None, f"it ended:\n{sandbox.output()}"
            assert time.monotonic() < deadline, f"it is not ready:\n{sandbox.output()}"
            time.sleep(0.2)
        yield
        assert process.poll() is None, f"it ended:\n{sandbox.output()}"
        os.killpg(process.pid, signal.SIGINT)
        process.wait(STOP_S)
        assert "Traceback" not in sandbox.output()
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def is_ready(sandbox: Sandbox, fence: Fence, more: dict[str, str]) -> bool:
    if "worker" in fence.text:
        with redis.Redis.from_url(more["REDIS_URL"]) as client:
            return bool(client.smembers("rq:workers"))
    try:
        return httpx.get(f"http://127.0.0.1:{sandbox.port}/health", timeout=1, trust_env=False).is_success
    except httpx.HTTPError:
        return False


def succeed(sandbox: Sandbox, fence: Fence) -> None:
    process = sandbox.start(fence.text)
    try:
        process.wait(COMMAND_S)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    assert process.returncode == 0, sandbox.output()


@pytest.fixture(scope="module")
def segloop_is_up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sandbox]:
    """segloop as the quick start starts it."""
    folder = tmp_path_factory.mktemp("up")
    sandbox = Sandbox(folder, folder / "data")
    # known, but without versions: toy weights cannot be served
    open_registry(sandbox.settings).write_json(PROJECT, "project.json", {"project": PROJECT, "label_config": BRUSH})
    with in_background(sandbox, quick_start()):
        yield sandbox


@pytest.mark.parametrize("fence", of("run"), ids=lambda fence: fence.id)
def test_it_runs(segloop_is_up: Sandbox, tmp_path: Path, fence: Fence) -> None:
    # a store of its own: what one page promotes is not there for the next
    sandbox = Sandbox(tmp_path, segloop_is_up.data, segloop_is_up.port)
    make_versions(sandbox)
    succeed(sandbox, fence)


@pytest.mark.parametrize(
    "fence",
    [fence for fence in of("in the background") if fence.page != "docs/quickstart.md"],
    ids=lambda fence: fence.id,
)
def test_it_starts_and_stops(tmp_path: Path, redis_url: str, fence: Fence) -> None:
    with in_background(Sandbox(tmp_path, tmp_path / "data"), fence, REDIS_URL=redis_url):
        pass


@pytest.fixture(scope="module")
def beside_label_studio(running: RunningLabelStudio, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sandbox]:
    """segloop as the quick start starts it, beside a Label Studio with a project that has one image."""
    folder = tmp_path_factory.mktemp("beside")
    project = int(running.create_project("documented", BRUSH)["id"])
    Image.new("RGB", (32, 24), "teal").save(folder / "image.png")
    running.upload_images(project, [folder / "image.png"])
    sandbox = Sandbox(folder, folder / "data", label_studio=running.url, token=running.api_key, project=project)
    with in_background(sandbox, quick_start()):
        yield sandbox


@pytest.mark.label_studio
@pytest.mark.parametrize("fence", of("with Label Studio"), ids=lambda fence: fence.id)
def test_it_runs_with_label_studio(beside_label_studio: Sandbox, tmp_path: Path, fence: Fence) -> None:
    succeed(replace(beside_label_studio, folder=tmp_path), fence)


def test_the_quick_start_starts(segloop_is_up: Sandbox) -> None:
    assert "segloop is up at" in segloop_is_up.output()
