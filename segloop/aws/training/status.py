"""What DescribeTrainingJob says, as the status of a run."""

from __future__ import annotations

from collections.abc import Mapping
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

#: DescribeTrainingJob's answer, in which much is missing until SageMaker knows it.
TrainingJob = Mapping[str, Any]


def status_of(job: TrainingJob, price_per_hour: float = 0.0) -> RunStatus:
    """The status of a run from its training job.

    A job for which SageMaker had no instances is lost, and there was no room. One that somebody stopped is lost: it can be submitted again, and goes on from its checkpoints. One that used up
    its time is failed, for it would again.
    """
    progress = progress_of(job, price_per_hour)
    status, stage, limits = job["TrainingJobStatus"], job.get("SecondaryStatus"), job.get("StoppingCondition", {})
    failure = job.get("FailureReason") or "SageMaker gives no reason."
    if status == "Completed":
        return RunStatus("finished", progress)
    if status == "Failed" and failure.startswith(_PASSING):
        return RunStatus("lost", progress, failure, no_room=True)
    if status == "Failed":
        return RunStatus("failed", progress, failure)
    if stage == "MaxWaitTimeExceeded":
        reason = (
            f"SageMaker found no spot instances to finish on within {limits.get('MaxWaitTimeInSeconds')} s: raise "
            "SEGLOOP_SAGEMAKER_MAX_WAIT_S, or set SEGLOOP_SAGEMAKER_SPOT to false."
        )
        return RunStatus("failed", progress, reason)
    if stage == "MaxRuntimeExceeded":
        reason = (
            f"SageMaker stopped the training after {limits.get('MaxRuntimeInSeconds')} s: raise SEGLOOP_SAGEMAKER_MAX_RUNTIME_S, "
            "or give it less to do (SEGLOOP_TRAIN_MINUTES, SEGLOOP_TRAIN_EPOCHS)."
        )
        return RunStatus("failed", progress, reason)
    if status == "Stopped":
        return RunStatus("lost", progress, f"The training job {job['TrainingJobName']} was stopped.")
    return RunStatus("running", progress)


def progress_of(job: TrainingJob, price_per_hour: float) -> Progress:
    """Progress of a training job.

    Keys: `stage` (Starting, Downloading, Training, Uploading, ...), `job`, `message`; where known, the latest metrics,
    `training_s`, `billable_s` (of one instance), `spot_saving` (a share), and `cost` (of all instances, by the setting).
    """
    told: str = job.get("SecondaryStatus", job["TrainingJobStatus"])
    stage = _STAGES.get(told, told)
    last = (job.get("SecondaryStatusTransitions") or [{}])[-1]
    progress: Progress = {
        "stage": stage,
        "job": job["TrainingJobName"],
        "message": f"SageMaker: {stage}. {last.get('StatusMessage', '')}".strip(),
    }
    for item in job.get("FinalMetricDataList", []):
        name, value = item["MetricName"], float(item["Value"])
        if name.startswith("segloop:"):
            metric = {name.removeprefix("segloop:"): int(value) if value.is_integer() else value}
            progress.update(read_progress(metric) or {})
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
