"""Settings of the server: Label Studio, access, where things are kept, images, label configs, the network that answers."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

from platformdirs import user_data_path
from pydantic import AliasChoices, Field, SecretStr, field_validator
from pydantic_settings import BaseSettings

from segloop.settings.sources import Several

_MIB = 2**20
_MEGAPIXEL = 10**6
_ENGINES = ("auto", "torch", "openvino", "openvino-int8")
_ENDPOINT = re.compile(r"sagemaker:[A-Za-z0-9](-*[A-Za-z0-9]){0,62}")


class ServingSettings(BaseSettings):
    """What a server process reads, and workers too."""

    # -- Label Studio
    label_studio_url: str = Field(
        "http://localhost:8080", validation_alias=AliasChoices("SEGLOOP_LABEL_STUDIO_URL", "LABEL_STUDIO_URL")
    )
    """Address of Label Studio, as this machine reaches it."""
    label_studio_public_url: str = ""
    """Address of Label Studio as people's browsers reach it: for links of the status page, and for tasks that name
    images by it, which are fetched from LABEL_STUDIO_URL. Empty: LABEL_STUDIO_URL."""
    label_studio_api_key: SecretStr = Field(
        SecretStr(""), validation_alias=AliasChoices("SEGLOOP_LABEL_STUDIO_API_KEY", "LABEL_STUDIO_API_KEY")
    )
    """A personal access token or a legacy token of Label Studio. Needed for uploaded images and for training."""

    studio_status: bool = True
    """Say in the last line of a project's description in Label Studio how far a training is, what became of it and when
    the next one comes: after Start Training, Label Studio itself shows nothing. Needs LABEL_STUDIO_API_KEY."""
    page_url: str = ""
    """Address of this server as people's browsers reach it, for links from Label Studio to the status page. Empty:
    SEGLOOP_PUBLIC_URL, or the address at which Label Studio calls this server."""

    annotations_from: str = "api"
    """Where annotations are read: api, or the bucket and prefix of Label Studio's target storage, s3://bucket/prefix
    ({project} in it stands for the project's id). Deletions are seen there only where the storage has "can delete
    objects"."""

    storage_access_key_id: str = ""
    """Id of the access key that `segloop aws connect` gives Label Studio for a project's buckets. Empty: none, Label
    Studio uses the role of its own machine."""
    storage_secret_access_key: SecretStr = SecretStr("")
    """The secret of that access key."""

    # -- Access
    basic_auth_user: str = Field("segloop", validation_alias=AliasChoices("SEGLOOP_BASIC_AUTH_USER", "BASIC_AUTH_USER"))
    """User name of basic auth."""
    basic_auth_pass: SecretStr = Field(
        SecretStr(""), validation_alias=AliasChoices("SEGLOOP_BASIC_AUTH_PASS", "BASIC_AUTH_PASS")
    )
    """Password of basic auth. While it is empty, segloop listens on the loopback interface only."""
    webhook_secret: SecretStr = SecretStr("")
    """Secret that Label Studio's webhook sends in the header X-Segloop-Secret; `/webhook` accepts it instead of basic
    auth."""

    # -- Server
    host: str = "0.0.0.0"  # noqa: S104 - bind_host narrows it to loopback while there is no password
    """Address to listen on; without a password it is 127.0.0.1."""
    port: int = Field(9090, ge=0, le=65535, validation_alias=AliasChoices("SEGLOOP_PORT", "PORT"))
    """Port to listen on."""
    workers: int = Field(1, ge=1, le=64)
    """Server processes; each holds a network of its own."""
    threads: int = Field(256, ge=1, le=1024)
    """Threads of one server process, at most. A request takes one from its head's arrival to its answer; four are kept
    free of predict requests, so that /setup and /webhook never wait."""
    public_url: str = ""
    """Address under which Label Studio knows this backend; needed only where several backends are connected to one
    project."""
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
    """How much is logged."""
    log_format: Literal["text", "json"] = "text"
    """How it is logged: text, or json, one object a line, of every process alike."""
    access_log: bool = False
    """Log a line for every request."""

    # -- Where things are kept
    data_dir: Path = user_data_path("segloop")
    """Folder for everything segloop keeps: store, cache, mirror, queue, runs."""
    store: str = ""
    """Where versions live: a folder or s3://bucket/prefix. Empty: the folder store in data_dir."""
    redis_url: str = Field("", validation_alias=AliasChoices("SEGLOOP_REDIS_URL", "REDIS_URL"))
    """Redis or Valkey server. Empty: segloop's own Valkey, kept in data_dir."""

    # -- Label configs and masks
    output_tag: Literal["auto", "brush", "bitmask", "polygon"] = "auto"
    """Control tag for predictions where a label config has several; auto prefers brush, then bitmask, then polygon."""
    unlabelled: Literal["background", "ignore"] = "background"
    """What a pixel without a label means in training: background, or nothing (ignored)."""
    annotators: Literal["ground-truth", "latest", "majority"] = "ground-truth"
    """Which annotations of a task count, of those not skipped: the ground truth, else the newest; the latest; or, for
    each pixel, what the majority of them says (ties go to the newest)."""
    regions: Literal["class", "component"] = "class"
    """One brush or bitmask region per class, or per connected component."""
    min_area_px: int = Field(0, ge=0)
    """Connected pieces of a class smaller than this many pixels are dropped from predictions."""
    polygon_tolerance_px: float = Field(1.0, ge=0)
    """How far a predicted polygon may stray from the mask, in pixels."""

    # -- Images
    image_hosts: Several = ()
    """Hosts (patterns such as *.example.org, commas between) that images may come from besides Label Studio. Empty: any
    host with a public address. A private or loopback address must be listed: a name stands for any address that it has,
    a pattern only for public ones; 10.0.0.5 or 10.0.0.0/8 list addresses."""
    image_folder: Path | None = None
    """Label Studio's local files document root, if this machine has it: /data/local-files is then read from disk."""
    s3_requester_pays: bool = False
    """Read images from buckets whose owner lets the reader pay (Requester Pays): this AWS account pays then."""
    image_max_bytes: int = Field(64 * _MIB, ge=1)
    """Largest image file, in bytes."""
    image_max_pixels: int = Field(100 * _MEGAPIXEL, ge=1)
    """Largest image, in pixels."""
    image_timeout_s: float = Field(20.0, gt=0)
    """Longest time to fetch one image, in seconds."""
    image_wait_hours: float = Field(24.0, ge=0)
    """How long a retrain waits for images whose host is away or overloaded, in hours. After that it goes on without
    their tasks, and each retrain names the hosts, until the images come. 0: it never waits."""
    image_cache_bytes: int = Field(2048 * _MIB, ge=0)
    """Size of the image cache on disk, in bytes; 0 switches it off."""

    # -- Network
    arch: Literal["fpn_resnet50", "deeplabv3_resnet50", "fcn_resnet50"] = "fpn_resnet50"
    """Segmentation network that full trainings make: with a decoder at stride 4, or one of torchvision's."""
    weights: str = "coco"
    """Weights to begin with: coco, imagenet, none, or the path of a .safetensors or .pth file."""
    weights_classes: str = ""
    """Class names of a file of weights, separated by commas, in the order of its channels; not needed where a file
    beside it names them."""
    weights_url: str = "https://download.pytorch.org/models"
    """Address that the published weights are fetched from: PyTorch's, or a mirror in your own network."""
    output_stride: Literal["auto", "8", "16"] = "auto"
    """Stride of the features of torchvision's networks; auto: 16 on a CPU, 8 on a GPU."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where the network runs; auto takes a GPU if there is one."""
    input_size: int = Field(0, ge=0, le=4096)
    """Long side of the image as the network sees it, in pixels, at least 64. 0: each training chooses it, by the size
    of the images and by predict_seconds; from random weights also by train_minutes."""
    long_side: int = Field(0, ge=0, le=16384)
    """Longest side, in pixels, at which a trained network sees an image: beyond input_size it sees overlapping windows
    of it, in more detail and more slowly. 0: the whole image at input_size."""

    # -- Serving
    engine: str = "auto"
    """What runs the network: auto takes torch on a GPU, and on a CPU the int8 model where it is as good as the exact
    one, else the exact one (openvino). sagemaker:NAME asks a SageMaker endpoint (docs/sagemaker.md). One of `auto`,
    `torch`, `openvino`, `openvino-int8`, `sagemaker:NAME`."""
    predict_requests: int = Field(16, ge=1)
    """Predict requests that one server process works on at once; past it, it answers 503 with Retry-After."""
    prediction_cache_bytes: int = Field(128 * _MIB, ge=0)
    """Memory for the latest predictions of one server process, in bytes; 0: none."""
    predict_deadline_s: float = Field(80.0, gt=0)
    """A /predict answers within this time; Label Studio gives up after 100 s."""
    swap_poll_s: float = Field(1.0, gt=0, le=5)
    """How often a server process looks for a newly promoted version, in seconds."""
    served_models: int = Field(4, ge=1)
    """Networks that one server process keeps in memory, one per project."""

    @field_validator("input_size")
    @classmethod
    def _large_enough(cls, value: int) -> int:
        if 0 < value < 64:
            raise ValueError("must be at least 64, or 0")
        return value

    @field_validator("annotations_from")
    @classmethod
    def _api_or_bucket(cls, value: str) -> str:
        if value != "api" and not re.match("s3:///*[^/]", value):
            raise ValueError("must be api or s3://bucket/prefix")
        return value.rstrip("/")

    @field_validator("engine")
    @classmethod
    def _engine_or_endpoint(cls, value: str) -> str:
        if value not in _ENGINES and not _ENDPOINT.fullmatch(value):
            raise ValueError(f"use {', '.join(_ENGINES)}, or sagemaker:NAME with the name of a SageMaker endpoint")
        return value

    @field_validator("redis_url")
    @classmethod
    def _address_of_redis(cls, value: str) -> str:
        if value and not _is_redis(value):
            raise ValueError(
                "must be such as redis://:password@host:6379/0 (redis://, rediss:// or unix://); in a password write %2F for /, "
                "%40 for @, %23 for #, %3F for ?, %5B for [ and %25 for %"
            )
        return value

    @field_validator("label_studio_url", "label_studio_public_url", "public_url")
    @classmethod
    def _no_trailing_slash(cls, value: str) -> str:
        if value and not value.startswith(("http://", "https://")):
            raise ValueError("must begin with http:// or https://")
        return value.rstrip("/")


def _is_redis(url: str) -> bool:
    """Whether redis-py can read an address, and an unescaped password has not cut it short."""
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError:
        return False
    if parts.scheme == "unix":
        return True
    return parts.scheme in ("redis", "rediss") and "@" not in f"{parts.path}{parts.query}{parts.fragment}"
