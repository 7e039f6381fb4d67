"""A training set from S3: what a container of the managed route (aws/sagemaker.yaml) begins with, as it is given none.

`python -m segloop.training.gathering --base BASE --data DATA` reads the hyperparameters `segloop_project`,
`segloop_annotations`, `segloop_artifacts`, `segloop_images` and `segloop_store`, and writes the folders `snapshot` and
`model` in DATA, by the rules of segloop's own snapshots.
"""

from __future__ import annotations

import argparse
import json
import logging
import shutil
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from segloop.dataset import (
    MANIFEST,
    Manifest,
    Memory,
    Mirror,
    ProjectSplits,
    SnapshotInputs,
    Split,
    snapshot,
    sync_target,
)
from segloop.errors import ImageUnavailable, RegistryError, TrainingError
from segloop.formats import WEIGHTS_FILE
from segloop.label_config import parse_label_config
from segloop.labelstudio import TargetStorage
from segloop.payloads import project_key
from segloop.registry import Registry, open_registry
from segloop.registry.s3 import S3Store
from segloop.settings import Settings
from segloop.telemetry.logs import configure_logging
from segloop.training.container import Container
from segloop.training.kept_mirror import KeptMirror
from segloop.training.route_images import RouteImages
from segloop.versions import describe_problem

log = logging.getLogger(__name__)

#: How long images that S3 does not give now are waited for, in seconds, before each further try; then the training fails.
WAITS_S: Final = (10.0, 60.0, 240.0)


@dataclass(frozen=True)
class Route:
    """Where a route has what a training of a project needs.

    Attributes:
        annotations: the target storage, s3://bucket/prefix with {project} in it.
        artifacts: s3://bucket with projects/<id>/project.json and split.json in it.
        images: the buckets that images may come from.
        store: segloop's store; empty if it cannot be read.
    """

    project: int
    annotations: str
    artifacts: str
    images: frozenset[str]
    store: str

    @classmethod
    def of(cls, given: Mapping[str, str]) -> Route:
        """The route that hyperparameters tell of.

        Raises:
            TrainingError: one is missing, or the project is no id.
        """
        try:
            project, images = given["segloop_project"], given["segloop_images"]
            annotations, artifacts = given["segloop_annotations"], given["segloop_artifacts"]
        except KeyError as error:
            raise TrainingError(f"The hyperparameter {error} is missing: aws/sagemaker.yaml gives it.") from error
        if not (project.isascii() and project.isdigit()):
            raise TrainingError(f"The pipeline's parameter ProjectId is {project!r}: give a project's id, such as 29.")
        buckets = frozenset(filter(None, images.replace(" ", "").split(",")))
        return cls(int(project), annotations, artifacts, buckets, given.get("segloop_store", ""))


class RouteProject(BaseModel):
    """A route's project.json: the project's label config and its own settings (extra params), and what names it."""

    model_config = ConfigDict(frozen=True)

    label_config: str = Field(min_length=1)
    settings: Any = None
    key: str = ""
    created_at: str | None = None


def gather(container: Container, scratch: Path) -> Manifest:
    """Write the container's snapshot from the route's buckets and, where a version is served, that version.

    The manifest is also put beside the model to be, so that whoever takes it knows what it learnt from.

    Raises:
        TrainingError: the route or the project's project.json cannot be used, or there is too little to train on.
        LabelStudioError, RegistryError: S3 refuses.
        ImageUnavailable: it does not give images now.
    """
    route = Route.of(container.hyperparameters())
    artifacts = _Artifacts(route)
    project = artifacts.project()
    container.use_settings(project.settings)
    settings = container.settings()
    key = project_key(project.key or {"id": route.project, "created_at": project.created_at})
    label_config = project.label_config
    registry = _registry(settings, route, scratch)
    splits = _Splits(ProjectSplits(artifacts, key), registry, key)
    kept = KeptMirror(artifacts.store, f"projects/{route.project}/mirror")
    kept.restore(scratch / "mirror")
    with Mirror(scratch / "mirror") as mirror, RouteImages(route.images, settings) as images:
        sync_target(mirror, TargetStorage(route.annotations, route.project))
        inputs = SnapshotInputs(key, label_config, images, splits, settings, Memory(mirror))
        try:
            manifest = _snapshot(inputs, mirror, images, container)
        except ImageUnavailable:
            kept.save(mirror)  # so that the next training knows since when images cannot be had
            raise
        kept.save(mirror)
    log.info(
        "project %s: snapshot %s of %d tasks, %d left out",
        key,
        manifest.hash,
        len(manifest.items),
        len(manifest.skipped),
    )
    if registry is not None:
        _take_champion(registry, key, container.champion)
    container.model.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(container.snapshot / MANIFEST, container.model / MANIFEST)
    return manifest


def _snapshot(inputs: SnapshotInputs, mirror: Mirror, images: RouteImages, container: Container) -> Manifest:
    """The container's snapshot; where S3 is overloaded it is tried again, and what is there already is kept."""
    config, memory = parse_label_config(inputs.label_config), Memory(mirror)
    waits = iter(WAITS_S)
    while True:
        tasks = images.ahead(mirror.tasks(), config, memory)
        try:
            return snapshot(inputs, tasks, container.snapshot, progress=container.report, steps=len(mirror))
        except ImageUnavailable as error:
            wait_s = next(waits, None)
            if wait_s is None:
                raise
            log.warning("%s It is tried again in %g s.", error, wait_s)
            time.sleep(wait_s)


def _registry(settings: Settings, route: Route, scratch: Path) -> Registry | None:
    if not route.store:
        return None
    return open_registry(settings.model_copy(update={"store": route.store, "data_dir": scratch}))


def _take_champion(registry: Registry, key: str, folder: Path) -> None:
    """Put the served version where the training looks for it; without one, or without the store, it begins with weights."""
    try:
        champion = registry.champion(key)
        if champion is None:
            log.info("project %s: no version is served: the training begins with weights", key)
            return
        bundle = registry.bundle(key, champion.version, [WEIGHTS_FILE])
    except RegistryError as error:
        log.warning("project %s: the training begins with weights, not with the served version: %s", key, error)
        return
    folder.parent.mkdir(parents=True, exist_ok=True)
    folder.symlink_to(bundle, target_is_directory=True)
    log.info("project %s: the training begins with %s", key, champion.version)


class _Artifacts:
    """A project's JSON files in the artifacts bucket; a `JsonStore`."""

    def __init__(self, route: Route) -> None:
        self.store = S3Store(route.artifacts)
        self._route = route

    def project(self) -> RouteProject:
        """project.json, which `segloop aws connect` writes."""
        value = self.read_json("", "project.json")
        place = f"{self._route.artifacts}/projects/{self._route.project}/project.json"
        if value is None:
            raise TrainingError(
                f"There is no {place}: run `segloop aws connect --project {self._route.project}`, which writes it."
            )
        try:
            return RouteProject.model_validate(value)
        except ValidationError as error:
            raise TrainingError(f"{place}: {describe_problem(error)}: run `segloop aws connect` again.") from error

    def read_json(self, _project: str, name: str) -> Any:
        key = f"projects/{self._route.project}/{name}"
        blob = self.store.read(key)
        try:
            return None if blob is None else json.loads(blob.data)
        except ValueError as error:
            raise TrainingError(f"{self._route.artifacts}/{key} is not JSON: {error}") from error

    def write_json(self, _project: str, name: str, value: Any) -> None:
        self.store.write(f"projects/{self._route.project}/{name}", json.dumps(value, indent=1).encode())


class _Splits:
    """The project's split: what segloop's store tells of tasks, and what earlier trainings of the route do of others."""

    def __init__(self, own: ProjectSplits, registry: Registry | None, key: str) -> None:
        self._own = own
        self._segloops = ProjectSplits(registry, key) if registry is not None else None

    def load(self) -> dict[int, Split]:
        own = self._own.load()
        if self._segloops is None:
            return own
        try:
            return {**own, **self._segloops.load()}
        except RegistryError as error:
            log.warning("segloop's own split cannot be read, so the route's is used: %s", error)
            return own

    def save(self, splits: dict[int, Split]) -> None:
        self._own.save(splits)


def main(arguments: Sequence[str] | None = None) -> int:
    """0 with a snapshot in DATA; 1 with the reason in BASE/output/failure."""
    parser = argparse.ArgumentParser(prog="python -m segloop.training.gathering", description=gather.__doc__)
    parser.add_argument("--base", type=Path, default=Path("/opt/ml"), help="folder of the training contract")
    parser.add_argument("--data", type=Path, required=True, help="folder for what is gathered")
    options = parser.parse_args(arguments)
    container = Container(options.base, options.data)
    configure_logging("INFO")
    container.begin()

    def work() -> int:
        gather(container, options.data / "scratch")
        return 0

    return container.status_of(work, "the training set cannot be gathered")


if __name__ == "__main__":
    sys.exit(main())
