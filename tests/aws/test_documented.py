"""The table of what AWS documents: it finds what is wrong, and the templates keep to it. Requests are watched by conftest.py."""

from __future__ import annotations

import copy
import json
import re
from functools import cache
from pathlib import Path
from typing import Any

import botocore.session
import pytest

from segloop.aws.training.requests import JobSpec, training_job
from segloop.settings import Settings
from tests.aws.documented import RESOURCES, RULES, problems_of, resource_problems
from tests.aws.sagemaker_emulator.template import Template

AWS = Path(__file__).resolve().parents[2] / "aws"
KEY = "arn:aws:kms:us-east-1:123456789012:key/0a1b-2c"
ROLE = "arn:aws:iam::123456789012:role/training"
PARAMETERS = {
    "template.yaml": {
        "CodeBucket": "route-code",
        "CodeKey": "functions.zip",
        "LabelStudioUrl": "https://labels.example.org",
        "EndpointName": "street",
        "PipelineName": "street",
    },
    "sagemaker.yaml": {
        "SourceBucketName": "route-source",
        "TargetBucketName": "route-target",
        "ArtifactsBucketName": "route-artifacts",
        "CodeUri": "s3://route-artifacts/code/1/",
        "TrainingImage": "763104351884.dkr.ecr.us-east-1.amazonaws.com/pytorch-training:2.10.0-gpu-py313",
        "InferenceImage": "763104351884.dkr.ecr.us-east-1.amazonaws.com/pytorch-inference:2.6.0-cpu-py312",
    },
}


@cache
def model(service: str, operation: str) -> Any:
    return botocore.session.get_session().get_service_model(service).operation_model(operation)


def training(**settings: Any) -> dict[str, Any]:
    """The request of a training job as segloop makes it."""
    spec = JobSpec(
        "a-name",
        "a-run",
        {"code": "s3://route-artifacts/code/"},
        {"weights": "none"},
        "s3://a-bucket/o",
        "s3://a-bucket/c",
    )
    own = {"sagemaker_role": ROLE, "sagemaker_instance": "ml.m5.large", "data_dir": Path("data")}
    return dict(training_job(Settings(**{**own, **settings}), "us-east-1", spec))


def changed(request: dict[str, Any], path: str, value: Any) -> dict[str, Any]:
    request = copy.deepcopy(request)
    *parents, last = path.split(".")
    place: Any = request
    for name in parents:
        place = place[name]
    if value is None:
        place.pop(last)
    else:
        place[last] = value
    return request


def test_trainings_of_segloop_keep_to_it() -> None:
    for settings in (
        {},
        {"sagemaker_spot": True},
        {"sagemaker_warm_pool_s": 600, "sagemaker_tags": ("team=a", "cost=b"), "sagemaker_volume_kms_key": "alias/k"},
        {"sagemaker_subnets": ("subnet-1",), "sagemaker_security_groups": ("sg-1",), "sagemaker_retries": 3},
    ):
        assert list(problems_of("sagemaker", model("sagemaker", "CreateTrainingJob"), training(**settings))) == []


@pytest.mark.parametrize(
    ("path", "value", "says"),
    [
        ("TrainingJobName", "a_name", "63 letters"),
        ("HyperParameters", {f"h{number}": "1" for number in range(101)}, "100 hyperparameters"),
        ("HyperParameters.weights", "x" * 257, "256 characters"),
        ("StoppingCondition.MaxWaitTimeInSeconds", 10**6, "MaxWait with spot alone"),
        ("StoppingCondition.MaxRuntimeInSeconds", 29 * 86400, "28 days"),
        ("ResourceConfig.VolumeSizeInGB", 20_000, "16 TB"),
        ("OutputDataConfig.S3OutputPath", "https://bucket/key", "s3://bucket/key"),
        ("EnableManagedSpotTraining", True, "MaxWait with spot alone"),
        ("Tags", [{"Key": "aws:x", "Value": ""}], "none of AWS's own"),
        ("Tags", [{"Key": "a", "Value": ""}, {"Key": "a", "Value": "1"}], "each once"),
        # of botocore's own model
        ("ResourceConfig.InstanceType", "ml.none", "none that this version of boto3 knows"),
        ("RetryStrategy", {"MaximumRetryAttempts": 31}, "beyond the largest"),
    ],
)
def test_a_wrong_training_is_found(path: str, value: Any, says: str) -> None:
    request = changed(training(), path, value)
    assert says in " ".join(problems_of("sagemaker", model("sagemaker", "CreateTrainingJob"), request))


@pytest.mark.parametrize(
    ("service", "operation", "request_", "says"),
    [
        ("sagemaker", "StartPipelineExecution", {"PipelineName": "a", "ClientRequestToken": "short"}, "32 to 128"),
        ("sagemaker", "CreateEndpointConfig", {"EndpointConfigName": "a", "ProductionVariants": [{"VariantName": "a", "ModelName": "a"}]}, "instances, or serverless"),
        ("s3", "PutObject", {"Bucket": "Upper", "Key": "k"}, "a bucket's name"),
        ("s3", "GetObject", {"Bucket": "192.168.0.1", "Key": "k"}, "a bucket's name"),
        ("s3", "GetObject", {"Bucket": "a-bucket--table-s3", "Key": "k"}, "a bucket's name"),
        ("sagemaker", "CreateModel", {"ModelName": "a", "PrimaryContainer": {"Environment": {f"V{n}": "x" * 1000 for n in range(33)}}}, "32 KB"),
        ("s3", "PutObject", {"Bucket": "a-bucket", "Key": "ä" * 513}, "1,024 bytes"),
        ("s3", "CreateBucket", {"Bucket": "a-bucket", "CreateBucketConfiguration": {"LocationConstraint": "us-east-1"}}, "no LocationConstraint"),
        ("s3", "DeleteObjects", {"Bucket": "a-bucket", "Delete": {"Objects": [{"Key": "k"}] * 1001}}, "1,000 keys"),
        ("sqs", "SendMessage", {"QueueUrl": "q", "MessageBody": "x" * (2**20 + 1)}, "1 MiB"),
        ("sqs", "SendMessageBatch", {"QueueUrl": "q", "Entries": [{"Id": "a", "MessageBody": "x"}] * 2}, "ids of their own"),
        ("sqs", "ReceiveMessage", {"QueueUrl": "q", "MaxNumberOfMessages": 11}, "10 messages"),
        ("cloudformation", "CreateChangeSet", {"StackName": "a", "ChangeSetName": "a", "TemplateBody": "x" * 51_201}, "51,200 bytes"),
        ("cloudformation", "CreateChangeSet", {"StackName": "1a", "ChangeSetName": "a"}, "128 letters"),
        ("application-autoscaling", "RegisterScalableTarget", {"ServiceNamespace": "sagemaker", "ResourceId": "r", "ScalableDimension": "sagemaker:variant:DesiredInstanceCount", "MinCapacity": 2, "MaxCapacity": 1}, "the least at most the most"),
    ],
)  # fmt: skip
def test_a_wrong_request_is_found(service: str, operation: str, request_: dict[str, Any], says: str) -> None:
    assert says in " ".join(problems_of(service, model(service, operation), request_))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["template.yaml", "sagemaker.yaml"])
def test_resources_of_the_templates_keep_to_it(name: str) -> None:
    template = Template(AWS / name, PARAMETERS[name], lambda found: f"arn:aws:x:us-east-1:123456789012:{found}")
    looked = 0
    for kind in {rule.of for rule in RESOURCES}:
        for resource in template.resources(kind):
            assert list(resource_problems(kind, template.resource(resource))) == [], resource
            looked += 1
    assert looked >= 4


def test_the_pipelines_training_keeps_to_it_with_keys_and_a_vpc() -> None:
    own = {
        "OutputKmsKeyArn": KEY,
        "VolumeKmsKeyArn": KEY,
        "InstanceType": "ml.m5.large",
        "Subnets": "subnet-1,subnet-2",
        "SecurityGroups": "sg-1",
        "UseSpot": "true",
    }
    given = {**PARAMETERS["sagemaker.yaml"], **own}
    template = Template(AWS / "sagemaker.yaml", given, lambda found: f"arn:aws:iam::123456789012:role/{found}")
    [pipeline] = template.resources("AWS::SageMaker::Pipeline")
    body = template.resource(pipeline)["PipelineDefinition"]["PipelineDefinitionBody"]
    # what an execution fills in
    request = json.loads(re.sub(r'\{"Get": "[^"]+"\}', '"29"', body))["Steps"][0]["Arguments"]
    request["CheckpointConfig"]["S3Uri"] = "s3://route-artifacts/pipeline/checkpoints/1"
    assert request["VpcConfig"] == {"Subnets": ["subnet-1", "subnet-2"], "SecurityGroupIds": ["sg-1"]}
    assert request["ResourceConfig"]["VolumeKmsKeyId"] == request["OutputDataConfig"]["KmsKeyId"] == KEY
    request["TrainingJobName"] = "pipelines-1-Train-1"
    assert list(problems_of("sagemaker", model("sagemaker", "CreateTrainingJob"), request)) == []


def test_what_the_pipeline_registers_keeps_to_it() -> None:
    template = Template(
        AWS / "sagemaker.yaml", PARAMETERS["sagemaker.yaml"], lambda found: f"arn:aws:iam::123456789012:role/{found}"
    )
    [pipeline] = template.resources("AWS::SageMaker::Pipeline")
    body = template.resource(pipeline)["PipelineDefinition"]["PipelineDefinitionBody"]
    body = body.replace(
        '{"Get": "Steps.Train.ModelArtifacts.S3ModelArtifacts"}',
        '"s3://route-artifacts/pipeline/output/1/model.tar.gz"',
    )
    steps = json.loads(re.sub(r'\{"Get": "[^"]+"\}', '"29"', body))["Steps"]
    request = steps[1]["Arguments"]["IfSteps"][0]["Arguments"]
    created = model("sagemaker", "CreateModelPackage")
    assert list(problems_of("sagemaker", created, request)) == []
    request["InferenceSpecification"]["Containers"][0]["Environment"] = {f"V{number}": "1" for number in range(17)}
    assert "16 variables" in " ".join(problems_of("sagemaker", created, request))


@pytest.mark.parametrize(
    ("kind", "properties", "says"),
    [
        ("AWS::Lambda::Function", {"Timeout": 901}, "15 minutes"),
        ("AWS::Lambda::EventSourceMapping", {"BatchSize": 100}, "need a window"),
        ("AWS::Events::Rule", {"ScheduleExpression": "rate(5 minute)"}, "rate(5 minutes)"),
        ("AWS::Events::Rule", {"ScheduleExpression": "rate(1 minutes)"}, "rate(1 minute)"),
        ("AWS::IAM::Role", {"Policies": [{"PolicyName": "p", "PolicyDocument": {"a": "x" * 10_240}}]}, "10,240 characters"),
        ("AWS::SQS::Queue", {"RedrivePolicy": {"maxReceiveCount": 0}}, "1 to 1,000"),
        ("AWS::ApiGatewayV2::Route", {"RouteKey": "/webhook"}, "a method and a path"),
    ],
)  # fmt: skip
def test_a_wrong_resource_is_found(kind: str, properties: dict[str, Any], says: str) -> None:
    assert says in " ".join(resource_problems(kind, properties))


def test_every_rule_names_its_page() -> None:
    assert all(rule.page.endswith(".html") and rule.says for rule in (*RULES, *RESOURCES))
