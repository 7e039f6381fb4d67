"""The SageMaker trainer with a user's own pipeline, and the events that tell of ends."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import boto3
import pytest

from segloop.aws.training.events import Events
from segloop.errors import TrainingError
from segloop.settings import Settings
from tests.aws.sagemaker_emulator import Emulator
from tests.aws.sagemaker_runs import ROLE, emulator, finish, run_of, s3_server, trainer_of
from tests.waiting import until

__all__ = ["emulator", "s3_server"]

pytestmark = pytest.mark.slow


# -- a pipeline

PARAMETERS = ("SnapshotS3Uri", "CodeS3Uri", "ModelS3Uri", "OutputS3Uri", "CheckpointS3Uri", "TrainEpochs")


def channel(name: str, parameter: str) -> dict[str, Any]:
    return {
        "ChannelName": name,
        "DataSource": {"S3DataSource": {"S3DataType": "S3Prefix", "S3Uri": {"Get": f"Parameters.{parameter}"}}},
    }


def pipeline(parameters: tuple[str, ...] = PARAMETERS) -> dict[str, Any]:
    arguments = {
        "RoleArn": ROLE,
        "AlgorithmSpecification": {
            "TrainingImage": "image",
            "TrainingInputMode": "File",
            "ContainerEntrypoint": ["python3", "/opt/ml/input/data/code/train.py"],
        },
        "HyperParameters": {"train_epochs": {"Get": "Parameters.TrainEpochs"}},
        "InputDataConfig": [
            channel("snapshot", "SnapshotS3Uri"),
            channel("code", "CodeS3Uri"),
            channel("model", "ModelS3Uri"),
        ],
        "OutputDataConfig": {"S3OutputPath": {"Get": "Parameters.OutputS3Uri"}},
        "CheckpointConfig": {"S3Uri": {"Get": "Parameters.CheckpointS3Uri"}},
        "ResourceConfig": {"InstanceType": "ml.m5.xlarge", "InstanceCount": 1, "VolumeSizeInGB": 30},
        "StoppingCondition": {"MaxRuntimeInSeconds": 3600},
    }
    return {
        "Version": "2020-12-01",
        "Parameters": [{"Name": name, "Type": "String"} for name in parameters],
        "Steps": [{"Name": "Train", "Type": "Training", "Arguments": arguments}],
    }


def test_a_pipeline_trains(emulator: Emulator, tmp_path: Path) -> None:
    emulator.pipelines["segloop"] = pipeline()
    trainer, run = trainer_of(tmp_path, sagemaker_pipeline="segloop"), run_of(tmp_path)
    trainer.submit(run)
    (run.folder / "sagemaker.json").unlink()  # killed before it was written
    trainer.submit(run)
    assert len(emulator.executions) == 1
    assert finish(trainer, run).state == "finished"
    inputs = (trainer.collect(run) / "version.json").read_text("utf-8")
    assert "model/nothing" in inputs


def test_a_pipeline_is_stopped_and_goes_on(emulator: Emulator, tmp_path: Path) -> None:
    emulator.pipelines["segloop"] = pipeline()
    trainer, run = trainer_of(tmp_path, sagemaker_pipeline="segloop"), run_of(tmp_path, train_epochs="60")
    trainer.submit(run)
    until(lambda: (trainer.poll(run).progress or {}).get("stage") == "Training")
    trainer.stop(run)
    assert trainer.poll(run).state == "lost"
    trainer.submit(run)
    assert len(emulator.executions) == 2
    assert finish(trainer, run).state == "finished"


@pytest.mark.parametrize(
    ("parameters", "expected"),
    [(PARAMETERS[1:], "no parameter SnapshotS3Uri"), ((*PARAMETERS, "Colour"), "parameter Colour has no default")],
)
def test_a_pipeline_that_does_not_fit(
    emulator: Emulator, tmp_path: Path, parameters: tuple[str, ...], expected: str
) -> None:
    emulator.pipelines["segloop"] = pipeline(parameters)
    with pytest.raises(TrainingError, match=expected):
        trainer_of(tmp_path, sagemaker_pipeline="segloop").submit(run_of(tmp_path))
    assert emulator.executions == {}


# -- events


def test_events_tell_of_ends(s3_server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL_SQS", s3_server)
    keys = {"aws_access_key_id": "test", "aws_secret_access_key": "test"}
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    client = boto3.client("sqs", "us-east-1", endpoint_url=s3_server, **keys)
    url = client.create_queue(QueueName="segloop-events")["QueueUrl"]

    def event(status: str, run_id: str) -> str:
        detail = {"TrainingJobStatus": status, "HyperParameters": {"segloop_run": run_id}}
        return json.dumps({"detail-type": "SageMaker Training Job State Change", "detail": detail})

    for body in (event("InProgress", "a"), event("Completed", "b"), event("Stopped", "c"), "hello", "{}"):
        client.send_message(QueueUrl=url, MessageBody=body)
    events = Events(Settings(sagemaker_region="us-east-1"), url)
    ended: list[str] = []
    assert events.take(ended.append) == 5
    assert sorted(ended) == ["b", "c"]
    assert events.take(ended.append) == 0
    client.close()
