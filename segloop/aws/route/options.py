"""What a deployment can be told, checked before anything is sent, and the stacks' parameters that follow from it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal
from urllib.parse import urlsplit

from segloop.errors import SettingsError

#: Names that also fit into the names of buckets: with an account and a region they have 63 characters at most.
NAME = re.compile(r"[a-z][a-z0-9-]{0,18}[a-z0-9]")
_IMAGE = re.compile(r"\d{12}\.dkr\.ecr\.[a-z0-9-]+\.amazonaws\.com(\.cn)?/.+")
_INSTANCE = re.compile(r"ml\.[a-z0-9-]+\.[a-z0-9]+")
# Small letters only: permissions name the endpoint as its ARN does.
_ENDPOINT = re.compile(r"[a-z0-9](-*[a-z0-9]){0,62}")
_TOPIC = re.compile(r"arn:aws[a-z-]*:sns:[a-z0-9-]+:\d{12}:[\w-]+")
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

    Raises:
        SettingsError: a value that cannot be used; the text names the option.
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
    max_runtime_s: int | None = None
    spot: bool | None = None
    minimum_miou: float | None = None
    weights: Literal["coco", "imagenet", "none"] | None = None
    epochs: int | None = None
    minutes: float | None = None
    wheels: str | None = None
    store: str | None = None

    def __post_init__(self) -> None:
        if not NAME.fullmatch(self.name):
            raise SettingsError(
                f"--name {self.name!r}: use 2 to 20 small letters, digits and dashes, a letter first and no dash last"
            )
        self._check_range("--annotations", self.annotations, 1, 1_000_000)
        self._check_range("--max-runtime", self.max_runtime_s, 60, 28 * 86400)
        self._check_range("--receiver-concurrency", self.receiver_concurrency, 0, 1000)
        self._check_range("--worker-concurrency", self.worker_concurrency, 0, 1000)
        self._check_range("--minimum-miou", self.minimum_miou, 0, 1)
        self._check_range("--epochs", self.epochs, 1, 100_000)
        self._check_range("--minutes", self.minutes, 0, 28 * 1440)
        self._check_addresses()
        if self.log_days is not None and self.log_days not in _RETENTION_DAYS:
            days = ", ".join(map(str, _RETENTION_DAYS))
            raise SettingsError(f"--log-days {self.log_days}: CloudWatch keeps logs for one of {days} days")
        if self.image and not _IMAGE.fullmatch(self.image):
            raise SettingsError(
                f"--image {self.image!r}: SageMaker takes images of ECR, ACCOUNT.dkr.ecr.REGION.amazonaws.com/..."
            )
        if self.instance is not None and not _INSTANCE.fullmatch(self.instance):
            raise SettingsError(f"--instance {self.instance!r} is no instance type of SageMaker; write ml.g4dn.xlarge")
        if self.endpoint and not _ENDPOINT.fullmatch(self.endpoint):
            raise SettingsError(
                f"--endpoint {self.endpoint!r}: use the endpoint's name in small letters, digits and dashes"
            )
        if self.worker_concurrency == 1:
            raise SettingsError("--worker-concurrency 1: Lambda reads a queue with 2 at least; 0 reserves none")
        if self.alarm_topic and not _TOPIC.fullmatch(self.alarm_topic):
            raise SettingsError(f"--alarm-topic {self.alarm_topic!r} is no ARN of an SNS topic")
        for option, place in (("--wheels", self.wheels), ("--store", self.store)):
            if place and not re.fullmatch(r"s3://[a-z0-9][a-z0-9.-]+[a-z0-9]/.+", place):
                raise SettingsError(f"{option} {place!r}: write s3://bucket/prefix")

    def _check_addresses(self) -> None:
        for option, url in (("--segloop-url", self.segloop_url), ("--label-studio-url", self.label_studio_url)):
            if url and (urlsplit(url).scheme not in ("http", "https") or not urlsplit(url).hostname):
                raise SettingsError(f"{option} {url!r}: write an address with https://")
        if self.segloop_url and urlsplit(self.segloop_url).scheme != "https":
            raise SettingsError(
                f"--segloop-url {self.segloop_url!r}: a secret goes there, so that it has to be https://"
            )

    def check_with(self, before: Mapping[str, str]) -> None:
        """Check what has to go together, with the values that the stack's parameters have.

        Raises:
            SettingsError: an option that another one needs is missing; the text names both.
        """
        if self.target == "segloop" and not (self.segloop_url or before.get("SegloopUrl")):
            raise SettingsError("--target segloop needs --segloop-url, the https:// address of segloop's server")
        if self.endpoint and not (self.label_studio_url or before.get("LabelStudioUrl")):
            raise SettingsError("--endpoint needs --label-studio-url, the address at which AWS reaches Label Studio")

    @staticmethod
    def _check_range(option: str, value: float | None, least: float, most: float) -> None:
        if value is not None and not least <= value <= most:
            raise SettingsError(f"{option} {value:g}: use {least:g} to {most:g}")


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
}
_SAGEMAKER = {
    "instance": "InstanceType",
    "image": "TrainingImage",
    "max_runtime_s": "MaxRuntimeSeconds",
    "spot": "UseSpot",
    "minimum_miou": "MinimumMiou",
    "weights": "Weights",
    "epochs": "TrainEpochs",
    "minutes": "TrainMinutes",
    "wheels": "WheelsUri",
    "store": "StoreUri",
}


def route_parameters(options: Options) -> dict[str, str]:
    """The parameters of aws/template.yaml that the options give."""
    given = _given(options, _TEMPLATE) | {"PipelineName": options.name}
    if options.label_studio_url:
        given["LabelStudioOrigin"] = origin_of(options.label_studio_url)
    return given


def sagemaker_parameters(options: Options) -> dict[str, str]:
    """The parameters of aws/sagemaker.yaml that the options give."""
    given = _given(options, _SAGEMAKER) | {"PipelineName": options.name}
    if options.image:
        given["TrainingRepository"] = options.image.partition("/")[2].partition(":")[0].partition("@")[0]
    if options.wheels:
        given["WheelsUri"] = f"{options.wheels.rstrip('/')}/"
    if options.store:
        given["StoreUri"] = options.store.rstrip("/")
    return given


def origin_of(url: str) -> str:
    """The origin of an address, as browsers send it."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}"


def _given(options: Options, names: dict[str, str]) -> dict[str, str]:
    values = asdict(options)
    return {parameter: _text(values[name]) for name, parameter in names.items() if values[name] is not None}


def _text(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else f"{value:g}" if isinstance(value, float) else str(value)
