"""What a retrain knows of itself; the states that outlive a kill are dataclasses, each in a JSON file of the run's folder."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NotRequired, TypedDict, TypeVar

from pydantic import TypeAdapter

from segloop.dataset import Manifest
from segloop.files import write_bytes
from segloop.policy import Recipe
from segloop.settings import Settings
from segloop.versions import Metrics, PromotionDecision, VersionInfo, read_version

if TYPE_CHECKING:
    from segloop.registry import Champion

_State = TypeVar("_State")


class RetrainResult(TypedDict):
    """What a retrain's job returns. Without a version there is a reason alone; `seconds` are those of the training."""

    version: str | None
    promoted: bool
    recipe: Recipe
    reason: str
    seconds: NotRequired[float | None]
    metrics: NotRequired[dict[str, object]]
    champion_metrics: NotRequired[dict[str, object] | None]
    tasks: NotRequired[int]
    skipped: NotRequired[int]
    #: Of an adopted training: SageMaker's job, and how many tasks it learnt from.
    training: NotRequired[str]
    learnt: NotRequired[int]


def run_folder(settings: Settings, project: str, job_id: str) -> Path:
    """The folder of a retrain's run, for as long as it is the project's latest."""
    return settings.data_dir.absolute() / "runs" / project / job_id


@dataclass(frozen=True)
class Candidate:
    """What a training made: its bundle folder, the snapshot that it is compared on, and what it was trained with."""

    bundle: Path
    manifest: Manifest
    hyperparameters: Mapping[str, str]

    def info(self) -> VersionInfo:
        """version.json, as the training wrote it."""
        return read_version(self.bundle)


@dataclass(frozen=True)
class Beginning:
    """run.json: what a retrain was when it first began; it stays so, whatever is asked for or promoted meanwhile.

    `parent` is the version that the training begins with; None: it begins with the settings' weights.
    """

    recipe: Recipe
    parent: str | None


@dataclass(frozen=True)
class SeenStep:
    """A step of a training elsewhere, as one look found it: its loss, and the mIoU of its evaluation."""

    step: int
    loss: float | None
    evaluated: float | None


@dataclass(frozen=True)
class TrainingState:
    """training.json: a training that goes on elsewhere, as far as it was seen.

    `waits` is how often there was no room for it, and `retry_at` when it is submitted again, while that is to come.
    """

    submitted_at: float
    lost: int = 0
    seen: tuple[SeenStep, ...] = ()
    waits: int = 0
    retry_at: float | None = None


@dataclass(frozen=True)
class Verdict:
    """verdict.json: a candidate's metrics and the champion's on the same tasks, and the decision.

    `generation` is the champion's that it was compared with (0: there was none), `version` the candidate's name, once it
    is registered.
    """

    generation: int
    metrics: Metrics
    champion_metrics: Metrics | None
    decision: PromotionDecision
    version: str = ""

    def made(self, champion: Champion | None) -> bool:
        """Whether the candidate is the champion."""
        return champion is not None and champion.version == self.version

    def holds(self, champion: Champion | None) -> bool:
        """Whether it needs no other comparison: it was one with this champion, or has made it."""
        return self.made(champion) or self.generation == generation_of(champion)


def generation_of(champion: Champion | None) -> int:
    """The generation of a project's champion; 0 without one."""
    return 0 if champion is None else champion.generation


def read_state(path: Path, kind: type[_State]) -> _State | None:
    """The state that a file holds; None if there is none."""
    return TypeAdapter(kind).validate_json(path.read_bytes()) if path.is_file() else None


def write_state(path: Path, state: object) -> None:
    """Write a state whole."""
    write_bytes(path, TypeAdapter(type(state)).dump_json(state, indent=1, by_alias=True))
