"""`segloop train`, `predict` and `completion` as their user has them."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image

from segloop.cli import main
from segloop.project_ids import project_id
from segloop.queue import RETRAIN_QUEUE, Jobs
from segloop.registry import Registry, open_registry
from segloop.serving import ServedModels, load_served_model
from segloop.settings import Settings
from tests.toys import BRUSH, ToyImage, toy_bundle, toy_info, toy_loader
from tests.waiting import PATIENCE_S

ROOT = Path(__file__).resolve().parents[2]
PROJECT = "29.1795383040"


def run(*arguments: str) -> Result:
    return CliRunner(env={"COLUMNS": "200"}).invoke(main, list(arguments))


@pytest.fixture
def registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Registry:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SEGLOOP_DATA_DIR", str(tmp_path / "data"))
    return open_registry(Settings(data_dir=tmp_path / "data"))


# -- train


@pytest.fixture
def jobs(registry: Registry, redis_url: str, monkeypatch: pytest.MonkeyPatch) -> Jobs:
    """The queue of a project that was connected; nobody works on it."""
    monkeypatch.setenv("SEGLOOP_REDIS_URL", redis_url)
    registry.write_json(PROJECT, "project.json", {"project": PROJECT, "label_config": BRUSH})
    jobs = Jobs.open(Settings(redis_url=redis_url))
    yield jobs
    jobs.close()


def works(jobs: Jobs, end: Callable[[Any], None]) -> threading.Thread:
    """A worker's part, played: it takes the retrain that is queued, tells of its progress, and ends it."""

    def work() -> None:
        while not jobs.queue(RETRAIN_QUEUE).get_job_ids():
            time.sleep(0.02)
        job = jobs.fetch(jobs.queue(RETRAIN_QUEUE).get_job_ids()[0])
        for step in (1, 2):
            jobs.report(job.id, {"phase": "training", "step": step, "steps": 2, "loss": 0.5, "eta_s": 1})
            time.sleep(0.6)
        end(job)

    thread = threading.Thread(target=work)
    thread.start()
    return thread


def test_train_queues_and_joins(jobs: Jobs) -> None:
    first = run("train", "--project", "29")
    assert first.exit_code == 0
    assert "it is queued" in first.stdout
    assert "No worker listens now" in first.stderr
    second = json.loads(run("train", "--json").stdout)
    assert second["joined"]
    assert second["job"] in first.stdout
    assert jobs.live_retrain(PROJECT)["reason"] == "segloop train"


def test_train_before_anything_is_connected(registry: Registry) -> None:
    result = run("train")
    assert (result.exit_code, "segloop connect" in result.stderr) == (1, True)


@pytest.mark.slow
@pytest.mark.parametrize("terminal", [False, True])
def test_train_follows_to_a_good_end(jobs: Jobs, monkeypatch: pytest.MonkeyPatch, terminal: bool) -> None:
    if terminal:
        monkeypatch.setenv("FORCE_COLOR", "1")  # what rich takes for one

    def finish(job: Any) -> None:
        from rq.job import JobStatus
        from rq.results import Result as Outcome

        outcome = {"version": "v2-0011aabb", "promoted": True, "reason": "It is better."}
        Outcome.create(job, Outcome.Type.SUCCESSFUL, ttl=60, return_value=outcome)
        job.set_status(JobStatus.FINISHED)

    thread = works(jobs, finish)
    result = run("train", "--follow")
    thread.join()
    assert (result.exit_code, "v2-0011aabb is promoted: It is better." in result.stdout) == (0, True)
    assert ("loss 0.500, 1 s left" in result.stderr) == terminal
    assert "training" in result.stderr


@pytest.mark.slow
def test_train_follows_to_a_bad_end(jobs: Jobs) -> None:
    def fail(job: Any) -> None:
        from rq.job import JobStatus
        from rq.results import Result as Outcome

        Outcome.create_failure(job, ttl=60, exc_string="Traceback\nsegloop.errors.NothingToTrain: Nothing is labelled.")
        job.set_status(JobStatus.FAILED)

    thread = works(jobs, fail)
    result = run("train", "--follow")
    thread.join()
    assert (result.exit_code, "The training failed: Nothing is labelled." in result.stderr) == (1, True)


@pytest.mark.slow
def test_ctrl_c_leaves_the_training_alone(jobs: Jobs, tmp_path: Path) -> None:
    following = subprocess.Popen(
        [sys.executable, "-m", "segloop.cli", "train", "--follow"],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    while jobs.live_retrain(PROJECT) is None:
        assert following.poll() is None
        time.sleep(0.05)
    live = jobs.live_retrain(PROJECT)
    # it follows once it has said that it waits
    assert "No worker" in following.stderr.readline()
    time.sleep(0.3)
    following.send_signal(signal.SIGINT)
    _, said = following.communicate(timeout=PATIENCE_S)
    assert following.returncode == 130
    assert f"The training goes on as job {live['job']}" in said
    assert f"segloop stop --project {project_id(PROJECT)}\n" in said
    assert jobs.live_retrain(PROJECT)["job"] == live["job"]


# -- predict


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Half red, half blue: what the toy network tells apart."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    pixels = np.zeros((30, 40, 3), dtype=np.uint8)
    pixels[:15, :, 0] = 255
    pixels[15:, :, 2] = 255
    Image.fromarray(pixels).save(folder / "a.png")
    Image.fromarray(pixels).save(folder / "b.jpg", quality=95)
    (folder / "notes.txt").write_text("no image")
    return folder


@pytest.fixture
def trained(registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A project that serves the toy network."""
    monkeypatch.setattr("segloop.serving.load_served_model", toy_loader)
    monkeypatch.setattr(ServedModels.__init__, "__defaults__", (toy_loader,))
    version = registry.add(PROJECT, *toy_bundle(tmp_path / "bundle"))
    registry.promote(PROJECT, version, "test")
    registry.write_json(PROJECT, "project.json", {"project": PROJECT, "label_config": BRUSH})
    return version


def test_predict_writes_overlays_and_masks(trained: str, pictures: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    shutil.copy(pictures / "a.png", tmp_path / "a.png")
    result = run("predict", str(pictures), str(tmp_path / "a.png"), "--out", str(out), "--masks")
    assert (result.exit_code, result.stderr) == (0, "")
    names = {path.name for path in out.iterdir()}
    assert names == {f"{stem}.{kind}.png" for stem in ("a", "b", "a-2") for kind in ("overlay", "mask")}
    assert result.stdout.count("40 x 30  Road 50.0%, Sky 50.0%") == 3
    with Image.open(out / "a.mask.png") as mask:
        values = np.asarray(mask)
    assert (values[:14] == 1).all()
    assert (values[16:] == 2).all()
    with Image.open(out / "a.overlay.png") as overlay:
        drawn = np.asarray(overlay)
    assert drawn.shape == (30, 40, 3)
    with Image.open(pictures / "a.png") as original:
        assert not np.array_equal(drawn, np.asarray(original))


def test_predict_takes_patterns_and_a_version(trained: str, pictures: Path, tmp_path: Path) -> None:
    arguments = ("--out", str(tmp_path / "out"), "--version", trained, "--json")
    for pattern in (f"{pictures}/*.png", "pictures/*.png"):
        result = run("predict", pattern, *arguments)
        told = json.loads(result.stdout)
        assert [Path(image["image"]).name for image in told["images"]] == ["a.png"]
        assert told["images"][0]["shares"] == {"background": 0.0, "Road": 0.5, "Sky": 0.5}


def test_predict_leaves_out_small_pieces_as_the_project_has_it(
    registry: Registry, trained: str, pictures: Path, tmp_path: Path
) -> None:
    with Image.open(pictures / "a.png") as picture:
        pixels = np.array(picture)
    pixels[10:16, 10:16] = (0, 0, 255)
    pixels[:6, :6] = (0, 0, 255)
    Image.fromarray(pixels).save(pictures / "a.png")
    arguments = ("predict", str(pictures / "a.png"), "--out", str(tmp_path / "out"), "--json")
    shares = json.loads(run(*arguments).stdout)["images"][0]["shares"]
    assert (shares["background"], shares["Sky"] > 0.5) == (0, True)
    notes = {"project": PROJECT, "label_config": BRUSH, "extra_params": {"min_area_px": 50}}
    registry.write_json(PROJECT, "project.json", notes)
    fewer = json.loads(run(*arguments).stdout)["images"][0]["shares"]
    assert fewer["background"] > 0
    assert fewer["Sky"] == pytest.approx(shares["Sky"] - fewer["background"])


def test_an_image_that_is_none_costs_one_line(trained: str, pictures: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    bad = [str(pictures / "notes.txt"), str(tmp_path / "gone.png"), str(tmp_path / "empty"), f"{tmp_path}/*.gif"]
    bad += [f"{tmp_path}/**.gif", "x" * 5000]
    result = run("predict", *bad, str(pictures / "a.png"), "--out", str(tmp_path / "out"))
    assert result.exit_code == 1
    for name, line in zip(bad, result.stderr.splitlines(), strict=True):
        assert name in line
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["a.overlay.png"]


def test_a_name_that_is_no_text_is_predicted(trained: str, pictures: Path, tmp_path: Path) -> None:
    pytest.importorskip("pycocotools")
    (pictures / "a.png").rename(pictures / os.fsdecode(b"caf\xe9.png"))
    coco = tmp_path / "coco.json"
    for arguments in (("--json",), ("--masks", "--coco", str(coco))):
        result = run("predict", str(pictures), "--out", str(tmp_path / "out"), *arguments)
        assert (result.exit_code, result.stderr) == (0, "")
    assert [image["file_name"] for image in json.loads(coco.read_bytes())["images"]] == [
        f"{pictures}/b.jpg",
        f"{pictures}/caf\N{REPLACEMENT CHARACTER}.png",
    ]
    assert (tmp_path / "out" / os.fsdecode(b"caf\xe9.mask.png")).exists()


def test_predict_into_a_folder_that_cannot_be_made(trained: str, pictures: Path) -> None:
    result = run("predict", str(pictures), "--out", str(pictures / "a.png" / "out"))
    assert (result.exit_code, "cannot be made" in result.stderr) == (1, True)


def test_predict_with_a_version_that_is_not_there(registry: Registry, pictures: Path, tmp_path: Path) -> None:
    registry.add(PROJECT, *toy_bundle(tmp_path / "bundle"))
    result = run("predict", str(pictures), "--out", "out", "--version", "v9-00000000")
    assert (result.exit_code, "has no version 'v9-00000000'" in result.stderr) == (1, True)


@pytest.mark.slow
def test_predict_runs_what_the_server_runs(
    registry: Registry, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch = pytest.importorskip("torch")
    from segloop.network.network import build_network, save_bundle

    torch.manual_seed(0)
    info = toy_info()
    save_bundle(tmp_path / "bundle", build_network("deeplabv3_resnet50", 3, 16), info)
    (tmp_path / "bundle" / "version.json").unlink()
    version = registry.add(PROJECT, tmp_path / "bundle", info)
    registry.promote(PROJECT, version, "test")
    monkeypatch.setenv("SEGLOOP_ENGINE", "torch")
    result = run("predict", str(pictures / "a.png"), "--out", str(tmp_path / "out"), "--masks")
    assert (result.exit_code, result.stdout.startswith(version)) == (0, True)
    with Image.open(pictures / "a.png") as picture:
        image = ToyImage(np.asarray(picture))
    served = load_served_model(registry, PROJECT, version, Settings(engine="torch"))
    with Image.open(tmp_path / "out" / "a.mask.png") as mask:
        assert np.array_equal(np.asarray(mask), served.segment(image).class_map)


def test_predict_without_anything_to_predict_with(registry: Registry, pictures: Path) -> None:
    result = run("predict", str(pictures), "--out", "out")
    assert result.exit_code == 1
    assert result.stderr.startswith("Error: there is nothing to predict with")
    assert run("predict", "--out", "out").exit_code == 2
    assert run("predict", str(pictures), "--out", str(pictures / "a.png")).exit_code == 2
    assert run("predict", str(pictures)).exit_code == 2


# -- help and completion


def test_help_has_sections_and_examples() -> None:
    told = run("--help").stdout
    for title in ("Run:", "Connect:", "Train and predict:", "Versions:", "Examples:"):
        assert title in told
    for command in ("connect", "doctor", "train", "predict", "completion"):
        assert "Examples:" in run(command, "--help").stdout


@pytest.mark.parametrize(
    ("arguments", "text"),
    [(("conect",), "connect"), (("doctor", "--projekt", "1"), "--project"), (("versions", "lst"), "list")],
)
def test_a_slip_is_met_with_what_was_meant(arguments: tuple[str, ...], text: str) -> None:
    result = run(*arguments)
    assert result.exit_code == 2
    assert "Did you mean" in result.stderr
    assert text in result.stderr


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_prints_a_script(shell: str) -> None:
    result = run("completion", shell)
    assert result.exit_code == 0
    assert "_SEGLOOP_COMPLETE" in result.stdout


@pytest.mark.slow
def test_completion_completes() -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "COMP_WORDS": "segloop do", "COMP_CWORD": "1"}
    done = subprocess.run(
        [sys.executable, "-c", "from segloop.cli import main; main(prog_name='segloop')"],
        env={**environment, "_SEGLOOP_COMPLETE": "bash_complete"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split() == ["plain,doctor"]
