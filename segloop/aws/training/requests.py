"""The request that creates a training job, and the names in it."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass

from segloop.errors import SettingsError
from segloop.settings import Settings

# The most that SageMaker takes of either time, 28 days.
_LONGEST_S = 28 * 86400
#: A training job's name has at most so many characters.
_NAME_CHARACTERS = 63
_CONTAINER_BASE = "/opt/ml"
_TRAINING_IMAGE = "pytorch-training:2.10.0-{processor}-py313"
#: AWS's image that serves; see `default_image`.
INFERENCE_IMAGE = "pytorch-inference:2.6.0-{processor}-py312"
_GPU = re.compile(r"ml\.[pg]\d")

# The account that AWS's images of PyTorch are in, and the regions that have another one: all those that SageMaker is in,
# but those of AWS's partitions that are closed to the public.
_ACCOUNT = "763104351884"
_REGIONS = """
ap-northeast-1 ap-northeast-2 ap-south-1 ap-southeast-1 ap-southeast-2 ca-central-1 eu-central-1 eu-north-1
eu-west-1 eu-west-2 eu-west-3 sa-east-1 us-east-1 us-east-2 us-west-1 us-west-2
"""
_ACCOUNTS = dict.fromkeys(_REGIONS.split(), _ACCOUNT) | {
    "af-south-1": "626614931356",
    "ap-east-1": "871362719292",
    "ap-east-2": "975050140332",
    "ap-northeast-3": "364406365360",
    "ap-south-2": "772153158452",
    "ap-southeast-3": "907027046896",
    "ap-southeast-4": "457447274322",
    "ap-southeast-5": "550225433462",
    "ap-southeast-6": "633930458069",
    "ap-southeast-7": "590183813437",
    "ca-west-1": "204538143572",
    "cn-north-1": "727897471807",
    "cn-northwest-1": "727897471807",
    "eu-central-2": "380420809688",
    "eu-south-1": "692866216735",
    "eu-south-2": "503227376785",
    "il-central-1": "780543022126",
    "me-central-1": "914824155844",
    "me-south-1": "217643126080",
    "mx-central-1": "637423239942",
    "us-gov-east-1": "446045086412",
    "us-gov-west-1": "442386744353",
}

#: The hyperparameter that names the run; the container leaves it alone, EventBridge tells it.
RUN = "segloop_run"
#: What the container's entry prints of the progress, one JSON object a line, after this word.
PROGRESS = "segloop-progress"
#: Numbers of the progress that become metrics of the training job.
METRICS = ("step", "steps", "epoch", "loss", "miou", "eta_s")


def job_name(run_id: str, attempt: int) -> str:
    """The name of a run's training job: the same for the same run and attempt, of letters, digits and dashes."""
    clean = re.sub(r"[^A-Za-z0-9]+", "-", run_id).strip("-")
    end = f"-{attempt}"
    room = _NAME_CHARACTERS - len("segloop-") - len(end)
    if clean != run_id or len(clean) > room:
        digest = hashlib.sha256(run_id.encode()).hexdigest()[:12]
        clean = f"{clean[: room - 13].rstrip('-')}-{digest}".lstrip("-")
    return f"segloop-{clean}{end}"


def default_image(
    region: str, instance: str, image: str = _TRAINING_IMAGE, named: str = "SEGLOOP_SAGEMAKER_IMAGE is empty"
) -> str:
    """AWS's own image of PyTorch for a region and an instance type; `{processor}` in `image` becomes cpu or gpu.

    Raises:
        SettingsError: the region's is not known; the text begins with `named`.
    """
    account = _ACCOUNTS.get(region)
    if account is None:
        raise SettingsError(
            f"{named}, and segloop does not know where AWS keeps its images for {region}: give the {image.split(':')[0]} "
            "image that AWS's list of Deep Learning Containers gives."
        )
    suffix = "amazonaws.com.cn" if region.startswith("cn-") else "amazonaws.com"
    return f"{account}.dkr.ecr.{region}.{suffix}/{image.format(processor='gpu' if has_gpu(instance) else 'cpu')}"


def max_wait_s(max_runtime_s: int) -> int:
    """The longest time of a spot training, waiting included, that goes with the longest time of a training."""
    return min(2 * max_runtime_s, _LONGEST_S)


def has_gpu(instance: str) -> bool:
    """Whether instances of a type have a GPU."""
    return _GPU.match(instance) is not None


@dataclass(frozen=True)
class JobSpec:
    """A run's training job: its name, the addresses of its channels by their names, the folders in S3 that it writes to."""

    name: str
    run_id: str
    channels: Mapping[str, str]
    hyperparameters: Mapping[str, str]
    output: str
    checkpoints: str


def training_job(settings: Settings, region: str, spec: JobSpec) -> dict[str, object]:
    """The request of CreateTrainingJob."""
    outputs = {"S3OutputPath": spec.output}
    if settings.sagemaker_output_kms_key:
        outputs["KmsKeyId"] = settings.sagemaker_output_kms_key
    stopping = {"MaxRuntimeInSeconds": settings.sagemaker_max_runtime_s}
    if settings.sagemaker_spot:
        stopping["MaxWaitTimeInSeconds"] = settings.sagemaker_max_wait_s or max_wait_s(settings.sagemaker_max_runtime_s)
    request: dict[str, object] = {
        "TrainingJobName": spec.name,
        "RoleArn": settings.sagemaker_role,
        "AlgorithmSpecification": {
            "TrainingImage": settings.sagemaker_image or default_image(region, settings.sagemaker_instance),
            "TrainingInputMode": "File",
            # Python is then the container's first process, and gets SIGTERM.
            "ContainerEntrypoint": ["python3", f"{_CONTAINER_BASE}/input/data/code/train.py"],
            "MetricDefinitions": [
                {"Name": f"segloop:{metric}", "Regex": rf'{PROGRESS} .*"{metric}": ([0-9.eE+-]+)'} for metric in METRICS
            ],
        },
        "HyperParameters": {**spec.hyperparameters, RUN: spec.run_id},
        "InputDataConfig": [_channel(channel, uri) for channel, uri in spec.channels.items()],
        "OutputDataConfig": outputs,
        "CheckpointConfig": {"S3Uri": spec.checkpoints, "LocalPath": f"{_CONTAINER_BASE}/checkpoints"},
        "ResourceConfig": _resources(settings),
        "StoppingCondition": stopping,
        "EnableManagedSpotTraining": settings.sagemaker_spot,
        "Tags": [{"Key": "segloop-run", "Value": spec.run_id}, *map(tag_of, settings.sagemaker_tags)],
        **vpc_of(settings),
    }
    if settings.sagemaker_retries:
        request["RetryStrategy"] = {"MaximumRetryAttempts": settings.sagemaker_retries}
    return request


def _resources(settings: Settings) -> dict[str, object]:
    resources: dict[str, object] = {
        "InstanceType": settings.sagemaker_instance,
        "InstanceCount": settings.sagemaker_instances,
        "VolumeSizeInGB": settings.sagemaker_volume_gb,
    }
    if settings.sagemaker_warm_pool_s:
        resources["KeepAlivePeriodInSeconds"] = settings.sagemaker_warm_pool_s
    if settings.sagemaker_volume_kms_key:
        resources["VolumeKmsKeyId"] = settings.sagemaker_volume_kms_key
    return resources


def vpc_of(settings: Settings) -> dict[str, dict[str, list[str]]]:
    """The member VpcConfig of a request; {} where the settings name no VPC."""
    if not settings.sagemaker_subnets:
        return {}
    subnets, groups = list(settings.sagemaker_subnets), list(settings.sagemaker_security_groups)
    return {"VpcConfig": {"Subnets": subnets, "SecurityGroupIds": groups}}


def _channel(name: str, uri: str) -> dict[str, object]:
    source = {"S3DataType": "S3Prefix", "S3Uri": uri, "S3DataDistributionType": "FullyReplicated"}
    return {"ChannelName": name, "DataSource": {"S3DataSource": source}}


def tag_of(text: str) -> dict[str, str]:
    """A tag of the setting `sagemaker_tags`, name=value."""
    key, _, value = text.partition("=")
    return {"Key": key.strip(), "Value": value.strip()}
