"""Settings: every knob of segloop, its default and its help; the only reader of the environment."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple
from urllib.parse import quote, unquote, urlsplit

from platformdirs import user_data_path
from pydantic import AliasChoices, Field, SecretStr, ValidationError, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from segloop.errors import BadRequest, SettingsError

_log = logging.getLogger(__name__)

_MIB = 2**20
_MEGAPIXEL = 10**6
_ENGINES = ("auto", "torch", "openvino", "openvino-int8")
_ENDPOINT_PREFIX = "sagemaker:"
_ENDPOINT = re.compile(r"sagemaker:[A-Za-z0-9](-*[A-Za-z0-9]){0,62}")
# sun_path of sockaddr_un holds 108 bytes, the last one a zero (unix(7)); macOS has four less
_SOCKET_PATH_BYTES = 103
# read by prometheus-client when it is imported
_METRICS_FOLDER = "PROMETHEUS_MULTIPROC_DIR"
# what torchrun sets, and what stands for a process alone
_TORCHRUN = {"RANK": 0, "LOCAL_RANK": 0, "WORLD_SIZE": 1}

#: Settings that a project may override through the *extra params* of its ML backend in Label Studio.
PROJECT_SETTINGS = (
    "acquisition",
    "acquisition_batch",
    "adapt_minutes",
    "adapt_threshold",
    "annotators",
    "arch",
    "input_size",
    "min_area_px",
    "ordered_view",
    "output_tag",
    "polygon_tolerance_px",
    "promote_class_limit",
    "promote_tolerance",
    "regions",
    "retrain_threshold",
    "train_epochs",
    "train_minutes",
    "train_patience",
    "unlabelled",
)


class Settings(BaseSettings):
    """All settings, frozen. Each is read from its environment variable or from a `.env` file.

    The variable is `SEGLOOP_` and the name in capitals, but for the six that other tools of the field
    share: LABEL_STUDIO_URL, LABEL_STUDIO_API_KEY, BASIC_AUTH_USER, BASIC_AUTH_PASS, REDIS_URL and
    PORT are read without the prefix (the prefixed form works too).
    """

    model_config = SettingsConfigDict(
        env_prefix="SEGLOOP_",
        env_ignore_empty=True,
        extra="ignore",
        frozen=True,
        populate_by_name=True,
        validate_default=True,
    )

    # -- Label Studio
    label_studio_url: str = Field(
        "http://localhost:8080",
        validation_alias=AliasChoices("SEGLOOP_LABEL_STUDIO_URL", "LABEL_STUDIO_URL"),
        description="Address of Label Studio, as this machine reaches it.",
    )
    label_studio_public_url: str = Field(
        "",
        description="Address of Label Studio as people's browsers reach it, for links of the status page. Empty: "
        "LABEL_STUDIO_URL.",
    )
    label_studio_api_key: SecretStr = Field(
        SecretStr(""),
        validation_alias=AliasChoices("SEGLOOP_LABEL_STUDIO_API_KEY", "LABEL_STUDIO_API_KEY"),
        description="A personal access token or a legacy token of Label Studio. Needed for uploaded images and for training.",
    )

    annotations_from: str = Field(
        "api",
        description="Where annotations are read: api, or the bucket and prefix of Label Studio's target storage, "
        "s3://bucket/prefix ({project} in it stands for the project's id). Deletions are seen there only where the storage "
        'has "can delete objects".',
    )

    storage_access_key_id: str = Field(
        "",
        description="Id of the access key that `segloop aws connect` gives Label Studio for a project's buckets. Empty: none, "
        "Label Studio uses the role of its own machine.",
    )
    storage_secret_access_key: SecretStr = Field(SecretStr(""), description="The secret of that access key.")

    # -- Access
    basic_auth_user: str = Field(
        "segloop",
        validation_alias=AliasChoices("SEGLOOP_BASIC_AUTH_USER", "BASIC_AUTH_USER"),
        description="User name of basic auth.",
    )
    basic_auth_pass: SecretStr = Field(
        SecretStr(""),
        validation_alias=AliasChoices("SEGLOOP_BASIC_AUTH_PASS", "BASIC_AUTH_PASS"),
        description="Password of basic auth. While it is empty, segloop listens on the loopback interface only.",
    )
    webhook_secret: SecretStr = Field(
        SecretStr(""),
        description="Secret that Label Studio's webhook sends in the header X-Segloop-Secret; `/webhook` accepts it instead of basic auth.",
    )

    # -- Server
    host: str = Field(
        "0.0.0.0",  # noqa: S104 - bind_host narrows it to loopback while there is no password
        description="Address to listen on; without a password it is 127.0.0.1.",
    )
    port: int = Field(
        9090, ge=0, le=65535, validation_alias=AliasChoices("SEGLOOP_PORT", "PORT"), description="Port to listen on."
    )
    workers: int = Field(1, ge=1, le=64, description="Server processes; each holds a network of its own.")
    threads: int = Field(
        24,
        ge=1,
        le=256,
        description="Threads of one server process; four of them are kept free of predict requests, so that /setup and /webhook never wait.",
    )
    public_url: str = Field(
        "",
        description="Address under which Label Studio knows this backend; needed only where several backends are connected to one project.",
    )
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field("INFO", description="How much is logged.")
    log_format: Literal["text", "json"] = Field(
        "text", description="How it is logged: text, or json, one object a line, of every process alike."
    )
    access_log: bool = Field(False, description="Log a line for every request.")

    # -- Where things are kept
    data_dir: Path = Field(
        user_data_path("segloop"), description="Folder for everything segloop keeps: store, cache, mirror, queue, runs."
    )
    store: str = Field(
        "", description="Where versions live: a folder or s3://bucket/prefix. Empty: the folder store in data_dir."
    )
    redis_url: str = Field(
        "",
        validation_alias=AliasChoices("SEGLOOP_REDIS_URL", "REDIS_URL"),
        description="Redis or Valkey server. Empty: segloop's own Valkey, kept in data_dir.",
    )

    # -- Label configs and masks
    output_tag: Literal["auto", "brush", "bitmask", "polygon"] = Field(
        "auto",
        description="Control tag for predictions where a label config has several; auto prefers brush, then bitmask, then polygon.",
    )
    unlabelled: Literal["background", "ignore"] = Field(
        "background", description="What a pixel without a label means in training: background, or nothing (ignored)."
    )
    annotators: Literal["ground-truth", "latest", "majority"] = Field(
        "ground-truth",
        description="Which annotations of a task count, of those not skipped: the ground truth, else the newest; the latest; "
        "or, for each pixel, what the majority of them says (ties go to the newest).",
    )
    regions: Literal["class", "component"] = Field(
        "class", description="One brush or bitmask region per class, or per connected component."
    )
    min_area_px: int = Field(
        0, ge=0, description="Connected pieces of a class smaller than this many pixels are dropped from predictions."
    )
    polygon_tolerance_px: float = Field(
        1.0, ge=0, description="How far a predicted polygon may stray from the mask, in pixels."
    )

    # -- Images
    image_hosts: Annotated[tuple[str, ...], NoDecode] = Field(
        (),
        description="Hosts (patterns such as *.example.org, commas between) that images may come from besides Label Studio. "
        "Empty: any host with a public address. A private or loopback address must be listed: a name stands for any address "
        "that it has, a pattern only for public ones; 10.0.0.5 or 10.0.0.0/8 list addresses.",
    )
    image_folder: Path | None = Field(
        None,
        description="Label Studio's local files document root, if this machine has it: /data/local-files is then read from disk.",
    )
    image_max_bytes: int = Field(64 * _MIB, ge=1, description="Largest image file, in bytes.")
    image_max_pixels: int = Field(100 * _MEGAPIXEL, ge=1, description="Largest image, in pixels.")
    image_timeout_s: float = Field(20.0, gt=0, description="Longest time to fetch one image, in seconds.")
    image_cache_bytes: int = Field(
        2048 * _MIB, ge=0, description="Size of the image cache on disk, in bytes; 0 switches it off."
    )

    # -- Network
    arch: Literal["deeplabv3_resnet50", "fcn_resnet50"] = Field(
        "deeplabv3_resnet50", description="Segmentation network, of torchvision."
    )
    weights: str = Field(
        "coco", description="Weights to begin with: coco, imagenet, none, or the path of a .safetensors or .pth file."
    )
    output_stride: Literal["auto", "8", "16"] = Field(
        "auto", description="Stride of the network's features; auto: 16 on a CPU, 8 on a GPU."
    )
    device: Literal["auto", "cpu", "cuda"] = Field(
        "auto", description="Where the network runs; auto takes a GPU if there is one."
    )
    input_size: int = Field(
        512, ge=64, le=4096, description="Long side of the image as the network sees it, in pixels."
    )

    long_side: int = Field(
        0,
        ge=0,
        le=16384,
        description="Longest side, in pixels, at which a trained network sees an image: beyond input_size it sees "
        "overlapping windows of it, in more detail and more slowly. 0: the whole image at input_size.",
    )

    # -- Serving
    engine: str = Field(
        "auto",
        description="What runs the network: auto takes torch on a GPU, and on a CPU the int8 model where it is as good "
        "as the exact one, else the exact one (openvino). sagemaker:NAME asks a SageMaker endpoint (docs/sagemaker.md). "
        "One of `auto`, `torch`, `openvino`, `openvino-int8`, `sagemaker:NAME`.",
    )
    predict_requests: int = Field(
        16,
        ge=1,
        description="Predict requests that one server process works on at once; past it, it answers 503 with Retry-After.",
    )
    prediction_cache_bytes: int = Field(
        128 * _MIB, ge=0, description="Memory for the latest predictions of one server process, in bytes; 0: none."
    )
    predict_deadline_s: float = Field(
        80.0, gt=0, description="A /predict answers within this time; Label Studio gives up after 100 s."
    )
    swap_poll_s: float = Field(
        1.0, gt=0, le=5, description="How often a server process looks for a newly promoted version, in seconds."
    )
    served_models: int = Field(
        4, ge=1, description="Networks that one server process keeps in memory, one per project."
    )

    # -- Retraining
    retrain_threshold: int = Field(
        100,
        ge=0,
        description="Tasks whose annotations changed since the last full retrain's snapshot that queue one. 0: none ever do.",
    )
    adapt_threshold: int = Field(
        10,
        ge=0,
        description="Tasks whose annotations changed since the last snapshot that queue a quick adaptation: the head alone is "
        "trained, from weights or from the served version. 0: never.",
    )
    adapt_minutes: float = Field(
        1.0, gt=0, description="Wall-clock budget of a quick adaptation, in minutes, without its evaluation."
    )
    reconcile_s: float = Field(
        300.0, gt=0, description="How often Label Studio is asked for changes that no webhook told of, in seconds."
    )
    val_fraction: float = Field(
        0.2, gt=0, lt=1, description="Share of the labelled tasks that is held out for validation."
    )
    min_val_tasks: int = Field(
        10, ge=1, description="Below this many held-out tasks a version's metrics carry a warning."
    )
    promote_tolerance: float = Field(
        0.01,
        ge=0,
        le=1,
        description="How much mIoU a candidate with new labels may lose and still be promoted. Without new labels it must win.",
    )
    promote_class_limit: float = Field(
        0.15, ge=0, le=1, description="A candidate that loses more IoU than this of any class is not promoted."
    )
    train_epochs: int = Field(
        20,
        ge=1,
        description="Passes over the training tasks; small sets get more, so that there are at least train_min_steps steps.",
    )
    train_min_steps: int = Field(200, ge=1, description="Least number of optimizer steps of a training run.")
    train_minutes: float = Field(0.0, ge=0, description="Wall-clock budget of a training run, in minutes; 0: none.")
    train_batch_size: int = Field(4, ge=1, description="Images in a training step.")
    train_lr: float = Field(
        5e-4,
        gt=0,
        description="Highest learning rate of a training run (AdamW); the backbone of published weights has a tenth.",
    )
    train_seed: int = Field(0, ge=0, description="Seed of the training run.")
    train_patience: int = Field(
        0,
        ge=0,
        description="A training run goes over to its end (a falling learning rate) once the held-out mIoU has not risen for "
        "so many of its evaluations, which are then 20; 0: it goes its whole length.",
    )
    train_precision: Literal["auto", "float32", "bfloat16"] = Field(
        "auto",
        description="What training steps compute in; auto: bfloat16 where the GPU or CPU multiplies in it, else float32.",
    )
    train_compile: Literal["auto", "on", "off"] = Field(
        "auto",
        description="Whether training uses torch.compile; auto: on a GPU, in runs that are long enough to repay it.",
    )
    tensorboard_dir: str = Field(
        "",
        description="Folder in which trainings on this machine write their curves for TensorBoard (extra `tensorboard`). "
        "Empty: none.",
    )
    job_timeout_s: int = Field(
        24 * 3600, ge=60, description="A retrain that takes longer than this is stopped, in seconds."
    )
    acquisition: Literal["confidence", "margin", "entropy", "entropy+diversity"] = Field(
        "confidence",
        description="Acquisition function: what a prediction's score is, and so which task uncertainty sampling serves first. "
        "confidence of the winning class, margin to the second, or entropy; entropy+diversity puts the least sure tasks "
        "in an order, after a promotion, in which each is unlike those before it.",
    )
    acquisition_batch: int = Field(
        100, ge=1, le=900, description="Tasks that entropy+diversity puts in order after a promotion."
    )
    ordered_view: bool = Field(
        False,
        description='Keep a tab "Most uncertain first" of the tasks to label in the project\'s Data Manager.',
    )
    prelabel_batch: int = Field(
        8, ge=1, description="Tasks predicted and posted at a time when a promotion refreshes predictions."
    )

    # -- Where training runs
    trainer: Literal["local", "sagemaker"] = Field(
        "local", description="Where versions are trained: on this machine, or in Amazon SageMaker training jobs."
    )
    sagemaker_region: str = Field(
        "", description="AWS region of the training jobs. Empty: that of the AWS configuration (AWS_DEFAULT_REGION)."
    )
    sagemaker_s3: str = Field(
        "",
        description="Where training jobs read and write, s3://bucket/prefix: snapshots, code, checkpoints, trained models.",
    )
    sagemaker_role: str = Field("", description="ARN of the IAM role that training jobs have.")
    sagemaker_pipeline: str = Field(
        "", description="Name of a SageMaker pipeline that trains. Empty: segloop creates training jobs itself."
    )
    sagemaker_route: str = Field(
        "",
        description="Name of the managed route's pipeline (docs/aws.md): the models that it trains are compared and promoted "
        "here. Empty: none are.",
    )
    sagemaker_image: str = Field(
        "",
        description="Container image of training jobs. Empty: AWS's own of PyTorch, for a GPU where the instance has one.",
    )
    sagemaker_wheels: str = Field(
        "",
        description="Folder of wheels, s3://bucket/prefix/, that training jobs install what their image lacks from. "
        "Empty: from PyPI, with the hashes that segloop carries.",
    )
    sagemaker_instance: str = Field("ml.g4dn.xlarge", description="Instance type of training jobs.")
    sagemaker_instances: int = Field(1, ge=1, le=64, description="Instances of a training job.")
    sagemaker_spot: bool = Field(
        False,
        description="Train on spot instances: cheaper, may wait, and goes on from a checkpoint after an interruption.",
    )
    sagemaker_max_runtime_s: int = Field(
        4 * 3600,
        ge=60,
        le=28 * 86400,
        description="A training job that trains longer than this is stopped, in seconds.",
    )
    sagemaker_max_wait_s: int = Field(
        0,
        ge=0,
        le=28 * 86400,
        description="Longest time of a spot training job, waiting included, in seconds. 0: twice sagemaker_max_runtime_s.",
    )
    sagemaker_retries: int = Field(
        2, ge=0, le=30, description="How often SageMaker starts a training job again after an error of its own."
    )
    sagemaker_warm_pool_s: int = Field(
        0,
        ge=0,
        le=3600,
        description="How long instances are kept, and paid, for the next training job, in seconds; 0: not.",
    )
    sagemaker_volume_gb: int = Field(50, ge=1, le=16384, description="Disk of each instance of a training job, in GB.")
    sagemaker_volume_kms_key: str = Field("", description="KMS key of that disk. Empty: none of your own.")
    sagemaker_output_kms_key: str = Field(
        "", description="KMS key of what a training job writes to S3. Empty: S3's own."
    )
    sagemaker_subnets: Annotated[tuple[str, ...], NoDecode] = Field(
        (), description="Subnets of your VPC that training jobs run in, commas between. Empty: no VPC."
    )
    sagemaker_security_groups: Annotated[tuple[str, ...], NoDecode] = Field(
        (), description="Security groups of training jobs in your VPC, commas between."
    )
    sagemaker_tags: Annotated[tuple[str, ...], NoDecode] = Field(
        (), description="Tags of training jobs: name=value, commas between."
    )
    sagemaker_price_per_hour: float = Field(
        0.0,
        ge=0,
        description="Price of one instance for an hour, in your currency; progress then shows what a training costs. 0: unknown.",
    )
    sagemaker_poll_s: float = Field(
        30.0, gt=0, le=3600, description="How often SageMaker is asked how a training job is, in seconds."
    )
    sagemaker_events: str = Field(
        "",
        description='Address of an SQS queue that gets EventBridge\'s "SageMaker Training Job State Change"; the end of a '
        "training job is then seen at once. Empty: polling alone.",
    )

    @field_validator("sagemaker_subnets", "sagemaker_security_groups", "sagemaker_tags", mode="before")
    @classmethod
    def _split_list(cls, value: Any) -> Any:
        if isinstance(value, str):
            return tuple(part.strip() for part in value.split(",") if part.strip())
        return value

    @field_validator("image_hosts", mode="before")
    @classmethod
    def _split_hosts(cls, value: Any) -> Any:
        if isinstance(value, str):
            return tuple(host.strip() for host in value.split(",") if host.strip())
        return value

    @field_validator("annotations_from")
    @classmethod
    def _api_or_bucket(cls, value: str) -> str:
        if value != "api" and not value.removeprefix("s3://").strip("/"):
            raise ValueError("must be api or s3://bucket/prefix")
        if value != "api" and not value.startswith("s3://"):
            raise ValueError("must be api or s3://bucket/prefix")
        return value.rstrip("/")

    @field_validator("engine")
    @classmethod
    def _engine_or_endpoint(cls, value: str) -> str:
        if value not in _ENGINES and not _ENDPOINT.fullmatch(value):
            raise ValueError(f"use {', '.join(_ENGINES)}, or sagemaker:NAME with the name of a SageMaker endpoint")
        return value

    @field_validator("label_studio_url", "label_studio_public_url", "public_url")
    @classmethod
    def _no_trailing_slash(cls, value: str) -> str:
        if value and not value.startswith(("http://", "https://")):
            raise ValueError("must begin with http:// or https://")
        return value.rstrip("/")

    @property
    def endpoint(self) -> str:
        """The SageMaker endpoint that runs the network; empty where one of this machine's engines does."""
        return self.engine.removeprefix(_ENDPOINT_PREFIX) if self.engine.startswith(_ENDPOINT_PREFIX) else ""

    @property
    def has_password(self) -> bool:
        """Whether basic auth is on."""
        return bool(self.basic_auth_pass.get_secret_value())

    @property
    def secrets(self) -> tuple[str, ...]:
        """Every secret that these settings hold, for the log to hide."""
        fields = (getattr(self, name) for name in type(self).model_fields)
        given = [field.get_secret_value() for field in fields if isinstance(field, SecretStr)]
        password = urlsplit(self.redis_url).password or ""
        return tuple(secret for secret in (*given, password, unquote(password)) if secret)

    @property
    def bind_host(self) -> str:
        """Address the server listens on: loopback alone while there is no password."""
        return self.host if self.has_password else "127.0.0.1"

    @property
    def store_url(self) -> str:
        """The store of versions: an absolute folder or an s3:// address."""
        if self.store.startswith("s3://"):
            return self.store.rstrip("/")
        return str(Path(self.store).absolute() if self.store else self.data_dir.absolute() / "store")

    @property
    def valkey_socket(self) -> Path:
        """Socket of the embedded Valkey; in the folder for temporary files where data_dir is too long for one."""
        path = self.data_dir.absolute() / "valkey" / "valkey.sock"
        if len(os.fsencode(path)) <= _SOCKET_PATH_BYTES:
            return path
        name = hashlib.sha256(os.fsencode(path)).hexdigest()[:16]
        return Path(tempfile.gettempdir()) / f"segloop-{os.getuid()}-{name}" / "valkey.sock"

    @property
    def queue_url(self) -> str:
        """Address of Redis: the one given, or the embedded Valkey's socket."""
        return self.redis_url or f"unix://{quote(str(self.valkey_socket))}"

    def for_project(self, extra_params: object) -> Settings:
        """These settings with a project's own (the *extra params* that Label Studio stores with a backend).

        Label Studio sends them as null, an object, or a string that holds a JSON object. Unknown names are
        left alone (other tools use the field too); a known name with an unusable value is an error.

        Raises:
            BadRequest: a known name has an unusable value.
        """
        params = _as_mapping(extra_params)
        own = {name: params[name] for name in PROJECT_SETTINGS if name in params and params[name] is not None}
        if not own:
            return self
        try:
            return type(self).model_validate({**self.model_dump(), **own})
        except ValidationError as error:
            raise BadRequest(f"extra_params: {_first_problem(error)}") from error


def _as_mapping(extra_params: object) -> Mapping[str, Any]:
    if isinstance(extra_params, str):
        try:
            extra_params = json.loads(extra_params)
        except ValueError:
            return {}
    return extra_params if isinstance(extra_params, Mapping) else {}


def _first_problem(error: ValidationError) -> str:
    problem = error.errors()[0]
    name = ".".join(str(part) for part in problem["loc"]) or "settings"
    return f"{name}={problem.get('input')!r}: {problem['msg']}"


def load_settings(env_file: str | Path | None = ".env", **overrides: Any) -> Settings:
    """Settings from the environment and, where it exists, an env file; `overrides` win.

    Raises:
        SettingsError: a value cannot be used; the text names the setting and what is wrong.
    """
    try:
        return Settings(_env_file=env_file, **overrides)
    except ValidationError as error:
        problem = error.errors()[0]
        name = str(problem["loc"][0]).lower().removeprefix("segloop_") if problem["loc"] else ""
        field = Settings.model_fields.get(name)
        is_secret = field is not None and field.annotation is SecretStr
        value = "" if is_secret else f" is {problem['input']!r}"
        raise SettingsError(f"The setting SEGLOOP_{name.upper()}{value}: {problem['msg']}.") from error


def share_cores() -> None:
    """Have the threads of OpenMP sleep, not spin, while they wait for each other. Call it before torch is imported.

    Serving and training share this machine's cores. A thread that spins keeps the one that it waits for from
    running: a training step beside another process took 7 to 9 s, and 1 s with this (alone 0.5 s both ways;
    ResNet-50, 128x96, batch 4, 2 cores).
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


def environment(settings: Settings) -> dict[str, str]:
    """The environment of a child process that is to have the same settings: this process's, and all that were given."""
    variables = dict(os.environ)
    for name in settings.model_fields_set:
        value = getattr(settings, name)
        if isinstance(value, SecretStr):
            value = value.get_secret_value()
        variables.pop(name.upper(), None)
        variables[f"SEGLOOP_{name.upper()}"] = (
            ",".join(value) if isinstance(value, tuple) else "" if value is None else str(value)
        )
    return variables


def adopt(variables: Mapping[str, str]) -> None:
    """Make these variables a part of this process's own environment."""
    os.environ.update(variables)


def metrics_folder() -> str | None:
    """The folder in which this server's processes share their metrics (prometheus-client's own variable), if any."""
    return os.environ.get(_METRICS_FOLDER)


def share_metrics(folder: Path) -> None:
    """Have this process and its children share their metrics in a folder, which is emptied: a new server counts anew."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(mode=0o700, parents=True)
    os.environ[_METRICS_FOLDER] = str(folder)


def trace_exporter() -> Literal["", "otlp", "console"]:
    """Where OpenTelemetry's standard variables want traces to go; "" where they ask for none.

    Source: OpenTelemetry, "Environment Variable Specification". Without OTEL_TRACES_EXPORTER it is an OTLP endpoint that
    asks for traces.
    """
    if os.environ.get("OTEL_SDK_DISABLED", "").lower() == "true":
        return ""
    asked = os.environ.get("OTEL_TRACES_EXPORTER", "").strip().lower()
    if not asked:
        endpoints = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
        return "otlp" if any(os.environ.get(name) for name in endpoints) else ""
    for name in asked.split(","):
        match name.strip():
            case "otlp" | "console" as known:
                return known
    if asked != "none":
        # the specification wants a value that is not known to be ignored, with a warning
        _log.warning("OTEL_TRACES_EXPORTER is %r: segloop knows otlp, console and none; nothing is traced.", asked)
    return ""


class Place(NamedTuple):
    """A process's place among those that torchrun started: its number of all, its number on this machine, how many."""

    rank: int
    local_rank: int
    world_size: int


def torchrun_place() -> Place:
    """What torchrun told this process; (0, 0, 1) where it was started alone."""
    return Place(*(int(os.environ.get(name, alone)) for name, alone in _TORCHRUN.items()))
