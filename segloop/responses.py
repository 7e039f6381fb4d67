"""What the backend answers to Label Studio and to its operators: the JSON of each route.

For annotations: at run time this would import rq into a server that may do without it yet.
"""

from __future__ import annotations

from typing import Literal, NotRequired, TypedDict

from segloop.policy import Recipe
from segloop.queue.status import JobStatus
from segloop.serving.predict import NotNow, Prediction


class SetupResponse(TypedDict):
    """Of `/setup`. `warning` says why the project's own settings cannot be used, or its weights cannot be had: an error
    would have Label Studio show the whole backend as broken."""

    model_version: str
    warning: NotRequired[str]


class PredictResponse(TypedDict):
    """Of `/predict`: one prediction per task, in order, all by one version; `{}` for a task that cannot be predicted now."""

    results: list[Prediction | NotNow]
    model_version: str


class EventResponse(TypedDict):
    """Of `/webhook` and `/train`: what an event led to, and how many tasks changed since the last full retrain."""

    status: Literal["queued", "joined", "counted", "deferred", "ignored"]
    message: str
    job: NotRequired[str]
    recipe: NotRequired[Recipe]
    changed_tasks: NotRequired[int]
    threshold: NotRequired[int]


class VersionsResponse(TypedDict):
    """Of `/versions`, oldest first; of one project also the version that answers now."""

    versions: list[str]
    model_version: NotRequired[str]


class IsTraining(TypedDict):
    """Of `/is_training` while no retrain is queued or runs."""

    is_training: bool
    backend: Literal["redis"]
    model_version: str


class Training(IsTraining, JobStatus):
    """Of `/is_training` while a retrain is queued or runs."""

    job_id: str


class ValidateResponse(TypedDict):
    """Of `/validate`: the classes of a label config, and the control tag of each class by Image tag."""

    status: Literal["ok"]
    classes: list[str]
    outputs: dict[str, dict[str, str]]
