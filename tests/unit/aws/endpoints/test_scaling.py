"""Scaling and deletion of endpoints, against moto."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import boto3
import pytest
from click.testing import CliRunner

from segloop.aws.clients import Clients
from segloop.aws.endpoints.scaling import delete, scale
from segloop.cli import main
from segloop.errors import EngineError, SettingsError
from segloop.settings import Settings
from tests.aws.moto_server import running_moto

REGION = "us-east-1"


@pytest.fixture(scope="module")
def moto_url() -> Iterator[str]:
    with running_moto() as url:
        yield url


@pytest.fixture
def clients(moto_url: str, monkeypatch: pytest.MonkeyPatch) -> Clients:
    monkeypatch.setenv("AWS_ENDPOINT_URL", moto_url)
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "test")
    return Clients(Settings(_env_file=None), region=REGION)


def make(clients: Clients, endpoint: str, config: str) -> None:
    sagemaker = clients.sagemaker
    role = "arn:aws:iam::123456789012:role/segloop"
    sagemaker.create_model(ModelName=f"{config}-model", ExecutionRoleArn=role, PrimaryContainer={"Image": "own:1"})
    variant = {
        "VariantName": "segloop",
        "ModelName": f"{config}-model",
        "InstanceType": "ml.c5.xlarge",
        "InitialInstanceCount": 1,
    }
    sagemaker.create_endpoint_config(EndpointConfigName=config, ProductionVariants=[variant])
    sagemaker.create_endpoint(EndpointName=endpoint, EndpointConfigName=config)


def targets(clients: Clients) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = clients.client("application-autoscaling").describe_scalable_targets(
        ServiceNamespace="sagemaker"
    )["ScalableTargets"]
    return found


@pytest.mark.slow
def test_an_endpoint_is_scaled_and_deleted_with_all_that_is_its(clients: Clients) -> None:
    make(clients, "street", "segloop-v1")
    for most in (3, 4):
        scale(clients, "street", 1, most)
    (target,) = targets(clients)
    assert (target["ResourceId"], target["MinCapacity"], target["MaxCapacity"]) == (
        "endpoint/street/variant/segloop",
        1,
        4,
    )
    (policy,) = clients.client("application-autoscaling").describe_scaling_policies(ServiceNamespace="sagemaker")[
        "ScalingPolicies"
    ]
    assert policy["TargetTrackingScalingPolicyConfiguration"]["TargetValue"] == 60
    assert delete(clients, "street") == ["endpoint street", "configuration segloop-v1", "model segloop-v1-model"]
    assert targets(clients) == []
    sagemaker = boto3.client("sagemaker", REGION)
    assert sagemaker.list_endpoints()["Endpoints"] == []
    assert sagemaker.list_endpoint_configs()["EndpointConfigs"] == []
    assert sagemaker.list_models()["Models"] == []
    assert delete(clients, "street") == []


def test_an_endpoint_of_somebody_else_stays(clients: Clients) -> None:
    make(clients, "theirs", "theirs-1")
    with pytest.raises(EngineError, match="which segloop did not make"):
        delete(clients, "theirs")
    clients.sagemaker.delete_endpoint(EndpointName="theirs")


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        (["--min", "2"], "--min goes with --max"),
        (["--min", "3", "--max", "2"], "--min 3 --max 2"),
        (["--max", "2", "--serverless", "2048"], "not with --serverless"),
        (["--min", "0", "--max", "2"], "--min 0 --max 2"),
    ],
)
def test_bounds_that_make_no_sense_are_named(options: list[str], problem: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from segloop.cli.sagemaker import _bounds

    values = dict(zip(options[::2], options[1::2], strict=True))
    least, most = (int(values[name]) if name in values else None for name in ("--min", "--max"))
    with pytest.raises(SettingsError, match=problem):
        _bounds(least, most, 1, is_serverless="--serverless" in values)


@pytest.mark.slow
def test_the_command_asks_and_says_what_it_deleted(clients: Clients) -> None:
    make(clients, "lane", "segloop-v2")
    arguments = ["sagemaker", "delete", "--endpoint", "lane", "--region", REGION]
    assert CliRunner().invoke(main, arguments, input="n").exit_code == 1
    result = CliRunner().invoke(main, [*arguments, "--yes"])
    assert "deleted: endpoint lane, configuration segloop-v2" in result.output
    assert "there is no endpoint lane" in CliRunner().invoke(main, [*arguments, "--yes"]).output
