"""What DescribeTrainingJob says, as the status of a run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from segloop.trainers.base import RunStatus

#: What SageMaker's secondary status is to a person; others are shown as they are.
_STAGES = {
    "LaunchingMLInstances": "Starting",
    "PreparingTrainingStack": "Starting",
    "Pending": "Starting",
    "Restarting": "Starting",
    "DownloadingTrainingImage": "Downloading",
}


def status_of(job: Mapping[str, Any], price_per_hour: float = 0.0) -> RunStatus:
    """The status of a run from its training job.

    A job that somebody stopped is lost: it can be submitted again, and goes on from its checkpoints. One that used up
    its time is failed, for it would again.
    """
    state, secondary = job["TrainingJobStatus"], job.get("SecondaryStatus", "")
    progress = progress_of(job, price_per_hour)
    if state == "Completed":
        return RunStatus("finished", progress)
    if state == "Failed":
        return RunStatus("failed", progress, job.get("FailureReason") or "SageMaker gives no reason.")
    if secondary in ("MaxRuntimeExceeded", "MaxWaitTimeExceeded"):
        return RunStatus("failed", progress, _out_of_time(job, secondary))
    if state == "Stopped":
        return RunStatus("lost", progress, f"The training job {job['TrainingJobName']} was stopped.")
    return RunStatus("running", progress)


def progress_of(job: Mapping[str, Any], price_per_hour: float) -> dict[str, Any]:
    """Progress of a training job.

    Keys: `stage` (Starting, Downloading, Training, Uploading, ...), `job`, `message`; where known, the latest metrics,
    `training_s`, `billable_s` (of one instance), `spot_saving` (a share), and `cost` (of all instances, by the setting).
    """
    secondary = str(job.get("SecondaryStatus", job["TrainingJobStatus"]))
    stage = _STAGES.get(secondary, secondary)
    told = (job.get("SecondaryStatusTransitions") or [{}])[-1].get("StatusMessage", "")
    progress: dict[str, Any] = {
        "stage": stage,
        "job": job["TrainingJobName"],
        "message": f"SageMaker: {stage}. {told}".strip(),
    }
    for metric in job.get("FinalMetricDataList", []):
        if metric["MetricName"].startswith("segloop:"):
            value = float(metric["Value"])
            progress[metric["MetricName"].removeprefix("segloop:")] = int(value) if value.is_integer() else value
    training_s, billable_s = job.get("TrainingTimeInSeconds"), job.get("BillableTimeInSeconds")
    if training_s is not None:
        progress["training_s"] = training_s
    if billable_s is not None:
        progress["billable_s"] = billable_s
        if price_per_hour:
            instances = job.get("ResourceConfig", {}).get("InstanceCount", 1)
            progress["cost"] = round(billable_s * instances * price_per_hour / 3600, 4)
        if job.get("EnableManagedSpotTraining") and training_s:
            progress["spot_saving"] = round(1 - billable_s / training_s, 3)
    return progress


def _out_of_time(job: Mapping[str, Any], secondary: str) -> str:
    limits = job.get("StoppingCondition", {})
    if secondary == "MaxWaitTimeExceeded":
        return (
            f"SageMaker found no spot instances to finish on within {limits.get('MaxWaitTimeInSeconds')} s: raise "
            "SEGLOOP_SAGEMAKER_MAX_WAIT_S, or set SEGLOOP_SAGEMAKER_SPOT to false."
        )
    return (
        f"SageMaker stopped the training after {limits.get('MaxRuntimeInSeconds')} s: raise SEGLOOP_SAGEMAKER_MAX_RUNTIME_S, "
        "or give it less to do (SEGLOOP_TRAIN_MINUTES, SEGLOOP_TRAIN_EPOCHS)."
    )
