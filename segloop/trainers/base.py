"""The seam between a retrain and the place where it trains."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol

from segloop.metrics.curves import CurvesByName
from segloop.progress import Progress


@dataclass(frozen=True)
class Run:
    """What a training run needs. `id` names it, however often it is submitted; `folder` is its own to write in."""

    id: str
    folder: Path
    snapshot: Path
    champion: Path | None
    hyperparameters: Mapping[str, str]


@dataclass(frozen=True)
class RunStatus:
    """How a run is. `failed` would fail again; `lost` was killed from outside and may be submitted again, and where there
    was `no_room` for it, only after a while.

    `curves` are those of the run so far (see `segloop.metrics.curves.Curves`), where the place can tell them itself.
    """

    state: Literal["running", "finished", "failed", "lost"]
    progress: Progress | None = None
    reason: str = ""
    curves: CurvesByName | None = field(default=None, compare=False)
    no_room: bool = False


class Trainer(Protocol):
    """A place that runs `segloop.training` on a folder of SageMaker's container contract.

    Every method may raise TrainerUnavailable, where the place is away, and TrainerRefused, where it accepts no credentials
    or they lack a permission: the same call may work later, and a run that has begun goes on.

    Attributes:
        poll_later_s: a run goes on without this process, and is to be polled so many seconds later; None: it ends with
            this process, which has to stay.
    """

    @property
    def poll_later_s(self) -> float | None: ...

    def fetch_snapshot(self, digest: str, folder: Path) -> bool:
        """Bring the snapshot with this hash, that a run was submitted with from another machine, into a folder; whether it
        is there."""

    def submit(self, run: Run) -> None:
        """Start a run, go on with one that was lost, or take up one that still runs or has finished.

        Raises:
            TrainingError: it cannot be started.
        """

    def poll(self, run: Run) -> RunStatus:
        """How a submitted run is."""

    def collect(self, run: Run) -> Path:
        """The bundle folder of a finished run: model.safetensors and version.json."""

    def stop(self, run: Run) -> None:
        """Stop a run so that it can be submitted again later; returns when it has stopped."""
