"""The parts of the SageMaker trainer that need no AWS: names, requests and their rules, statuses, costs, docs/sagemaker.md."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import boto3
import click
import pytest
from botocore.session import get_session

from segloop.aws.checks import check_request, check_settings, tag_problems
from segloop.aws.training import entry, requests
from segloop.aws.training.requests import JobSpec, default_image, job_name, max_wait_s, training_job
from segloop.aws.training.status import status_of
from segloop.aws.training.trainer import SageMakerTrainer
from segloop.cli import main
from segloop.errors import SettingsError, TrainingError
from segloop.settings import Settings
from segloop.trainers.base import Run

ROOT = Path(__file__).parents[4]
ROLE = "arn:aws:iam::123456789012:role/segloop-training"


# -- names


def test_a_name_follows_from_the_run() -> None:
    assert job_name("retrain-7-1795383040-0a1b2c3d", 1) == "segloop-retrain-7-1795383040-0a1b2c3d-1"
    assert job_name("retrain-7-1795383040-0a1b2c3d", 2) == "segloop-retrain-7-1795383040-0a1b2c3d-2"


@pytest.mark.parametrize("run_id", ["r" * 54, "r" * 200, "a_b", "a.b", "___", "é", "-a-"])
@pytest.mark.parametrize("attempt", [1, 12])
def test_any_run_has_a_name_of_its_own(run_id: str, attempt: int) -> None:
    name = job_name(run_id, attempt)
    assert len(name) <= 63
    assert re.fullmatch("[a-zA-Z0-9](-*[a-zA-Z0-9])*", name)
    assert name != job_name(f"{run_id}x", attempt)
    assert name != job_name(run_id.replace("_", ".") + ".", attempt)


def test_images() -> None:
    assert default_image("us-east-1", "ml.g5.xlarge") == (
        "763104351884.dkr.ecr.us-east-1.amazonaws.com/pytorch-training:2.10.0-gpu-py313"
    )
    assert default_image("eu-south-1", "ml.m5.xlarge") == (
        "692866216735.dkr.ecr.eu-south-1.amazonaws.com/pytorch-training:2.10.0-cpu-py313"
    )
    assert ".amazonaws.com.cn/" in default_image("cn-north-1", "ml.p3.2xlarge")
    with pytest.raises(SettingsError, match=r"SEGLOOP_SAGEMAKER_IMAGE.*mars-1"):
        default_image("mars-1", "ml.m5.xlarge")


# -- requests


def sagemaker_settings(**own: Any) -> Settings:
    return Settings(**{"sagemaker_s3": "s3://bucket/segloop", "sagemaker_role": ROLE, **own})


def request_of(settings: Settings, **hyperparameters: str) -> dict[str, Any]:
    inputs = {"snapshot": "s3://bucket/snapshot/", "code": "s3://bucket/code/"}
    spec = JobSpec("name", "run", inputs, hyperparameters, "s3://bucket/output/", "s3://bucket/checkpoints/")
    return training_job(settings, "us-east-1", spec)


def check(settings: Settings, **hyperparameters: str) -> dict[str, Any]:
    check_settings(settings)
    request = request_of(settings, **hyperparameters)
    keys = {"aws_access_key_id": "test", "aws_secret_access_key": "test"}
    client = boto3.client("sagemaker", "us-east-1", **keys)
    check_request(client, "CreateTrainingJob", request)
    client.close()
    return request


def test_a_plain_request_fits() -> None:
    request = check(sagemaker_settings(), train_epochs="20")
    assert request["AlgorithmSpecification"]["ContainerEntrypoint"] == ["python3", "/opt/ml/input/data/code/train.py"]
    assert request["StoppingCondition"] == {"MaxRuntimeInSeconds": 14400}
    assert request["RetryStrategy"] == {"MaximumRetryAttempts": 2}
    assert {"VpcConfig", "KeepAlivePeriodInSeconds"}.isdisjoint(request | request["ResourceConfig"])


def test_every_option_fits() -> None:
    request = check(
        sagemaker_settings(
            sagemaker_spot=True,
            sagemaker_instance="ml.p3.2xlarge",
            sagemaker_instances=2,
            sagemaker_volume_kms_key="arn:aws:kms:us-east-1:123456789012:key/abc",
            sagemaker_output_kms_key="alias/segloop",
            sagemaker_subnets="subnet-1, subnet-2",
            sagemaker_security_groups="sg-1",
            sagemaker_tags="team=vision, cost = 7",
        )
    )
    assert request["StoppingCondition"]["MaxWaitTimeInSeconds"] == 28800
    assert request["VpcConfig"] == {"Subnets": ["subnet-1", "subnet-2"], "SecurityGroupIds": ["sg-1"]}
    assert request["Tags"][1:] == [{"Key": "team", "Value": "vision"}, {"Key": "cost", "Value": "7"}]
    assert check(sagemaker_settings(sagemaker_warm_pool_s=600))["ResourceConfig"]["KeepAlivePeriodInSeconds"] == 600


def test_metrics_are_read_from_the_entrys_lines() -> None:
    definitions = request_of(sagemaker_settings())["AlgorithmSpecification"]["MetricDefinitions"]
    line = f"{entry.PROGRESS} {json.dumps({'phase': 'training', 'epoch': 1, 'step': 12, 'steps': 20, 'loss': 2.5e-05, 'miou': 0.5, 'eta_s': 3.1})}"
    found = {item["Name"]: match[1] for item in definitions if (match := re.search(item["Regex"], line))}
    assert found["segloop:loss"] == "2.5e-05"
    assert found["segloop:step"] == "12"
    assert found["segloop:steps"] == "20"
    assert entry.PROGRESS == requests.PROGRESS


@pytest.mark.parametrize(
    ("own", "expected"),
    [
        ({"sagemaker_s3": "bucket"}, r"SEGLOOP_SAGEMAKER_S3 is 'bucket'"),
        ({"sagemaker_s3": ""}, "SEGLOOP_SAGEMAKER_S3 is ''"),
        ({"sagemaker_role": ""}, "SEGLOOP_SAGEMAKER_ROLE is empty"),
        ({"sagemaker_role": "segloop"}, "SEGLOOP_SAGEMAKER_ROLE does not fit"),
        ({"sagemaker_wheels": "wheels"}, "SEGLOOP_SAGEMAKER_WHEELS"),
        ({"sagemaker_tags": "team"}, "SEGLOOP_SAGEMAKER_TAGS has 'team'"),
        ({"sagemaker_subnets": "subnet-1"}, "SEGLOOP_SAGEMAKER_SECURITY_GROUPS go together"),
        ({"sagemaker_spot": True, "sagemaker_warm_pool_s": 60}, "SEGLOOP_SAGEMAKER_WARM_POOL_S can't be used"),
        ({"sagemaker_spot": True, "sagemaker_max_wait_s": 60}, "SEGLOOP_SAGEMAKER_MAX_WAIT_S is 60, less than"),
        ({"sagemaker_volume_kms_key": "alias/key"}, "SEGLOOP_SAGEMAKER_VOLUME_KMS_KEY can't be used with ml.g4dn"),
        (
            {"sagemaker_instance": "g4dn.xlarge"},
            "SEGLOOP_SAGEMAKER_INSTANCE does not fit.*'g4dn.xlarge' is none that this version of boto3 knows",
        ),
        ({"sagemaker_output_kms_key": "a key"}, "SEGLOOP_SAGEMAKER_OUTPUT_KMS_KEY does not fit"),
        ({"sagemaker_tags": ",".join(f"k{n}=v" for n in range(60))}, "SEGLOOP_SAGEMAKER_TAGS does not fit"),
        ({"sagemaker_image": "i" * 300}, "SEGLOOP_SAGEMAKER_IMAGE does not fit"),
    ],
)
def test_a_setting_that_does_not_fit_is_named(own: dict[str, Any], expected: str) -> None:
    with pytest.raises(SettingsError, match=expected):
        check(sagemaker_settings(**own))


@pytest.mark.slow
def test_a_hyperparameter_that_is_too_long_is_named() -> None:
    with pytest.raises(SettingsError, match="SEGLOOP_WEIGHTS has 300 characters"):
        check(sagemaker_settings(), weights="w" * 300)


def test_a_region_is_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_DEFAULT_REGION", raising=False)
    with pytest.raises(SettingsError, match="SEGLOOP_SAGEMAKER_REGION"):
        SageMakerTrainer(sagemaker_settings())


def test_weights_of_this_machine_travel(tmp_path: Path) -> None:
    weights = tmp_path / "own.safetensors"
    weights.write_bytes(b"weights")
    trainer = SageMakerTrainer(sagemaker_settings(sagemaker_region="us-east-1"))
    run = Run("run", tmp_path, tmp_path, None, {"weights": str(weights)})
    assert trainer._hyperparameters(run) == {"weights": "/opt/ml/input/data/weights/own.safetensors"}
    with pytest.raises(TrainingError, match=r"SEGLOOP_WEIGHTS is '/nowhere'"):
        trainer._hyperparameters(Run("run", tmp_path, tmp_path, None, {"weights": "/nowhere"}))


# -- statuses

JOB = {"TrainingJobName": "job", "TrainingJobStatus": "InProgress", "SecondaryStatus": "Training"}


@pytest.mark.parametrize(
    ("secondary", "stage"),
    [
        ("Starting", "Starting"),
        ("LaunchingMLInstances", "Starting"),
        ("DownloadingTrainingImage", "Downloading"),
        ("Training", "Training"),
        ("Interrupted", "Interrupted"),
        ("Uploading", "Uploading"),
    ],
)
def test_stages(secondary: str, stage: str) -> None:
    status = status_of({**JOB, "SecondaryStatus": secondary})
    assert status.state == "running"
    assert (status.progress or {})["stage"] == stage


@pytest.mark.parametrize(
    ("status", "secondary", "state"),
    [
        ("Completed", "Completed", "finished"),
        ("Failed", "Failed", "failed"),
        ("Stopping", "Stopping", "running"),
        ("Stopped", "Stopped", "lost"),
        ("Stopped", "MaxRuntimeExceeded", "failed"),
        ("Stopped", "MaxWaitTimeExceeded", "failed"),
    ],
)
def test_ends(status: str, secondary: str, state: str) -> None:
    job = {**JOB, "TrainingJobStatus": status, "SecondaryStatus": secondary}
    assert status_of(job).state == state


def test_costs() -> None:
    job = {
        **JOB,
        "TrainingTimeInSeconds": 1000,
        "BillableTimeInSeconds": 300,
        "EnableManagedSpotTraining": True,
        "ResourceConfig": {"InstanceCount": 2},
    }
    progress = status_of(job, price_per_hour=6.0).progress or {}
    assert progress["cost"] == 1.0  # 300 s * 2 instances * 6 an hour / 3600 s
    assert progress["spot_saving"] == 0.7
    assert "cost" not in (status_of(job).progress or {})


# -- the page


def test_the_page_lists_every_permission_and_its_policies_are_json() -> None:
    page = (ROOT / "docs" / "sagemaker.md").read_text("utf-8")
    folders = ("segloop/aws", "segloop/aws/training", "segloop/aws/endpoints")
    files = [path for folder in folders for path in (ROOT / folder).glob("*.py")]
    source = "".join(path.read_text("utf-8") for path in files)
    actions = set(re.findall(r'explained\("([a-z0-9]+:[A-Za-z]+)"\)', source))
    assert {"s3:PutObject", "sagemaker:CreateTrainingJob", "sqs:DeleteMessage", "sagemaker:UpdateEndpoint"} <= actions
    fenced = re.findall(r"(?ms)^```(\w*)\n(.*?)^```$", page)
    plain = "".join(text for language, text in fenced if language == "sh")
    commands = re.findall(r"^segloop (.*)$", plain, re.MULTILINE)
    assert commands
    for command in commands:
        names = [word for word in command.split() if not word.startswith("-")]
        options = {word for word in command.split() if word.startswith("--")}
        found: Any = main
        while isinstance(found, click.Group):
            found = found.commands[names.pop(0)]
        assert options <= {name for parameter in found.params for name in parameter.opts}, command
    assert {action for action in actions if action not in page} == set()
    blocks = re.findall(r"(?s)```json\n(.*?)```", page)
    assert len(blocks) >= 5
    for block in blocks:
        content = json.loads(block)
        json.loads(content.get("Policy", "{}"))
    for name in re.findall(r"SEGLOOP_(SAGEMAKER_[A-Z0-9_]+)", page):
        assert name.lower() in Settings.model_fields


@pytest.mark.slow
def test_every_region_of_sagemaker_has_its_image_or_is_refused() -> None:
    session = get_session()
    for partition in ("aws", "aws-cn", "aws-us-gov"):
        regions = session.get_available_regions("sagemaker", partition)
        assert regions
        for region in regions:
            assert f".dkr.ecr.{region}.amazonaws.com" in default_image(region, "ml.m5.xlarge")
    for partition in ("aws-iso", "aws-iso-b", "aws-eusc"):
        for region in session.get_available_regions("sagemaker", partition):
            with pytest.raises(SettingsError, match=region):
                default_image(region, "ml.m5.xlarge")


@pytest.mark.parametrize(
    ("tags", "problem"),
    [
        (("team",), "'team': write name=value"),
        (("=x",), "write name=value"),
        (("aws:team=x",), "begin with aws:"),
        (("a" * 129 + "=x",), "128 characters"),
        (("a=" + "x" * 257,), "a value 256"),
        (("a=b;c",), "AWS takes letters"),
        (("a=1", "a=2"), "has 'a' more than once"),
        (tuple(f"t{number}=x" for number in range(46)), "46 tags; AWS takes 45"),
    ],
)
def test_tags_are_held_against_aws_rules(tags: tuple[str, ...], problem: str) -> None:
    (found,) = tag_problems(tags)
    assert problem in found
    assert not list(tag_problems(("Kosten Stelle=Straße 7", "a:b/c=d=e@f")))


def test_a_spot_training_may_wait_as_long_as_it_may_train() -> None:
    assert [max_wait_s(seconds) for seconds in (60, 43200, 28 * 86400)] == [120, 86400, 28 * 86400]
