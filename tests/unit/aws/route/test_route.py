from __future__ import annotations

import io
import re
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest

from segloop.aws.clients import Clients
from segloop.aws.route import Options, templates
from segloop.aws.route.change_sets import Event
from segloop.aws.route.connect import actions_of
from segloop.aws.route.options import origin_of, route_parameters, sagemaker_parameters
from segloop.aws.route.stack import TEMPLATE_BYTES, Stack
from segloop.cli.aws import aws
from segloop.errors import SettingsError, TrainerUnavailable
from segloop.settings import load_settings

ROOT = Path(__file__).parents[4]
KEY = "arn:aws:kms:us-east-1:123456789012:key/0a1b-2c"


def test_what_is_not_given_is_not_sent() -> None:
    assert route_parameters(Options("street")) == {"PipelineName": "street"}
    assert sagemaker_parameters(Options("street")) == {"PipelineName": "street"}


def test_keys_and_a_vpc_are_parameters() -> None:
    options = Options("street", output_key=KEY, subnets=("subnet-1a", "subnet-2b"), security_groups=("sg-3c",))
    expected = {
        "OutputKmsKeyArn": KEY,
        "Subnets": "subnet-1a,subnet-2b",
        "SecurityGroups": "sg-3c",
        "PipelineName": "street",
    }
    assert sagemaker_parameters(options) == expected
    none = Options("street", output_key="", subnets=(), security_groups=())
    assert sagemaker_parameters(none) == {**dict.fromkeys(expected, ""), "PipelineName": "street"}


def test_parameters_are_text() -> None:
    options = Options(
        "street",
        annotations=20,
        count_updates=False,
        label_studio_url="https://labels.example.org:8443/studio/",
        endpoint="",
        minimum_miou=0.25,
        spot=True,
        image="123456789012.dkr.ecr.eu-west-1.amazonaws.com/own/image@sha256:00",
        inference_image="123456789012.dkr.ecr.eu-west-1.amazonaws.com/own/serving:2",
        store="s3://versions/of/street/",
        wheels="s3://wheels/street",
    )
    assert route_parameters(options) == {
        "AnnotationsPerTraining": "20",
        "CountUpdates": "false",
        "LabelStudioUrl": "https://labels.example.org:8443/studio/",
        "LabelStudioOrigin": "https://labels.example.org:8443",
        "EndpointName": "",
        "PipelineName": "street",
    }
    assert sagemaker_parameters(options) == {
        "MinimumMiou": "0.25",
        "UseSpot": "true",
        "TrainingImage": "123456789012.dkr.ecr.eu-west-1.amazonaws.com/own/image@sha256:00",
        "TrainingRepository": "own/image",
        "InferenceImage": "123456789012.dkr.ecr.eu-west-1.amazonaws.com/own/serving:2",
        "InferenceRepository": "own/serving",
        "StoreUri": "s3://versions/of/street",
        "WheelsUri": "s3://wheels/street/",
        "PipelineName": "street",
    }
    assert origin_of("http://localhost:8080/projects") == "http://localhost:8080"


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"name": "Street"}, "--name 'Street'"),
        ({"name": "a" * 21}, "2 to 20 small letters"),
        ({"name": "street-"}, "no dash last"),
        ({"annotations": 0}, "--annotations 0: use 1 to 1e"),
        ({"target": "segloop", "segloop_url": "http://segloop.example.org"}, "it has to be https://"),
        ({"segloop_url": "segloop.example.org"}, "write an address with https://"),
        ({"endpoint": "Street", "label_studio_url": "https://a.b"}, "--endpoint 'Street'"),
        ({"log_days": 8}, "--log-days 8: CloudWatch keeps logs for one of 1, 3, 5"),
        ({"worker_concurrency": 1}, "--worker-concurrency 1"),
        ({"instance": "g4dn.xlarge"}, "is no instance type of SageMaker"),
        ({"image": "pytorch/pytorch"}, "--image 'pytorch/pytorch': SageMaker takes images of ECR"),
        ({"inference_image": "own:1"}, "--inference-image 'own:1': SageMaker takes images of ECR"),
        ({"max_runtime_s": 59}, "--max-runtime 59: use 60 to"),
        ({"minimum_miou": 1.1}, "--minimum-miou 1.1: use 0 to 1"),
        ({"alarm_topic": "mine"}, "--alarm-topic 'mine' is no ARN"),
        ({"output_key": "alias/mine"}, "--output-kms-key 'alias/mine' is no ARN"),
        ({"volume_key": KEY, "instance": "ml.g4dn.xlarge"}, "--volume-kms-key does not go with ml.g4dn.xlarge"),
        ({"subnets": ("subnet-1a",)}, "--subnet and --security-group go together"),
        ({"subnets": ("net",), "security_groups": ("sg-1",)}, "--subnet 'net': write an id"),
        ({"subnets": ("subnet-1",), "security_groups": tuple(f"sg-{n}" for n in range(6))}, "SageMaker takes 5"),
        ({"store": "https://bucket/prefix"}, "--store 'https://bucket/prefix': write s3://"),
    ],
)
def test_a_bad_option_is_named_before_anything_is_sent(given: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingsError) as raised:
        Options(**given)
    assert message in str(raised.value)


def test_what_goes_together_may_be_there_already() -> None:
    for options, parameter, message in (
        (Options(target="segloop"), "SegloopUrl", "--target segloop needs --segloop-url"),
        (Options(endpoint="street"), "LabelStudioUrl", "--endpoint needs --label-studio-url"),
    ):
        (missing,) = options.missing({parameter: ""})
        assert missing.startswith(message)
        assert not list(options.missing({parameter: "https://there.example.org"}))


def test_all_that_is_wrong_is_said_at_once() -> None:
    wrong = {"annotations": 0, "log_days": 8, "minimum_miou": 2.0, "instance": "g4dn"}
    with pytest.raises(SettingsError) as raised:
        Options(**wrong)
    assert str(raised.value).splitlines() == Options(**wrong, is_checked=False).problems()
    assert len(str(raised.value).splitlines()) == len(wrong)


def test_the_archive_of_the_same_source_is_the_same() -> None:
    digest, data = templates.webhook_archive()
    assert templates.webhook_archive() == (digest, data)
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        names = archive.namelist()
        assert "LsCustomWebhook.py" in names
        assert {name: archive.read(name) for name in names} == {
            path.name: path.read_bytes() for path in (ROOT / "aws" / "webhook").glob("*.py")
        }


@pytest.mark.parametrize("name", [templates.TEMPLATE, templates.SAGEMAKER_TEMPLATE])
def test_cloudformation_takes_the_templates(name: str) -> None:
    """What neither cfn-lint nor ministack minds: AWS takes 51,200 bytes, and no YAML aliases."""
    import yaml

    text = templates.template(name)
    assert len(text.encode()) <= TEMPLATE_BYTES
    tokens = {type(token).__name__ for token in yaml.scan(text)}
    assert not tokens & {"AliasToken", "AnchorToken"}


@pytest.mark.slow
def test_an_installed_package_has_the_templates(tmp_path: Path) -> None:
    """What setup.py puts into a wheel, without the compiled codec."""
    build = [sys.executable, "setup.py", "-q", "build_py", "--build-lib", str(tmp_path / "lib")]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True, timeout=120)
    found = subprocess.run(
        [
            sys.executable,
            "-c",
            "from segloop.aws.route import templates; print(templates.folder()); print(templates.webhook_archive()[0])",
        ],
        cwd=tmp_path / "lib",
        env={"PYTHONPATH": str(tmp_path / "lib"), "PATH": ""},
        check=True,
        capture_output=True,
        text=True,
        timeout=60,
    ).stdout.split()
    assert found == [str(tmp_path / "lib" / "segloop" / "aws" / "templates"), templates.webhook_archive()[0]]


def test_an_account_that_cannot_be_reached_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"ENDPOINT_URL": "http://127.0.0.1:9", "ACCESS_KEY_ID": "a", "SECRET_ACCESS_KEY": "b"}.items():
        monkeypatch.setenv(f"AWS_{name}", value)
    with pytest.raises(TrainerUnavailable, match="cannot be reached for cloudformation:DescribeStacks"):
        Stack(Clients(load_settings(None), attempts=1, region="us-east-1"), "street").describe()


def test_a_project_tells_of_what_is_used_and_no_more() -> None:
    assert actions_of({}) == ("ANNOTATION_CREATED", "ANNOTATIONS_CREATED")
    both = actions_of({"CountUpdates": "true", "EndpointName": "street"})
    assert both == ("ANNOTATION_CREATED", "ANNOTATIONS_CREATED", "ANNOTATION_UPDATED", "TASKS_CREATED")


def test_a_failure_is_told_from_its_consequences() -> None:
    def event(status: str, reason: str) -> Event:
        return Event("1", "Bucket", "", "AWS::S3::Bucket", status, reason)

    assert event("CREATE_FAILED", "The bucket exists").is_failure
    assert not event("CREATE_FAILED", "Resource creation cancelled").is_failure
    assert not event("CREATE_COMPLETE", "").is_failure


def test_the_page_shows_commands_and_options_that_exist() -> None:
    """docs/aws.md: each command parses, each option is one, and every option of deploy but a few is there."""
    text = (ROOT / "docs" / "aws.md").read_text("utf-8")
    commands = [line.split()[2:] for line in text.splitlines() if line.startswith("segloop aws ")]
    assert {command[0] for command in commands} == set(aws.commands)
    for name, *arguments in commands:
        aws.commands[name].make_context(name, list(arguments))
    known = {
        option
        for command in aws.commands.values()
        for one in command.params
        for option in (*one.opts, *one.secondary_opts)
    }
    assert set(re.findall(r"`(--[a-z0-9-]+)", text)) <= known
    own = {option for one in aws.commands["deploy"].params for option in one.opts}
    assert own - set(re.findall(r"--[a-z0-9-]+", text)) == {"--log-days", "--region", "--store"}
