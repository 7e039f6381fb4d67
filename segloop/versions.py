"""What is known of a version: the model of version.json, its only reader and its only writer."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from segloop.errors import RegistryError
from segloop.formats import VERSION_FILE, WEIGHTS_FILE

_VERSION = re.compile(r"v([1-9][0-9]{0,8})-[0-9a-f]{8}", re.ASCII)
_FILE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}", re.ASCII)


class _Frozen(BaseModel):
    # Fields that a later release adds are no error; NaN and infinity are no JSON.
    model_config = ConfigDict(frozen=True, extra="ignore", allow_inf_nan=False, populate_by_name=True)


class FileInfo(_Frozen):
    """A file of a version: sha256 in hex, and its size."""

    sha256: str
    bytes: int


class Metrics(_Frozen):
    """What a network is worth on held-out tasks; None where there was nothing to measure it on.

    Attributes:
        miou: the mean of `iou`, which has each class by name, background left out.
        pixel_accuracy: the share of pixels whose class is right, background counted.
        boundary_f1: the mean of `boundary_f1_by_class`; see `segloop.metrics.BoundaryScore`.
        calibration_error: see `segloop.metrics.CalibrationError`.
        confusion: pixels of each true class (rows) by predicted class, background first; None for many classes.
    """

    miou: float | None = None
    pixel_accuracy: float | None = None
    iou: Mapping[str, float | None] = {}
    tasks: int | None = None
    pixels: int | None = None
    boundary_f1: float | None = None
    boundary_f1_by_class: Mapping[str, float | None] = {}
    calibration_error: float | None = None
    confusion: list[list[int]] | None = None


class PromotionDecision(_Frozen):
    """Whether a candidate replaced the champion, and why, in one sentence.

    `interval` is the difference in mIoU with the ends of its 95 % interval, where there was a champion to compare with.
    """

    act: bool
    reason: str
    interval: tuple[float, float, float] | None = None


class RecipeInfo(_Frozen):
    """How a version was trained; `hyperparameters` are what `segloop reproduce` trains with again.

    `backbone_rate` is the factor on the learning rate of the backbone; None in versions from before it was kept.
    """

    kind: str | None = None
    weights: str = "none"
    steps: int | None = None
    batch_size: int | None = None
    learning_rate: float | None = None
    backbone_rate: float | None = None
    seed: int | None = None
    seconds: float | None = None
    torch: str | None = None
    precision: str | None = None
    processes: int | None = None
    views: int | None = None
    hyperparameters: dict[str, str] | None = None


class EngineFigures(_Frozen):
    """What an engine is worth on held-out images: its mIoU, the share of pixels whose class is as torch's, and whether
    it may serve, with the reason."""

    miou: float | None = None
    agreement: float | None = None
    serves: bool = False
    reason: str = ""


class EngineReport(_Frozen):
    """A version's engines: their figures, or why it has none (`error`). `images` is how many they were compared on."""

    images: int = 0
    torch: EngineFigures | None = None
    openvino: EngineFigures | None = None
    openvino_int8: EngineFigures | None = Field(None, alias="openvino-int8")
    error: str = ""

    def figures(self) -> dict[str, EngineFigures]:
        """The figures that there are, by the engine's name."""
        found = {"torch": self.torch, "openvino": self.openvino, "openvino-int8": self.openvino_int8}
        return {name: figures for name, figures in found.items() if figures is not None}


class VersionInfo(_Frozen):
    """A version's version.json. What has a default here came later, and may be missing there.

    `version`, `project` and `files` are the registry's: a bundle that it does not hold yet has no version.
    """

    format: Literal[1] = 1
    version: str = ""
    project: str = ""
    created_at: str
    arch: str
    output_stride: int
    input_size: int
    classes: tuple[str, ...]
    parent: str | None = None
    snapshot: str
    metrics: Metrics
    champion_metrics: Metrics | None = None
    decision: PromotionDecision | None = None
    recipe: RecipeInfo = RecipeInfo()
    files: dict[str, FileInfo] = {}
    long_side: int = 0
    temperature: float = 1.0
    engines: EngineReport = EngineReport()
    curves: dict[str, list[list[float]]] = {}

    @field_validator("version", mode="before")
    @classmethod
    def _none_yet(cls, value: Any) -> Any:
        return "" if value is None else value  # as trainings once wrote it

    @field_validator("files")
    @classmethod
    def _plain_names(cls, files: dict[str, FileInfo]) -> dict[str, FileInfo]:
        for name in files:
            if not is_file_name(name):
                raise ValueError(f"the name {name!r} is not safe to use")
        return files

    def to_json(self) -> bytes:
        """The content of version.json."""
        return self.model_dump_json(indent=1, by_alias=True).encode()


def read_version(bundle: Path) -> VersionInfo:
    """What the version.json of a bundle folder says.

    Raises:
        RegistryError: it is missing, or is no version.json.
    """
    file = bundle / VERSION_FILE
    try:
        return parse_version(file.read_bytes(), str(file))
    except OSError as error:
        raise RegistryError(f"{file} cannot be read: {error.strerror}") from error


def parse_version(data: bytes, where: str) -> VersionInfo:
    """What a version.json says; `where` names it in errors.

    Raises:
        RegistryError: it is none: not JSON, a missing or unusable value, a name with a way out of its folder.
    """
    try:
        info = VersionInfo.model_validate_json(data)
    except ValidationError as error:
        raise RegistryError(f"{where}: {describe_problem(error)}") from error
    if WEIGHTS_FILE not in info.files:
        raise RegistryError(f"{where} lists no {WEIGHTS_FILE}")
    return info


def describe_problem(error: ValidationError) -> str:
    """The first of a model's problems: the field, and what is wrong with it."""
    problem = error.errors(include_url=False, include_input=False)[0]
    return ": ".join(filter(None, (".".join(map(str, problem["loc"])), problem["msg"])))


def version_number(name: str) -> int | None:
    """The n of a version called v{n}-{hash}; None for what is no version's name."""
    match = _VERSION.fullmatch(name)
    return int(match[1]) if match else None


def is_file_name(name: str) -> bool:
    """Whether a name may be a file of the store: one harmless path component."""
    return _FILE.fullmatch(name) is not None
