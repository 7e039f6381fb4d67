"""What DescribeTrainingJob says, as the status of a run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from segloop.progress import Progress, read_progress
from segloop.trainers.base import RunStatus

#: How the reason of a failure begins that is SageMaker's own and passes: no instances are free, or an error of theirs.
_PASSING = ("CapacityError", "InternalServerError")
#: What SageMaker's secondary status is to a person; others are shown as they are.
_STAGES = {
    "LaunchingMLInstances": "Starting",
    "PreparingTrainingStack": "Starting",
    "Pending": "Starting",
    "Restarting": "Starting",
    "DownloadingTrainingImage": "Downloading",
}


@dataclass(frozen=True)
class TrainingJob:
    """What DescribeTrainingJob says of a job, as far as segloop needs it; None where SageMaker does not say (yet)."""

    name: str
    status: str
    stage: str
    message: str
    failure: str
    hyperparameters: dict[str, str]
    metrics: dict[str, float]
    training_s: int | None
    billable_s: int | None
    instances: int
    is_spot: bool
    max_runtime_s: int | None
    max_wait_s: int | None
    model_uri: str

    @classmethod
    def of(cls, answer: Any) -> TrainingJob:
        """The job of an answer of DescribeTrainingJob."""
        limits = answer.get("StoppingCondition", {})
        last = (answer.get("SecondaryStatusTransitions") or [{}])[-1]
        return cls(
            name=answer["TrainingJobName"],
            status=answer["TrainingJobStatus"],
            stage=answer.get("SecondaryStatus", answer["TrainingJobStatus"]),
            message=last.get("StatusMessage", ""),
            failure=answer.get("FailureReason") or "SageMaker gives no reason.",
            hyperparameters=answer.get("HyperParameters", {}),
            metrics={item["MetricName"]: float(item["Value"]) for item in answer.get("FinalMetricDataList", [])},
            training_s=answer.get("TrainingTimeInSeconds"),
            billable_s=answer.get("BillableTimeInSeconds"),
            instances=answer.get("ResourceConfig", {}).get("InstanceCount", 1),
            is_spot=answer.get("EnableManagedSpotTraining", False),
            max_runtime_s=limits.get("MaxRuntimeInSeconds"),
            max_wait_s=limits.get("MaxWaitTimeInSeconds"),
            model_uri=answer.get("ModelArtifacts", {}).get("S3ModelArtifacts", ""),
        )


def status_of(job: TrainingJob, price_per_hour: float = 0.0) -> RunStatus:
    """The status of a run from its training job.

    A job for which SageMaker had no instances is lost, and there was no room. One that somebody stopped is lost: it can be submitted again, and goes on from its checkpoints. One that used up
    its time is failed, for it would again.
    """
    progress = progress_of(job, price_per_hour)
    if job.status == "Completed":
        return RunStatus("finished", progress)
    if job.status == "Failed" and job.failure.startswith(_PASSING):
        return RunStatus("lost", progress, job.failure, no_room=True)
    if job.status == "Failed":
        return RunStatus("failed", progress, job.failure)
    if job.stage == "MaxWaitTimeExceeded":
        reason = (
            f"SageMaker found no spot instances to finish on within {job.max_wait_s} s: raise "
            "SEGLOOP_SAGEMAKER_MAX_WAIT_S, or set SEGLOOP_SAGEMAKER_SPOT to false."
        )
        return RunStatus("failed", progress, reason)
    if job.stage == "MaxRuntimeExceeded":
        reason = (
            f"SageMaker stopped the training after {job.max_runtime_s} s: raise SEGLOOP_SAGEMAKER_MAX_RUNTIME_S, "
            "or give it less to do (SEGLOOP_TRAIN_MINUTES, SEGLOOP_TRAIN_EPOCHS)."
        )
        return RunStatus("failed", progress, reason)
    if job.status == "Stopped":
        return RunStatus("lost", progress, f"The training job {job.name} was stopped.")
    return RunStatus("running", progress)


def progress_of(job: TrainingJob, price_per_hour: float) -> Progress:
    """Progress of a training job.

    Keys: `stage` (Starting, Downloading, Training, Uploading, ...), `job`, `message`; where known, the latest metrics,
    `training_s`, `billable_s` (of one instance), `spot_saving` (a share), and `cost` (of all instances, by the setting).
    """
    stage = _STAGES.get(job.stage, job.stage)
    progress: Progress = {
        "stage": stage,
        "job": job.name,
        "message": f"SageMaker: {stage}. {job.message}".strip(),
    }
    for name, value in job.metrics.items():
        if name.startswith("segloop:"):
            metric = {name.removeprefix("segloop:"): int(value) if value.is_integer() else value}
            progress.update(read_progress(metric) or {})
    if job.training_s is not None:
        progress["training_s"] = job.training_s
    if job.billable_s is not None:
        progress["billable_s"] = job.billable_s
        if price_per_hour:
            progress["cost"] = round(job.billable_s * job.instances * price_per_hour / 3600, 4)
        if job.is_spot and job.training_s:
            progress["spot_saving"] = round(1 - job.billable_s / job.training_s, 3)
    return progress
