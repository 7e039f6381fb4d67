"""The job context: the connections and tools that every job is given, and functions that several jobs share."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from segloop.errors import LabelStudioError, LabelStudioUnreachable
from segloop.images import ImageSource
from segloop.labelstudio import Credentials, LabelStudio
from segloop.policy import Compared, Thresholds
from segloop.projects import ProjectNotes, own_settings, read_notes
from segloop.queue import Jobs
from segloop.registry import Registry, open_registry
from segloop.registry.gallery import GALLERY
from segloop.serving.conversion import REPORT, run_export
from segloop.settings import Settings
from segloop.trainers.base import Trainer
from segloop.trainers.local import LocalTrainer
from segloop.versions import EngineReport

if TYPE_CHECKING:
    from segloop.serving import ServedModel

logger = logging.getLogger(__name__)

_TITLED_FILE = "titled.json"
_PREDICTED_FILE = "predicted.json"

Compare = Callable[[Path, Path | None, Path, Settings], Compared]
Export = Callable[[Path, Path | None, Path, Settings], EngineReport]
LoadModel = Callable[[Registry, str, str, Settings], "ServedModel"]
FindSuspects = Callable[[Path, Path, Settings], None]


@dataclass(frozen=True)
class JobContext:
    """The connections and tools that every job is given: queue, store, Label Studio, images, the trainer and torch's part.

    `settings` are the process's own; those of a project are `settings_of(project)`. What needs torch (`compare`, `export`,
    `load_model`, `has_weights`, `find_suspects`) is a function, so that a job imports torch when it first calls it; without
    `find_suspects` no suspected labels are looked for. `poll_s` is the pause between two looks at a training on this machine.
    """

    settings: Settings
    registry: Registry
    label_studio: LabelStudio
    images: ImageSource
    jobs: Jobs
    trainer: Trainer
    compare: Compare
    export: Export
    load_model: LoadModel
    has_weights: Callable[[Settings], bool]
    poll_s: float = 1.0
    find_suspects: FindSuspects | None = None

    @classmethod
    @contextmanager
    def open(cls, settings: Settings, trainer: Trainer | None = None) -> Iterator[JobContext]:
        """The real one; it trains on this machine unless a trainer is given."""
        credentials = Credentials(settings.label_studio_url, settings.label_studio_api_key)
        label_studio = LabelStudio(settings.label_studio_url, credentials)
        images = ImageSource(settings, credentials, settings.data_dir.absolute() / "cache" / "images")
        jobs = Jobs.open(settings, timeout_s=None)
        registry = open_registry(settings)
        try:
            yield cls(
                settings,
                registry,
                label_studio,
                images,
                jobs,
                trainer or LocalTrainer(),
                compare_bundles,
                export_models,
                _load_model,
                has_weights,
                find_suspects=find_suspects,
            )
        finally:
            images.close()
            label_studio.close()
            jobs.close()

    def notes(self, project: str) -> ProjectNotes:
        """What the server noted about a project: its label config, extra params, the backend's own address."""
        return read_notes(self.registry, project)

    def settings_of(self, project: str) -> Settings:
        """The settings with the project's own over them; as they are, if its own cannot be used."""
        return own_settings(self.settings, project, self.notes(project))[0]


def make_trainer(settings: Settings) -> Trainer:
    """The place where training runs, by the setting `trainer`."""
    if settings.trainer == "local":
        return LocalTrainer()
    from segloop.aws.training import SageMakerTrainer

    return SageMakerTrainer(settings)


def set_backend_title(context: JobContext, project: str, version: str) -> None:
    """Title the backend's entry in Label Studio with the version it serves, and note that this is done."""
    project_id = project_id_of(project)
    backend = None
    address = context.settings.public_url or context.notes(project).backend_url
    try:
        backend = context.label_studio.backends.find(project_id, address)
    except LabelStudioUnreachable:
        raise
    except LabelStudioError as error:
        logger.warning("project %s: %s", project, error)
        if not context.settings.public_url:
            backend = context.label_studio.backends.find(project_id)
    if backend is None:
        logger.warning("project %s: Label Studio knows no ML backend there, so its title stays", project)
    else:
        context.label_studio.backends.set_title(backend, version)
    context.registry.write_json(project, _TITLED_FILE, {"version": version})


def titled_version(context: JobContext, project: str) -> str | None:
    """The version that `set_backend_title` named last; None before."""
    titled = context.registry.read_json(project, _TITLED_FILE)
    return None if titled is None else str(titled["version"])


def note_predicted(context: JobContext, project: str, version: str) -> None:
    """Note that every task that needs one has a prediction of the version."""
    context.registry.write_json(project, _PREDICTED_FILE, {"version": version})


def predicted_version(context: JobContext, project: str) -> str | None:
    """The version that `note_predicted` named last; None before."""
    predicted = context.registry.read_json(project, _PREDICTED_FILE)
    return None if predicted is None else str(predicted["version"])


def thresholds(settings: Settings) -> Thresholds:
    """The numbers of changed tasks at which policy begins a run."""
    return Thresholds(settings.retrain_threshold, settings.adapt_threshold)


def project_id_of(project: str) -> int:
    """The id that Label Studio knows a project by."""
    return int(project.partition(".")[0])


def compare_bundles(candidate: Path, champion: Path | None, snapshot: Path, settings: Settings) -> Compared:
    """Candidate and champion on a snapshot's held-out tasks; see `segloop.training.compare`.

    Puts the candidate's gallery into its bundle, once: a version's name comes from its files, so that a later comparison
    with another champion must leave them as they are.
    """
    from segloop.network.network import pick_device
    from segloop.training import compare

    gallery = candidate / GALLERY
    return compare(candidate, champion, snapshot, pick_device(settings), None if gallery.exists() else gallery)


def find_suspects(bundle: Path, snapshot: Path, settings: Settings) -> None:
    """Put the suspected labels of a snapshot into a candidate's bundle; see `segloop.training.suspects.find_suspects`."""
    from segloop.network.network import pick_device
    from segloop.training import suspects

    suspects.find_suspects(suspects.SuspectInputs(bundle, snapshot, settings, pick_device(settings)))


def has_weights(settings: Settings) -> bool:
    """Whether the settings' weights can be had, as `segloop.network.checkpoint.initial_weights` finds."""
    from segloop.network.checkpoint import initial_weights

    return initial_weights(settings) is not None


def export_models(bundle: Path, snapshot: Path | None, out: Path, settings: Settings) -> EngineReport:
    """Write a bundle's models for other engines into a folder, in a process of their own; what they are worth.

    Without a snapshot, the exact one alone: an int8 model needs one to be calibrated on and to be judged by.

    Raises:
        EngineError: they cannot be made.
    """
    report = out / REPORT
    source = [] if snapshot is None else ["--snapshot", str(snapshot)]
    run_export(["--bundle", str(bundle), *source, "--out", str(out)], settings)
    if not report.is_file():
        return EngineReport()
    engines = EngineReport.model_validate_json(report.read_bytes())
    report.unlink()
    return engines


def _load_model(registry: Registry, project: str, version: str, settings: Settings) -> ServedModel:
    from segloop.serving import load_served_model

    model = load_served_model(registry, project, version, settings)
    if settings.endpoint:
        # an endpoint that serves another version would refuse every task, one by one
        model.warm_up()
    return model
