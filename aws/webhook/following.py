"""How executions of the pipeline ended: whether a training took place, or why not."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from launching import FAILURES, REFUSALS, Launches
from logs import fields, get_logger

logger = get_logger("following")

#: How SageMaker begins the reason of a training that ran and failed, or ran out of its time.
_OWN = ("AlgorithmError", "MaxRuntimeExceeded", "MaxWaitTimeExceeded")
_GONE = ("ResourceNotFound", "ResourceNotFoundException", "ValidationException")


def follow(launches: Launches, sagemaker: Any) -> None:
    """Note how launches ended that were started; those without a training are tried again, and those that failed too.

    Args:
        sagemaker: client of SageMaker.

    Raises:
        ClientError, BotoCoreError: SageMaker or DynamoDB does not answer.
    """
    for launch in list(launches.running()):
        try:
            found = sagemaker.describe_pipeline_execution(PipelineExecutionArn=launch.reference)
        except sagemaker.exceptions.ClientError as error:
            if error.response["Error"]["Code"] not in _GONE:
                raise
            launches.ended(launch, "unknown")
            continue
        status = found["PipelineExecutionStatus"]
        if status in ("Executing", "Stopping"):
            continue
        logger.info("ended", extra=fields(project=launch.project, generation=launch.generation, status=status))
        if status == "Stopped":
            launches.ended(launch, "stopped")
        elif status == "Succeeded" or _has_trained(steps := _steps(sagemaker, launch.reference)):
            launches.ended(launch, "trained")
        else:
            reason = _reason(steps) or found.get("FailureReason") or "SageMaker gives no reason"
            launches.failed(launch, reason, FAILURES if any(own in reason for own in _OWN) else REFUSALS)


def _steps(sagemaker: Any, execution: str) -> list[Mapping[str, Any]]:
    pages = sagemaker.get_paginator("list_pipeline_execution_steps").paginate(PipelineExecutionArn=execution)
    return [step for page in pages for step in page["PipelineExecutionSteps"]]


def _has_trained(steps: Iterable[Mapping[str, Any]]) -> bool:
    """Whether the training itself succeeded: a model that is not registered, for its low mIoU, is a model."""
    return any(step["StepStatus"] == "Succeeded" and "TrainingJob" in step.get("Metadata", {}) for step in steps)


def _reason(steps: Iterable[Mapping[str, Any]]) -> str:
    return next((step["FailureReason"] for step in steps if step.get("FailureReason")), "")
