"""A disk that is full, for real: a small file system in memory, filled to its last byte."""

from __future__ import annotations

import hashlib
import io
import os
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import httpx
import pytest
from safetensors.torch import save_file
from torch import nn
from torch.optim import SGD

from segloop.aws.training.archive import extract_bundle
from segloop.errors import DiskFull
from segloop.trainers.base import Run
from segloop.trainers.local import LocalTrainer
from segloop.training.container import Container
from segloop.training.run import _KEPT, Clock, save_checkpoint
from tests.servers import running
from tests.toys import BRUSH, toy_info
from tests.waiting import until

TESTS = Path(__file__).resolve().parents[1]


class Disk:
    """A file system of 32 MiB."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._ballast = folder / "ballast"

    def fill(self) -> None:
        with self._ballast.open("ab", buffering=0) as file:
            for size in (2**20, 4096, 1):
                try:
                    while file.write(b"x" * size):
                        pass
                except OSError:
                    continue

    def free(self) -> None:
        self._ballast.unlink()


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=32m", "tmpfs", folder], capture_output=True)
    if mounted.returncode:
        pytest.skip(f"no file system can be mounted here: {mounted.stderr.decode()}")
    yield Disk(folder)
    subprocess.run(["umount", "--lazy", folder], check=True)


@pytest.mark.slow
def test_serving_webhooks_and_metrics_go_on(disk: Disk, redis_url: str, tmp_path: Path) -> None:
    with running(tmp_path, data_dir=disk.folder / "data", redis_url=redis_url, log_level="WARNING") as server:
        children = server.children()
        disk.fill()
        event = {"action": "ANNOTATION_CREATED", "annotation": {"id": 1, "task": 1}}
        event |= {"project": {"id": 7, "created_at": "2026-11-22T21:30:40.804663Z", "label_config": BRUSH}}
        with httpx.Client(base_url=server.url, timeout=60, trust_env=False) as client:
            for task in range(40):
                event["annotation"] = {"id": task, "task": task}
                assert client.post("/webhook", json=event).status_code == 201
                # a series each: the files of the metrics grow
                assert client.get(f"/ui/{task}").status_code in (200, 400, 404)
            assert client.post("/setup", json={"project": "7.1", "schema": BRUSH}).status_code == 200
            metrics = client.get("/metrics")
            assert metrics.status_code == 200
            assert 'route="/webhook"' in metrics.text
        assert server.children() == children, "nobody died"


@pytest.mark.slow
def test_a_training_waits_for_space_and_goes_on_from_its_checkpoint(disk: Disk) -> None:
    for name in ("snapshot", "champion"):
        (disk.folder / name).mkdir()
    hyperparameters = {"train_epochs": "60", "fills_bytes": str(8 * 2**20)}
    run = Run("retrain-1", disk.folder, disk.folder / "snapshot", disk.folder / "champion", hyperparameters)
    trainer = LocalTrainer((sys.executable, str(TESTS / "tiny_training.py")))
    trainer.submit(run)
    until(lambda: ((trainer.poll(run).progress) or {}).get("epoch", 0) > 2)
    disk.fill()
    with pytest.raises(DiskFull, match="free some space"):
        until(lambda: trainer.poll(run).state != "running")
    disk.free()
    trainer.submit(run)
    until(lambda: trainer.poll(run).state != "running")
    assert trainer.poll(run).state == "finished"
    progress = (disk.folder / "base/output/data/progress.jsonl").read_text(encoding="utf-8")
    assert progress.count('"epoch": 1}') == 1, "it did not begin anew"


def test_a_checkpoint_that_does_not_fit_ends_the_training_for_the_disk(disk: Disk) -> None:
    """torch and safetensors wrap the system's error in ones of their own, and what did not fit is gone afterwards."""
    network = nn.Linear(4096, 4096)
    kept = dict.fromkeys(_KEPT)
    run = SimpleNamespace(network=network, optimizer=SGD(network.parameters()), step=1, clock=Clock(), **kept)
    container = Container(disk.folder / "base")

    def checkpoint() -> int:
        save_checkpoint(run, container.checkpoint)
        return 0

    def weights() -> int:
        save_file({"weight": network.weight.detach()}, disk.folder / "weights.safetensors")
        return 0

    for write in (checkpoint, weights):
        container.begin()
        assert container.status_of(write, "it failed") == DiskFull.EXIT_STATUS
        (disk.folder / "weights.safetensors").unlink(missing_ok=True)
        assert shutil.disk_usage(disk.folder).free > 30 * 2**20
    disk.fill()
    container.begin()
    assert container.status_of(checkpoint, "it failed") == DiskFull.EXIT_STATUS


@pytest.mark.slow
def test_a_training_that_ended_for_the_disk_says_so_when_there_is_space_again(disk: Disk) -> None:
    for name in ("snapshot", "champion"):
        (disk.folder / name).mkdir()
    run = Run("retrain-1", disk.folder, disk.folder / "snapshot", disk.folder / "champion", {})
    trainer = LocalTrainer((sys.executable, "-c", f"raise SystemExit({DiskFull.EXIT_STATUS})"))
    trainer.submit(run)
    with pytest.raises(DiskFull, match="free some space"):
        until(lambda: trainer.poll(run).state != "running")


@pytest.mark.slow
def test_metrics_are_not_beside_the_data(tmp_path: Path) -> None:
    with running(tmp_path, log_level="WARNING") as server:
        [child] = server.children()
        [variable] = [
            item for item in Path(f"/proc/{child}/environ").read_bytes().split(b"\0") if item.startswith(b"PROMETHEUS_")
        ] or [b"="]
        assert not (tmp_path / "data" / "metrics").exists()
        assert os.fsencode(tmp_path) not in variable


def test_a_model_from_sagemaker_that_does_not_fit_is_no_damaged_one(disk: Disk, tmp_path: Path) -> None:
    weights = os.urandom(2**20)
    described = {"sha256": hashlib.sha256(weights).hexdigest(), "bytes": len(weights)}
    files = {"model.safetensors": weights, "version.json": toy_info(files={"model.safetensors": described}).to_json()}
    with tarfile.open(tmp_path / "model.tar.gz", "w:gz") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    bundle = disk.folder / "model.part"
    bundle.mkdir()
    disk.fill()
    with pytest.raises(DiskFull, match=r"model\.part is full"):
        extract_bundle(tmp_path / "model.tar.gz", bundle)
    disk.free()
    shutil.rmtree(bundle)
    bundle.mkdir()
    extract_bundle(tmp_path / "model.tar.gz", bundle)
