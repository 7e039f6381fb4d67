"""What a deployment can be told, checked before anything is sent, and the stacks' parameters that follow from it."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal
from urllib.parse import urlsplit

from segloop.aws.checks import has_own_disk, tag_problems
from segloop.errors import SettingsError

#: Names that also fit into the names of buckets: with an account and a region they have 63 characters at most.
NAME = re.compile(r"[a-z][a-z0-9-]{0,18}[a-z0-9]")
_IMAGE = re.compile(r"\d{12}\.dkr\.ecr\.[a-z0-9-]+\.amazonaws\.com(\.cn)?/.+")
_INSTANCE = re.compile(r"ml\.[a-z0-9-]+\.[a-z0-9]+")
# Small letters only: permissions name the endpoint as its ARN does.
_ENDPOINT = re.compile(r"[a-z0-9](-*[a-z0-9]){0,62}")
_TOPIC = re.compile(r"arn:aws[a-z-]*:sns:[a-z0-9-]+:\d{12}:[\w-]+")
_POLICY = re.compile(r"arn:aws[a-z-]*:iam::(\d{12}|aws):policy/.+")
_KEY = re.compile(r"arn:aws[a-z-]*:kms:[a-z0-9-]+:\d{12}:key/[a-zA-Z0-9-]+")
_SUBNET, _GROUP = re.compile(r"subnet-[0-9a-f]+"), re.compile(r"sg-[0-9a-f]+")
_RETENTION_DAYS = (
    1,
    3,
    5,
    7,
    14,
    30,
    60,
    90,
    120,
    150,
    180,
    365,
    400,
    545,
    731,
    1096,
    1827,
    2192,
    2557,
    2922,
    3288,
    3653,
)


@dataclass(frozen=True)
class Options:
    """A deployment's options. One that is None keeps what the stack has; of a new stack it is the template's default.

    Args:
        is_checked: whether values that cannot be used are refused at once; otherwise `problems` names them.

    Raises:
        SettingsError: a value that cannot be used; the text names the option, in a line for each.
    """

    name: str = "segloop"
    annotations: int | None = None
    count_updates: bool | None = None
    target: Literal["pipeline", "segloop"] | None = None
    segloop_url: str | None = None
    endpoint: str | None = None
    label_studio_url: str | None = None
    log_days: int | None = None
    receiver_concurrency: int | None = None
    worker_concurrency: int | None = None
    alarm_topic: str | None = None
    instance: str | None = None
    image: str | None = None
    inference_image: str | None = None
    max_runtime_s: int | None = None
    spot: bool | None = None
    minimum_miou: float | None = None
    weights: Literal["coco", "imagenet", "none"] | None = None
    epochs: int | None = None
    minutes: float | None = None
    wheels: str | None = None
    store: str | None = None
    model_days: int | None = None
    volume_gb: int | None = None
    source_bucket: str | None = None
    target_bucket: str | None = None
    artifacts_bucket: str | None = None
    boundary: str | None = None
    output_key: str | None = None
    volume_key: str | None = None
    subnets: tuple[str, ...] | None = None
    security_groups: tuple[str, ...] | None = None
    tags: tuple[str, ...] = ()
    is_checked: bool = True

    def __post_init__(self) -> None:
        if self.is_checked and (found := self.problems()):
            raise SettingsError("\n".join(found))

    def problems(self) -> list[str]:
        """All that cannot be used, each with its option."""
        return [
            *self._names(),
            *_outside("--annotations", self.annotations, 1, 1_000_000),
            *_outside("--max-runtime", self.max_runtime_s, 60, 28 * 86400),
            *_outside("--receiver-concurrency", self.receiver_concurrency, 0, 1000),
            *_outside("--worker-concurrency", self.worker_concurrency, 0, 1000),
            *_outside("--model-days", self.model_days, 8, 36500),
            *_outside("--volume-gb", self.volume_gb, 1, 16384),
            *_outside("--minimum-miou", self.minimum_miou, 0, 1),
            *_outside("--epochs", self.epochs, 1, 100_000),
            *_outside("--minutes", self.minutes, 0, 28 * 1440),
            *self._addresses(),
            *self._keys_and_vpc(),
            *(f"--tag {problem}" for problem in tag_problems(self.tags)),
        ]

    @property
    def buckets(self) -> dict[str, str]:
        """Buckets of one's own, by their parameters."""
        given = {
            "ExistingSourceBucket": self.source_bucket,
            "ExistingTargetBucket": self.target_bucket,
            "ExistingArtifactsBucket": self.artifacts_bucket,
        }
        return {parameter: name for parameter, name in given.items() if name}

    def _names(self) -> Iterator[str]:
        if not NAME.fullmatch(self.name):
            yield f"--name {self.name!r}: use 2 to 20 small letters, digits and dashes, a letter first and no dash last"
        if self.log_days is not None and self.log_days not in _RETENTION_DAYS:
            days = ", ".join(map(str, _RETENTION_DAYS))
            yield f"--log-days {self.log_days}: CloudWatch keeps logs for one of {days} days"
        for option, image in (("--image", self.image), ("--inference-image", self.inference_image)):
            if image and not _IMAGE.fullmatch(image):
                yield f"{option} {image!r}: SageMaker takes images of ECR, ACCOUNT.dkr.ecr.REGION.amazonaws.com/..."
        if self.instance is not None and not _INSTANCE.fullmatch(self.instance):
            yield f"--instance {self.instance!r} is no instance type of SageMaker; write ml.g4dn.xlarge"
        if self.endpoint and not _ENDPOINT.fullmatch(self.endpoint):
            yield f"--endpoint {self.endpoint!r}: use the endpoint's name in small letters, digits and dashes"
        if self.worker_concurrency == 1:
            yield "--worker-concurrency 1: Lambda reads a queue with 2 at least; 0 reserves none"
        if self.boundary and not _POLICY.fullmatch(self.boundary):
            yield f"--permissions-boundary {self.boundary!r} is no ARN of an IAM policy"
        if self.alarm_topic and not _TOPIC.fullmatch(self.alarm_topic):
            yield f"--alarm-topic {self.alarm_topic!r} is no ARN of an SNS topic"

    def _keys_and_vpc(self) -> Iterator[str]:
        for option, key in (("--output-kms-key", self.output_key), ("--volume-kms-key", self.volume_key)):
            if key and not _KEY.fullmatch(key):
                yield f"{option} {key!r} is no ARN of a KMS key, arn:aws:kms:REGION:ACCOUNT:key/ID"
        if self.volume_key and self.instance is not None and has_own_disk(self.instance):
            yield f"--volume-kms-key does not go with {self.instance}, whose own disk is always encrypted: leave it out"
        for option, pattern, given, most in (
            ("--subnet", _SUBNET, self.subnets, 16),
            ("--security-group", _GROUP, self.security_groups, 5),
        ):
            yield from (
                f"{option} {one!r}: write an id, {pattern.pattern}" for one in given or () if not pattern.fullmatch(one)
            )
            if given is not None and len(given) > most:
                yield f"{option}: {len(given)} are given, SageMaker takes {most}"
        if bool(self.subnets) != bool(self.security_groups):
            yield "--subnet and --security-group go together: give both"

    def _addresses(self) -> Iterator[str]:
        for option, url in (("--segloop-url", self.segloop_url), ("--label-studio-url", self.label_studio_url)):
            if url and (urlsplit(url).scheme not in ("http", "https") or not urlsplit(url).hostname):
                yield f"{option} {url!r}: write an address with https://"
        if self.segloop_url and urlsplit(self.segloop_url).scheme == "http":
            yield f"--segloop-url {self.segloop_url!r}: a secret goes there, so that it has to be https://"
        for option, place in (("--wheels", self.wheels), ("--store", self.store)):
            if place and not re.fullmatch(r"s3://[a-z0-9][a-z0-9.-]+[a-z0-9]/.+", place):
                yield f"{option} {place!r}: write s3://bucket/prefix"

    def missing(self, before: Mapping[str, str]) -> Iterator[str]:
        """What has to go together and does not, with the values that the stack's parameters have; each names both options."""
        if self.target == "segloop" and not (self.segloop_url or before.get("SegloopUrl")):
            yield "--target segloop needs --segloop-url, the https:// address of segloop's server"
        if self.endpoint and not (self.label_studio_url or before.get("LabelStudioUrl")):
            yield "--endpoint needs --label-studio-url, the address at which AWS reaches Label Studio"


def _outside(option: str, value: float | None, least: float, most: float) -> Iterator[str]:
    if value is not None and not least <= value <= most:
        yield f"{option} {value:g}: use {least:g} to {most:g}"


_TEMPLATE = {
    "annotations": "AnnotationsPerTraining",
    "count_updates": "CountUpdates",
    "target": "Target",
    "segloop_url": "SegloopUrl",
    "endpoint": "EndpointName",
    "label_studio_url": "LabelStudioUrl",
    "log_days": "LogRetentionDays",
    "receiver_concurrency": "ReceiverConcurrency",
    "worker_concurrency": "WorkerConcurrency",
    "alarm_topic": "AlarmTopicArn",
    "model_days": "ModelDays",
    "boundary": "PermissionsBoundaryArn",
}
_SAGEMAKER = {
    "instance": "InstanceType",
    "image": "TrainingImage",
    "inference_image": "InferenceImage",
    "max_runtime_s": "MaxRuntimeSeconds",
    "spot": "UseSpot",
    "minimum_miou": "MinimumMiou",
    "weights": "Weights",
    "epochs": "TrainEpochs",
    "minutes": "TrainMinutes",
    "wheels": "WheelsUri",
    "store": "StoreUri",
    "alarm_topic": "AlarmTopicArn",
    "volume_gb": "VolumeSizeInGB",
    "boundary": "PermissionsBoundaryArn",
    "output_key": "OutputKmsKeyArn",
    "volume_key": "VolumeKmsKeyArn",
    "subnets": "Subnets",
    "security_groups": "SecurityGroups",
}


def route_parameters(options: Options) -> dict[str, str]:
    """The parameters of aws/template.yaml that the options give."""
    given = _given(options, _TEMPLATE) | {"PipelineName": options.name} | options.buckets
    if options.label_studio_url:
        given["LabelStudioOrigin"] = origin_of(options.label_studio_url)
    return given


def sagemaker_parameters(options: Options) -> dict[str, str]:
    """The parameters of aws/sagemaker.yaml that the options give."""
    given = _given(options, _SAGEMAKER) | {"PipelineName": options.name}
    if options.image:
        given["TrainingRepository"] = repository_of(options.image)
    if options.inference_image:
        given["InferenceRepository"] = repository_of(options.inference_image)
    if options.wheels:
        given["WheelsUri"] = f"{options.wheels.rstrip('/')}/"
    if options.store:
        given["StoreUri"] = options.store.rstrip("/")
    return given


def repository_of(image: str) -> str:
    """The repository of an image in ECR."""
    return image.partition("/")[2].partition(":")[0].partition("@")[0]


def origin_of(url: str) -> str:
    """The origin of an address, as browsers send it."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}"


def _given(options: Options, names: dict[str, str]) -> dict[str, str]:
    values = asdict(options)
    return {parameter: _text(values[name]) for name, parameter in names.items() if values[name] is not None}


def _text(value: Any) -> str:
    if isinstance(value, tuple):
        return ",".join(value)
    return str(value).lower() if isinstance(value, bool) else f"{value:g}" if isinstance(value, float) else str(value)
