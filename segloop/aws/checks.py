"""Requests held against botocore's model of the service, and settings against SageMaker's rules, before anything is sent."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from botocore.model import Shape
from botocore.validate import ParamValidator

from segloop.aws.uploads import split_s3
from segloop.errors import SettingsError
from segloop.settings import Settings

#: Where a setting's value stands in a request.
_SETTINGS = {
    "AlgorithmSpecification.TrainingImage": "sagemaker_image",
    "CheckpointConfig": "sagemaker_s3",
    "InputDataConfig": "sagemaker_s3",
    "ExecutionRoleArn": "sagemaker_role",
    "OutputDataConfig.KmsKeyId": "sagemaker_output_kms_key",
    "OutputDataConfig": "sagemaker_s3",
    "PipelineName": "sagemaker_pipeline",
    "ResourceConfig.InstanceCount": "sagemaker_instances",
    "ResourceConfig.InstanceType": "sagemaker_instance",
    "ResourceConfig.KeepAlivePeriodInSeconds": "sagemaker_warm_pool_s",
    "ResourceConfig.VolumeKmsKeyId": "sagemaker_volume_kms_key",
    "ResourceConfig.VolumeSizeInGB": "sagemaker_volume_gb",
    "RetryStrategy": "sagemaker_retries",
    "RoleArn": "sagemaker_role",
    "StoppingCondition.MaxRuntimeInSeconds": "sagemaker_max_runtime_s",
    "StoppingCondition.MaxWaitTimeInSeconds": "sagemaker_max_wait_s",
    "Tags": "sagemaker_tags",
    "VpcConfig.SecurityGroupIds": "sagemaker_security_groups",
    "VpcConfig.Subnets": "sagemaker_subnets",
}

#: Where an option of `segloop sagemaker deploy` stands in a request.
_OPTIONS = {
    "DeploymentConfig.AutoRollbackConfiguration": "--alarm",
    "EndpointName": "--endpoint",
    "PrimaryContainer.Image": "--image",
    "ProductionVariants.InitialInstanceCount": "--count",
    "ProductionVariants.InstanceType": "--instance",
    "ProductionVariants.ServerlessConfig.MaxConcurrency": "--concurrency",
    "ProductionVariants.ServerlessConfig.MemorySizeInMB": "--serverless",
}

#: Instances with a disk of their own, which takes no key of yours.
_OWN_DISK = re.compile(r"ml\.(g4dn|g5|g6|g6e|p4d|p4de|p5|p5e|p5en|[a-z]\d+g?a?d)\.")
#: What SageMaker's documentation says of members of requests and its model does not.
_DOCUMENTED: dict[str, tuple[Callable[[Any], bool], str]] = {
    "ProductionVariants.ServerlessConfig.MemorySizeInMB": (
        lambda size_mb: size_mb in range(1024, 6145, 1024),
        "whole GB alone: 1024, 2048, 3072, 4096, 5120 or 6144",
    ),
}
_HYPERPARAMETER_CHARACTERS = 256
#: Tags of one's own: of AWS's 50 some are segloop's, of a training job, an endpoint or a stack.
OWN_TAGS = 45
_TAG_NAME, _TAG_VALUE = 128, 256
_TAG = re.compile(r"[\w\s.:/=+\-@]*")


def check_settings(settings: Settings) -> None:
    """SageMaker's rules that no model of its requests tells.

    Raises:
        SettingsError: one is broken; the text names the setting.
    """
    split_s3(settings.sagemaker_s3, "sagemaker_s3")
    if settings.sagemaker_wheels:
        split_s3(settings.sagemaker_wheels, "sagemaker_wheels")
    if problems_of_tags := list(tag_problems(settings.sagemaker_tags)):
        raise SettingsError(f"SEGLOOP_SAGEMAKER_TAGS {problems_of_tags[0]}.")
    if settings.sagemaker_pipeline:
        return
    if not settings.sagemaker_role:
        raise SettingsError("SEGLOOP_SAGEMAKER_ROLE is empty: give the ARN of the role that training jobs have.")
    if bool(settings.sagemaker_subnets) != bool(settings.sagemaker_security_groups):
        raise SettingsError("SEGLOOP_SAGEMAKER_SUBNETS and SEGLOOP_SAGEMAKER_SECURITY_GROUPS go together: set both.")
    if settings.sagemaker_spot:
        _check_spot(settings)
    if settings.sagemaker_volume_kms_key and has_own_disk(settings.sagemaker_instance):
        raise SettingsError(
            f"SEGLOOP_SAGEMAKER_VOLUME_KMS_KEY can't be used with {settings.sagemaker_instance}, which has a disk of its own "
            "that is always encrypted: leave it empty."
        )


def has_own_disk(instance: str) -> bool:
    """Whether instances of a type have a disk of their own, which takes no key."""
    return _OWN_DISK.match(instance) is not None


def tag_problems(tags: Sequence[str]) -> Iterator[str]:
    """What AWS does not take of tags of one's own, each as name=value."""
    if len(tags) > OWN_TAGS:
        yield f"does not fit: {len(tags)} tags; AWS takes {OWN_TAGS} beside segloop's own"
    names = [tag.partition("=")[0].strip() for tag in tags]
    for tag, name in zip(tags, names, strict=True):
        value = tag.partition("=")[2].strip()
        if "=" not in tag or not name:
            yield f"has {tag!r}: write name=value"
        elif name.lower().startswith("aws:"):
            yield f"has {name!r}: names that begin with aws: are AWS's own"
        elif len(name) > _TAG_NAME or len(value) > _TAG_VALUE:
            yield f"has {name!r}: a name has {_TAG_NAME} characters at most, a value {_TAG_VALUE}"
        elif not _TAG.fullmatch(name + value):
            yield f"has {tag!r}: AWS takes letters, digits, spaces and _ . : / = + - @"
    for name in sorted({name for name in names if names.count(name) > 1}):
        yield f"has {name!r} more than once"


def check_request(client: Any, operation: str, request: Mapping[str, object]) -> None:
    """Hold a request against the service's model.

    Raises:
        SettingsError: it does not fit; the text names the setting where the value is one's.
    """
    hyperparameters = request.get("HyperParameters")
    for name, value in hyperparameters.items() if isinstance(hyperparameters, Mapping) else ():
        if len(value) > _HYPERPARAMETER_CHARACTERS:
            raise SettingsError(
                f"SEGLOOP_{name.upper()} has {len(value)} characters; a training job takes {_HYPERPARAMETER_CHARACTERS}."
            )
    shape = client.meta.service_model.operation_model(operation).input_shape
    for path, problem in (*problems(shape, request), *_documented(request)):
        raise SettingsError(f"{_named(path)} does not fit SageMaker's {operation}: {problem}")


def _documented(value: Any, path: str = "") -> Iterator[tuple[str, str]]:
    """What does not fit the documentation of SageMaker's API where botocore's model of it takes it, as `problems` gives it."""
    if path in _DOCUMENTED:
        fits, rule = _DOCUMENTED[path]
        if not fits(value):
            yield path, f"{value!r}: {rule}"
    elif isinstance(value, Mapping):
        for name, member in value.items():
            yield from _documented(member, f"{path}.{name}".lstrip("."))
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _documented(item, path)


def problems(shape: Shape, value: Any) -> Iterator[tuple[str, str]]:
    """What does not fit a shape of a service's model, as (path, what is wrong).

    botocore's own validator looks at types, required members and least sizes; the service also at patterns, largest
    sizes and enumerations.
    """
    report = ParamValidator().validate(value, shape)
    if report.has_errors():
        for line in report.generate_report().splitlines():
            named = re.search(r"for parameter ([\w.\[\]]+)", line)
            yield re.sub(r"\[\d+\]", "", named[1]) if named else "", line
        return
    yield from _limits(shape, value, "")


def _limits(shape: Any, value: Any, path: str) -> Iterator[tuple[str, str]]:
    if shape.type_name == "structure":
        for name, member in value.items():
            yield from _limits(shape.members[name], member, f"{path}.{name}".lstrip("."))
        return
    size = value if shape.type_name in ("integer", "long") else len(value) if hasattr(value, "__len__") else None
    largest = shape.metadata.get("max")
    if size is not None and largest is not None and size > largest:
        yield path, f"{value!r} is beyond the largest, {largest}"
    if shape.type_name == "list":
        for item in value:
            yield from _limits(shape.member, item, path)
    elif shape.type_name == "map":
        for name, item in value.items():
            yield from _limits(shape.key, name, path)
            yield from _limits(shape.value, item, f"{path}.{name}")
    elif shape.type_name == "string":
        yield from _text(shape, value, path)


def _text(shape: Any, value: str, path: str) -> Iterator[tuple[str, str]]:
    if shape.enum and value not in shape.enum:
        yield path, f"{value!r} is none that this version of boto3 knows: correct it, or update boto3"
    pattern = shape.metadata.get("pattern")
    if pattern and not _matches(pattern, value):
        yield path, f"{value!r} does not match {pattern}"


def _matches(pattern: str, value: str) -> bool:
    """Whether a text matches a pattern of Java's, as far as Python can tell, whose expressions have no \\p{...} among others."""
    try:
        return re.fullmatch(pattern, value) is not None
    except re.error:
        return True


def _check_spot(settings: Settings) -> None:
    if settings.sagemaker_warm_pool_s:
        raise SettingsError("SEGLOOP_SAGEMAKER_WARM_POOL_S can't be used with SEGLOOP_SAGEMAKER_SPOT: set it to 0.")
    if 0 < settings.sagemaker_max_wait_s < settings.sagemaker_max_runtime_s:
        raise SettingsError(
            f"SEGLOOP_SAGEMAKER_MAX_WAIT_S is {settings.sagemaker_max_wait_s}, less than SEGLOOP_SAGEMAKER_MAX_RUNTIME_S "
            f"({settings.sagemaker_max_runtime_s}): the time to wait holds the time to train."
        )


def _named(path: str) -> str:
    named = {prefix: f"SEGLOOP_{setting.upper()}" for prefix, setting in _SETTINGS.items()} | _OPTIONS
    for prefix, name in named.items():
        if path == prefix or path.startswith(f"{prefix}."):
            return name
    return path or "The request"
