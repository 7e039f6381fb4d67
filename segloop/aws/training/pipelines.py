"""A pipeline of SageMaker's that trains: its parameters filled, its executions followed."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from datetime import datetime

from segloop.aws.checks import check_request
from segloop.aws.clients import Clients, explained, none_if
from segloop.errors import TrainingError
from segloop.trainers.base import RunStatus

#: The parameters that a pipeline must declare.
REQUIRED = ("SnapshotS3Uri", "CodeS3Uri", "OutputS3Uri")


def token_of(run_id: str, attempt: int) -> str:
    """The token that makes the start of a run's execution idempotent."""
    return hashlib.sha256(f"{run_id}\0{attempt}".encode()).hexdigest()


def parameters_of(definition: str, values: Mapping[str, str]) -> list[dict[str, str]]:
    """Values for the parameters that a pipeline's definition declares; those it does not are left out.

    Raises:
        TrainingError: it lacks a parameter of REQUIRED, or has one without a default that segloop knows no value for.
    """
    declared = {item["Name"]: item for item in json.loads(definition).get("Parameters", [])}
    for name in REQUIRED:
        if name not in declared:
            raise TrainingError(f"The pipeline declares no parameter {name}: add it (docs/sagemaker.md lists them).")
    for name, item in declared.items():
        if name not in values and "DefaultValue" not in item:
            raise TrainingError(f"The pipeline's parameter {name} has no default, and segloop has no value for it.")
    return [{"Name": name, "Value": values[name]} for name in declared if name in values]


def hyperparameter_name(name: str) -> str:
    """The pipeline parameter of a hyperparameter: `train_epochs` is TrainEpochs."""
    return "".join(part.capitalize() for part in name.split("_"))


class Pipeline:
    """Executions of one pipeline.

    Raises (every method):
        TrainingError: AWS refused.
        TrainerUnavailable: SageMaker cannot be reached now.
    """

    def __init__(self, clients: Clients, name: str) -> None:
        self._client = clients.sagemaker
        self._name = name

    def start(self, run_id: str, attempt: int, values: Mapping[str, str]) -> str:
        """Start an execution, or find the one that was started for this run and attempt; its ARN."""
        with explained("sagemaker:DescribePipeline"):
            definition = self._client.describe_pipeline(PipelineName=self._name)["PipelineDefinition"]
        request = {
            "PipelineName": self._name,
            "PipelineExecutionDisplayName": re.sub(r"[^A-Za-z0-9]+", "-", run_id).strip("-")[:82].rstrip("-"),
            "PipelineParameters": parameters_of(definition, values),
            "ClientRequestToken": token_of(run_id, attempt),
        }
        check_request(self._client, "StartPipelineExecution", request)
        with explained("sagemaker:StartPipelineExecution"):
            arn: str = self._client.start_pipeline_execution(**request)["PipelineExecutionArn"]
        return arn

    def status(self, arn: str, job: RunStatus | None) -> RunStatus:
        """The status of a run from its execution and, where there is one, that of its training job."""
        with explained("sagemaker:DescribePipelineExecution"):
            found = self._client.describe_pipeline_execution(PipelineExecutionArn=arn)
        state = found["PipelineExecutionStatus"]
        progress = job.progress if job is not None else {"stage": state, "message": f"SageMaker pipeline: {state}."}
        if state == "Succeeded":
            return RunStatus("finished", progress)
        if state == "Failed" and job is not None and job.no_room:
            return job
        if state == "Failed":
            reason = job.reason if job is not None else ""
            return RunStatus("failed", progress, reason or found.get("FailureReason") or "SageMaker gives no reason.")
        if state == "Stopped":
            return RunStatus("lost", progress, "The execution of the pipeline was stopped.")
        return RunStatus("running", progress)

    def since(self, moment: datetime) -> list[str]:
        """The ARNs of all executions since then, the latest first."""
        with explained("sagemaker:ListPipelineExecutions"):
            pages = self._client.get_paginator("list_pipeline_executions").paginate(
                PipelineName=self._name, CreatedAfter=moment
            )
            return [one["PipelineExecutionArn"] for page in pages for one in page["PipelineExecutionSummaries"]]

    def jobs(self, arn: str) -> list[str]:
        """The names of an execution's training jobs, the latest first."""
        with explained("sagemaker:ListPipelineExecutionSteps"):
            pages = self._client.get_paginator("list_pipeline_execution_steps").paginate(PipelineExecutionArn=arn)
            steps = [step.get("Metadata", {}) for page in pages for step in page["PipelineExecutionSteps"]]
        return [step["TrainingJob"]["Arn"].rpartition("/")[2] for step in steps if "TrainingJob" in step]

    def stop(self, arn: str) -> None:
        """Stop an execution; one that has ended stays as it is."""
        with explained("sagemaker:StopPipelineExecution"):
            request = {"PipelineExecutionArn": arn, "ClientRequestToken": token_of(arn, 0)}
            none_if(r"\((Validation|Conflict)Exception\)", self._client.stop_pipeline_execution, **request)
