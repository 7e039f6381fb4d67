"""segloop as pip installs it: sdist and wheel are built, and the base alone serves from a folder full of other people's files."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from demo.programs import free_port
from demo.stack import clean_environment
from tests.containers import ROOT
from tests.waiting import until

pytestmark = pytest.mark.slow

BIN = Path(sys.executable).parent
#: An environment with what requirements.lock has for the base, and nothing of segloop: `make base` makes it.
BASE = ROOT / ".venv-base"
#: Names that a user's own folder may hold, and that segloop's parts have.
FOREIGN = ("segloop", "worker", "model", "_wsgi", "granian", "gunicorn", "queue", "logging_config")


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """An sdist of the working tree, and the wheel that is built from it."""
    folder = tmp_path_factory.mktemp("dist")
    source = tmp_path_factory.mktemp("source") / "segloop"
    names = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"],
        cwd=ROOT,
        capture_output=True,
        check=True,
    ).stdout.decode()
    for name in filter(None, names.split("\0")):
        if (ROOT / name).is_file():
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / name, source / name)
    command = [BIN / "uv", "build", "--offline", "--no-build-isolation", "--python", sys.executable]
    subprocess.run([*command, "--out-dir", folder, source], check=True, capture_output=True, timeout=300)
    return next(folder.glob("*.tar.gz")), next(folder.glob("*.whl"))


@pytest.fixture(scope="module")
def installed(built: tuple[Path, Path]) -> Path:
    """The folder of programs of the bare environment, with the wheel in it."""
    command = [
        BIN / "uv",
        "pip",
        "install",
        "--offline",
        "--no-deps",
        "--reinstall",
        "--python",
        BASE / "bin" / "python",
    ]
    subprocess.run([*command, built[1]], check=True, capture_output=True, timeout=300)
    return BASE / "bin"


def test_sdist_and_wheel_have_what_they_need(built: tuple[Path, Path]) -> None:
    with tarfile.open(built[0]) as archive:
        source = {name.partition("/")[2] for name in archive.getnames()}
    assert {"setup.py", "segloop/masks/_rle.c", "aws/template.yaml", "README.md", "LICENSE"} <= source
    with zipfile.ZipFile(built[1]) as archive:
        wheel = set(archive.namelist())
    assert {
        "_wsgi.py",
        "model.py",
        "worker/__main__.py",
        "segloop/py.typed",
        "segloop/aws/templates/template.yaml",
        "segloop/aws/templates/webhook/LsCustomWebhook.py",
        "segloop/aws/training/requirements.txt",
        "segloop/aws/endpoints/requirements.txt",
    } <= wheel
    assert any(name.startswith("segloop/masks/_rle.") and name.endswith(".so") for name in wheel)
    assert any(name.startswith("segloop/templates/") for name in wheel)
    assert any(name.startswith("segloop/static/") for name in wheel)
    assert not any(name.startswith(("tests/", "demo/", "benchmarks/")) for name in wheel)


@contextmanager
def segloop_up(program: Path, folder: Path, data: Path, port: int) -> Iterator[Path]:
    """`segloop up` of an installed segloop, in a folder; the file of its log."""
    log = folder / "segloop.log"
    environment = clean_environment() | {"SEGLOOP_DATA_DIR": str(data), "PORT": str(port), "SEGLOOP_WEIGHTS": "none"}
    environment = {name: value for name, value in environment.items() if name not in ("PYTHONPATH", "PYTHONSAFEPATH")}
    with (
        log.open("wb") as out,
        subprocess.Popen([program / "segloop", "up"], cwd=folder, env=environment, stdout=out, stderr=out) as process,
    ):
        try:
            yield log
        finally:
            process.terminate()
            process.wait(120)


def test_the_base_alone_serves_from_a_folder_of_files_with_our_names(installed: Path, tmp_path: Path) -> None:
    folder, port = tmp_path / "project", free_port()
    for name in FOREIGN:
        (folder / name).with_suffix(".py").parent.mkdir(exist_ok=True)
        (folder / f"{name}.py").write_text(f"raise SystemExit('the user's {name}.py was imported')\n")
    with segloop_up(installed, folder, tmp_path / "data", port) as log:

        def answers() -> bool:
            try:
                return httpx.get(f"http://127.0.0.1:{port}/health", trust_env=False).is_success
            except httpx.HTTPError:
                return False

        until(answers)
        config = (
            '<View><Image name="image" value="$image"/><BrushLabels name="tag" toName="image">'
            '<Label value="Road"/></BrushLabels></View>'
        )
        response = httpx.post(
            f"http://127.0.0.1:{port}/setup",
            json={"project": "1.1", "schema": config, "extra_params": "{}"},
            trust_env=False,
        )
        assert response.json() == {"model_version": "untrained"}
    text = log.read_text("utf-8", "replace")
    assert "the user's" not in text, text
    assert "Traceback" not in text, text
    [said] = [line for line in text.splitlines() if "segloop[worker]" in line]
    assert "torch is not installed here" in said


def test_a_worker_of_the_base_says_what_is_missing(installed: Path, tmp_path: Path) -> None:
    environment = clean_environment() | {"SEGLOOP_DATA_DIR": str(tmp_path)}
    done = subprocess.run(
        [installed / "segloop", "worker"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode != 0
    assert "pip install 'segloop[worker]'" in done.stderr
    assert "Traceback" not in done.stderr
    assert not list(tmp_path.iterdir())
