"""How far a job is: reported by dataset, training and worker, shown by the pages and the command line."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from pydantic import TypeAdapter, ValidationError
from typing_extensions import TypedDict  # that of Python 3.11 cannot be validated


class Progress(TypedDict, total=False):
    """How far a job is, as JSON; each phase has some of these. Times in seconds."""

    #: queued, waiting, snapshot, training, evaluated, evaluating, exporting, promoting, predicting, ordering, accepting, done,
    #: failed or stopped.
    phase: str
    message: str
    step: int
    steps: int | None
    epoch: int
    epochs: int
    loss: float | None
    #: Of the best evaluation so far, and of the one that has just ended.
    miou: float | None
    evaluated: float | None
    eta_s: float | None
    #: Of a training elsewhere: where it is, its name, what it has taken and cost.
    stage: str
    job: str
    training_s: float
    billable_s: float
    spot_saving: float
    cost: float
    #: Of a retrain that has ended.
    version: str | None
    promoted: bool


#: What is called with a job's progress.
Report = Callable[[Progress], None]

_PROGRESS: Final = TypeAdapter(Progress)


def read_progress(value: object) -> Progress | None:
    """Progress that another process wrote, without what it does not have; None if that is no progress."""
    try:
        return _PROGRESS.validate_python(value)
    except ValidationError:
        return None
