"""What is known of a version: the model of version.json, its only reader and its only writer."""

from __future__ import annotations

import re
from collections.abc import Mapping, Set
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
        miou: the mean of `iou`, which has each class by name, background left out; None for a class that the truth lacks.
        absent_false_positives: pixels that were predicted as a class that the truth lacks, by class; None in early versions.
        pixel_accuracy: the share of pixels whose class is right, background counted.
        boundary_f1: the mean of `boundary_f1_by_class`; see `segloop.metrics.BoundaryScore`.
        calibration_error: see `segloop.metrics.CalibrationError`.
        confusion: pixels of each true class (rows) by predicted class, background first; None for many classes.
    """

    miou: float | None = None
    pixel_accuracy: float | None = None
    iou: Mapping[str, float | None] = {}
    absent_false_positives: Mapping[str, int] | None = None
    tasks: int | None = None
    pixels: int | None = None
    boundary_f1: float | None = None
    boundary_f1_by_class: Mapping[str, float | None] = {}
    calibration_error: float | None = None
    confusion: list[list[int]] | None = None

    def known_iou(self) -> dict[str, float]:
        """The classes that have an IoU, with it."""
        return {name: value for name, value in self.iou.items() if value is not None}

    def absent_share(self, name: str | None = None) -> float | None:
        """The share of the pixels that were predicted as classes that the truth lacks, or as the one called `name`.

        None where the truth has that class, and in early versions, which don't tell.
        """
        counts = self.absent_false_positives
        if not self.pixels or counts is None or (name is not None and self.iou.get(name) is not None):
            return None
        return (sum(counts.values()) if name is None else counts.get(name, 0)) / self.pixels

    def over(self, classes: Set[str]) -> Metrics:
        """These metrics with the mIoU over some classes alone; the same where it is already."""
        before = self.known_iou()
        known = {name: value for name, value in before.items() if name in classes}
        if known == before:
            return self
        iou = {name: known.get(name) for name in self.iou}
        return self.model_copy(update={"iou": iou, "miou": sum(known.values()) / len(known) if known else None})


class HeldOutBias(_Frozen):
    """By how much held-out labels that people drew over the champion's own pre-labels favour it: its mIoU on these tasks
    less that on blind ones, with the ends of the 95 % bootstrap interval; None where too few are known.

    Attributes:
        blind: held-out tasks whose pre-label was hidden; `shown`: those that began as the champion's pre-label.
    """

    blind: int
    shown: int
    difference: float | None = None
    low: float | None = None
    high: float | None = None

    def sentence(self) -> str:
        """The bias, in words."""
        tasks = f"{self.blind} blind {'task' if self.blind == 1 else 'tasks'}, {self.shown} drawn over its pre-labels"
        if self.difference is None or self.low is None or self.high is None:
            return f"By how much held-out labels favour the champion is unknown: {tasks}."
        interval = f"95 % interval {self.low:+.4f} to {self.high:+.4f}; {tasks}"
        if self.low <= 0 <= self.high:
            return f"That held-out labels favour the champion is not proven: {self.difference:+.4f} mIoU ({interval})."
        what = "favour" if self.difference > 0 else "disfavour"
        return f"Held-out labels drawn over the champion's pre-labels {what} it by {self.difference:+.4f} mIoU ({interval})."


class PromotionDecision(_Frozen):
    """Whether a candidate replaced the champion, and why, in one sentence.

    `interval` is the difference in mIoU with the ends of its 95 % interval, where there was a champion to compare with, and
    `ahead` the share of the bootstrap's resamples in which the candidate's mIoU was higher. `bias` is None without a
    champion, and in early versions.
    """

    act: bool
    reason: str
    interval: tuple[float, float, float] | None = None
    ahead: float | None = None
    bias: HeldOutBias | None = None


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


class GuidedFigures(_Frozen):
    """What a guided head is worth for clicks at `pieces` of held-out annotations: the mean IoU after so many clicks, with it and
    without, and whether it serves, with the reason."""

    pieces: int = 0
    iou: Mapping[int, float] = {}
    iou_without: Mapping[int, float] = {}
    serves: bool = False
    reason: str = ""


class EngineReport(_Frozen):
    """A version's engines: their figures, or why it has none (`error`). `images` is how many they were compared on.

    `guided` tells of its guided head; None where none was trained.
    """

    images: int = 0
    torch: EngineFigures | None = None
    openvino: EngineFigures | None = None
    openvino_int8: EngineFigures | None = Field(None, alias="openvino-int8")
    guided: GuidedFigures | None = None
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
    return _over_true_classes(info)


def _over_true_classes(info: VersionInfo) -> VersionInfo:
    """A version with mIoUs over the classes in the truth.

    In early versions it is the mean over classes in truth or prediction, so that candidate and champion may be averaged
    over different ones. The confusion matrix tells which classes the truth has; without one, those of which both have an
    IoU are the most that can be compared.
    """
    ours, theirs = info.metrics, info.champion_metrics
    if ours.absent_false_positives is not None:
        return info
    if ours.confusion and len(ours.confusion) == len(info.classes) + 1:
        true = {name for name, row in zip(info.classes, ours.confusion[1:], strict=True) if any(row)}
    else:
        true = ours.known_iou().keys() & (theirs or ours).known_iou().keys()
    changes = {"metrics": ours.over(true), "champion_metrics": theirs and theirs.over(true)}
    return info.model_copy(update=changes)


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
