"""What tests of the SageMaker trainer have: an emulator, moto's S3, and runs that take no time."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from segloop.aws.training import SageMakerTrainer
from segloop.settings import Settings
from segloop.trainers.base import Run, RunStatus
from tests.aws.moto_server import running_moto
from tests.aws.sagemaker_emulator import Emulator
from tests.snapshots import Example, write_snapshot
from tests.waiting import until

ROLE = "arn:aws:iam::123456789012:role/segloop-training"
#: Real seconds for a second of SageMaker's.
SECOND_S = 1 / 60


@pytest.fixture(scope="module")
def s3_server() -> Iterator[str]:
    with running_moto() as url:
        yield url


@pytest.fixture
def emulator(s3_server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Emulator]:
    with Emulator(s3_server, tmp_path / "instances", second_s=SECOND_S) as emulator:
        for name, value in {
            "AWS_ENDPOINT_URL_S3": s3_server,
            "AWS_ENDPOINT_URL_SAGEMAKER": emulator.url,
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": "test",
            "AWS_DEFAULT_REGION": "us-east-1",
        }.items():
            monkeypatch.setenv(name, value)
        emulator.s3.create_bucket(Bucket=bucket_of(tmp_path))
        yield emulator


def bucket_of(tmp_path: Path) -> str:
    return tmp_path.name.replace("_", "-").lower()


def settings_of(tmp_path: Path, **own: Any) -> Settings:
    s3 = f"s3://{bucket_of(tmp_path)}/segloop"
    return Settings(sagemaker_s3=s3, sagemaker_role=ROLE, sagemaker_poll_s=0.05, **own)


def trainer_of(tmp_path: Path, *, attempts: int = 3, **own: Any) -> SageMakerTrainer:
    code = tmp_path / "code"
    code.mkdir(exist_ok=True)
    shutil.copy(Path(__file__).with_name("tiny_sagemaker.py"), code / "train.py")
    return SageMakerTrainer(settings_of(tmp_path, **own), code=code, attempts=attempts)


def examples(count: int, size: int = 8) -> list[Example]:
    """Images whose class is their brightness; the last one is held out."""
    made: list[Example] = []
    for number in range(count):
        image = np.full((size, size, 3), 10 * number, np.uint8)
        image[:, size // 2 :] += 128
        class_map = (image[..., 0] >= 128).astype(np.uint8)
        made.append((image, class_map, "val" if number == 0 else "train"))
    return made


def run_of(tmp_path: Path, name: str = "retrain-7-1795383040-0a1b2c3d", tasks: int = 3, **hyperparameters: str) -> Run:
    folder = tmp_path / "runs" / name
    folder.mkdir(parents=True, exist_ok=True)
    write_snapshot(folder / "snapshot", ["bright"], examples(tasks))
    return Run(name, folder, folder / "snapshot", None, {"train_epochs": "3", "device": "cpu", **hyperparameters})


def finish(trainer: SageMakerTrainer, run: Run) -> RunStatus:
    until(lambda: trainer.poll(run).state != "running")
    return trainer.poll(run)
