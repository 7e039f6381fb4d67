"""What pages show: the dicts that templates read, and that `?format=json` answers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, NotRequired, TypedDict

from segloop.web.ui.retrain_view import RetrainView


class Countdown(TypedDict):
    """Tasks that changed, and how many more have to change (`missing`) until a retrain is queued."""

    changed: int
    threshold: int
    missing: int


class NextRetrain(Countdown):
    """Of a full retrain, and of a quick adaptation; None: none is ever queued."""

    quick: Countdown | None


class Served(TypedDict):
    """What a project serves: a version, or what answers before any training."""

    version: str
    still_answers: str | None
    is_trained: bool
    since: str | None
    reason: str | None
    generation: int
    miou: float | None


class Labels(TypedDict):
    """How many tasks a project has, with and without an annotation."""

    tasks: int
    labelled: int
    unlabelled: int


class Project(TypedDict):
    """A project in short. None: it is not known now."""

    id: str
    key: str
    title: str
    served: Served
    labels: Labels | None
    next_retrain: NextRetrain | None


class ProjectRow(Project):
    """A project in the list of all, with its live retrain."""

    job: RetrainView | None


class VersionRow(TypedDict):
    """A version in the list."""

    version: str
    created_at: str
    recipe: str | None
    seconds: float | None
    tasks: int | None
    miou: float | None
    champion_miou: float | None
    difference: float | None
    interval: list[float | None]
    won: bool | None
    reason: str | None
    is_served: bool
    was_served: bool
    is_removed: bool


class ClassRow(TypedDict):
    """The metrics of a class. False positives are shares of all pixels, and only of a class that the truth lacks."""

    name: str
    iou: float | None
    champion_iou: float | None
    difference: float | None
    boundary_f1: float | None
    false_positives: float | None
    champion_false_positives: float | None


class Cell(TypedDict):
    """Pixels of one true class that were predicted as one class."""

    pixels: int
    share: float | None
    shade: int


class ConfusionRow(TypedDict):
    """One true class of a confusion matrix, and a cell for each predicted class."""

    name: str
    pixels: int
    cells: list[Cell]


class Confusion(TypedDict):
    """A confusion matrix."""

    labels: list[str]
    rows: list[ConfusionRow]


class LegendEntry(TypedDict):
    """A class of the gallery; `colour` is #rrggbb."""

    name: str
    colour: str


class ShownImage(TypedDict):
    """An image of the gallery, its sides in pixels, with the address of its task in Label Studio."""

    number: int
    task: int
    width: int
    height: int
    miou: float | None
    champion_miou: float | None
    has_champion: bool
    difference: float | None
    link: str


class VersionDetail(VersionRow):
    """A version at length."""

    parent: str | None
    arch: str
    input_size: int
    snapshot: str
    is_rough: bool
    pixel_accuracy: float | None
    boundary_f1: float | None
    absent_false_positives: float | None
    calibration_error: float | None
    classes: list[ClassRow]
    confusion: Confusion | None
    curves: Mapping[str, object]
    legend: list[LegendEntry]
    gallery: list[ShownImage]


class ProjectsPage(TypedDict):
    """The page of all projects."""

    page: Literal["projects"]
    projects: list[ProjectRow]
    errors: list[str]


class ProjectPage(TypedDict):
    """The page of one project."""

    page: Literal["project"]
    project: Project
    job: RetrainView | None
    versions: list[VersionRow]
    generation: int
    rollback_to: str | None
    chosen: VersionDetail | None
    errors: list[str]
    notice: NotRequired[str | None]


class ProjectId(TypedDict):
    """A project by its id alone."""

    id: str


class JobPage(TypedDict):
    """The part of a project's page that shows its retrain."""

    page: Literal["job"]
    project: ProjectId
    job: RetrainView | None
