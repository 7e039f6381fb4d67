"""aws/sagemaker.yaml deployed: its pipeline and its group of models in the emulator, its queue and its rule in moto."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import boto3

from tests.aws.hosting_emulator import ACCOUNT
from tests.aws.sagemaker_emulator.server import Emulator
from tests.aws.sagemaker_emulator.template import Template
from tests.aws.sagemaker_emulator.training import KEYS, REGION

TEMPLATE = Path(__file__).resolve().parents[3] / "aws" / "sagemaker.yaml"
IMAGE = "763104351884.dkr.ecr.us-east-1.amazonaws.com/pytorch-training:2.10.0-cpu-py313"
INFERENCE_IMAGE = "763104351884.dkr.ecr.us-east-1.amazonaws.com/pytorch-inference:2.6.0-cpu-py312"


def deploy(emulator: Emulator, parameters: Mapping[str, str], template: Path = TEMPLATE) -> dict[str, str]:
    """Deploy the training half of the route, whose buckets are in the emulator's S3; the stack's outputs.

    From then on every change of a training job's status goes to moto's EventBridge, whose rule (the template's) sends
    those of the route to the queue.
    """
    clients: dict[str, Any] = {
        name: boto3.client(name, REGION, endpoint_url=emulator.s3_url, **KEYS) for name in ("sqs", "events")
    }
    name = parameters.get("PipelineName", "segloop")
    url = clients["sqs"].create_queue(QueueName=f"{name}-events")["QueueUrl"]
    found = clients["sqs"].get_queue_attributes(QueueUrl=url, AttributeNames=["QueueArn"])
    attributes = {
        "EventQueue": url,
        "EventQueue.Arn": found["Attributes"]["QueueArn"],
        "TrainingRole.Arn": f"arn:aws:iam::{ACCOUNT}:role/{name}-training",
        "PipelineRole.Arn": f"arn:aws:iam::{ACCOUNT}:role/{name}-pipeline",
        "TrainingEvents.Arn": f"arn:aws:events:{REGION}:{ACCOUNT}:rule/{name}",
        "SegloopPolicy": f"arn:aws:iam::{ACCOUNT}:policy/{name}-segloop",
    }
    stack = Template(
        template, {"TrainingImage": IMAGE, "InferenceImage": INFERENCE_IMAGE, **parameters}, attributes.__getitem__
    )
    for group in stack.resources("AWS::SageMaker::ModelPackageGroup"):
        emulator.answer("CreateModelPackageGroup", stack.resource(group))
    emulator.answer("CreatePipeline", {"ClientRequestToken": f"{name:x<32}", **_pipeline(stack.resource("Pipeline"))})
    rule = stack.resource("TrainingEvents")
    clients["events"].put_rule(Name=name, EventPattern=json.dumps(rule["EventPattern"]))
    clients["events"].put_targets(Rule=name, Targets=rule["Targets"])
    emulator.told = lambda description: tell(clients["events"], description)
    return stack.outputs()


def _pipeline(properties: dict[str, Any]) -> dict[str, Any]:
    """CreatePipeline's request of a resource's properties."""
    return {**properties, "PipelineDefinition": properties["PipelineDefinition"]["PipelineDefinitionBody"]}


def tell(events: Any, description: dict[str, Any]) -> None:
    """Put a "SageMaker Training Job State Change", whose detail is what DescribeTrainingJob says (times in milliseconds)."""
    detail = {
        name: int(value * 1000) if name.endswith("Time") and isinstance(value, float) else value
        for name, value in description.items()
    }
    answer = events.put_events(
        Entries=[
            {
                "Source": "aws.sagemaker",
                "DetailType": "SageMaker Training Job State Change",
                "Detail": json.dumps(detail),
                "Resources": [description["TrainingJobArn"]],
            }
        ]
    )
    if answer["FailedEntryCount"]:
        raise RuntimeError(f"EventBridge refuses the event: {answer['Entries']}")
