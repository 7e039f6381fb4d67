"""A first project for a new Label Studio: drawn scenes, most of them labelled, connected to segloop, and a training begun.

`docker compose up` runs `python -m demo.first_project`. It may be repeated: what is there is not made again, and where there are other
projects nothing is made.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from demo.data import DemoData, generated
from segloop.errors import DatasetError, LabelStudioError
from segloop.exchange.datasets import read_masks
from segloop.exchange.importing import SOURCE, import_dataset, target_of, uploads
from segloop.labelstudio import UNCERTAINTY_SAMPLING, BackendSpec, LabelStudio
from segloop.settings import Settings, load_settings

TITLE = "Street scenes (segloop's first project)"
#: Longest time in which Label Studio and segloop begin to answer, in seconds: a new database takes a minute.
START_S = 600.0
_POLL_S = 1.0


@dataclass(frozen=True)
class Plan:
    """How many scenes are labelled, how many are left for people, and how long the first training may take, in minutes."""

    labelled: int = 40
    unlabelled: int = 12
    train_minutes: float = 3.0


class FirstProject:
    """The first project of a Label Studio, and its connection to the segloop that `settings` name.

    Raises (every method):
        LabelStudioError: Label Studio refuses something, or cannot be reached.
        DatasetError: a scene could not be imported.
    """

    def __init__(self, studio: LabelStudio, settings: Settings, plan: Plan) -> None:
        self._studio, self._settings, self._plan = studio, settings, plan

    def make(self) -> int | None:
        """Make it, or what is missing of it; its id, or None where there are other projects alone."""
        listed = self._studio.api.request("GET", "/api/projects/", params={"page_size": 1000})["results"]
        ours = next((int(project["id"]) for project in listed if project["title"] == TITLE), None)
        if ours is None and listed:
            return None
        with tempfile.TemporaryDirectory(prefix="segloop-scenes-") as folder:
            data = generated(Path(folder), self._plan.labelled, self._plan.unlabelled)
            project = self._created(data.label_config) if ours is None else ours
            self._import_unlabelled(project, data)
            backend = self._connected(project, data)
            self._import_labelled(project, Path(folder), data)
        if not self._versions(project):
            self._train(backend)
        return project

    def _created(self, label_config: str) -> int:
        body = {"title": TITLE, "label_config": label_config, "sampling": UNCERTAINTY_SAMPLING}
        return int(self._studio.api.request("POST", "/api/projects/", json=body)["id"])

    def _import_unlabelled(self, project: int, data: DemoData) -> None:
        known = {task.get(SOURCE) for task in self._studio.tasks.data(project)}
        # the labelled ones have the same names
        files = {f"open_{example.image.name}": example.image for example in data.val}
        new = {name: image.read_bytes() for name, image in files.items() if name not in known}
        addresses = self._studio.imports.upload(project, list(new.items())) if new else []
        tasks = [{"data": {"image": address, SOURCE: name}} for name, address in zip(new, addresses, strict=True)]
        if tasks:
            self._studio.imports.tasks(project, tasks)

    def _import_labelled(self, project: int, folder: Path, data: DemoData) -> None:
        names = folder / "names.txt"
        names.write_text("".join(f"{number} {name}\n" for number, name in enumerate(data.classes)), "utf-8")
        dataset = read_masks(folder / "train/masks", folder / "train/images", names)
        target = target_of(project, data.label_config, dataset.classes)
        done = import_dataset(dataset, target, self._studio, uploads(self._studio, project), lambda done, of: None)
        if done.problems:
            raise DatasetError(f"{len(done.problems)} scenes were not imported: {done.problems[0]}")

    def _connected(self, project: int, data: DemoData) -> int:
        settings = self._settings
        spec = BackendSpec(
            settings.public_url,
            "segloop",
            basic_auth=(settings.basic_auth_user, settings.basic_auth_pass),
            webhook_secret=settings.webhook_secret,
            extra_params={"unlabelled": data.unlabelled, "train_minutes": self._plan.train_minutes},
        )
        return int(self._studio.backends.connect(project, spec).backend["id"])

    def _train(self, backend: int) -> None:
        answer = self._studio.api.send("POST", f"/api/ml/{backend}/train", json={})
        if not answer.is_success:
            raise LabelStudioError(f"Label Studio answered {answer.status_code} to Start Training: {answer.text[:300]}")

    def _versions(self, project: int) -> list[Any]:
        auth = (self._settings.basic_auth_user, self._settings.basic_auth_pass.get_secret_value())
        address = f"{self._settings.public_url}/versions"
        answer = httpx.get(address, params={"project": project}, auth=auth, timeout=60).raise_for_status()
        return list(answer.json()["versions"])


def wait_for(url: str, patience_s: float = START_S) -> None:
    """Wait until an address answers.

    Raises:
        SystemExit: it does not in time.
    """
    deadline = time.monotonic() + patience_s
    while True:
        try:
            httpx.get(url, timeout=5).raise_for_status()
            return
        except httpx.HTTPError as error:
            if time.monotonic() > deadline:
                raise SystemExit(f"{url} does not answer within {patience_s:.0f} s: {error}") from error
            time.sleep(_POLL_S)


def main(arguments: Sequence[str] | None = None) -> None:
    """Make the first project of a new Label Studio, and connect it to segloop."""
    parser = argparse.ArgumentParser(prog="python -m demo.first_project", description=main.__doc__)
    parser.add_argument("--labelled", type=int, default=Plan.labelled, help="scenes with an annotation")
    parser.add_argument("--unlabelled", type=int, default=Plan.unlabelled, help="scenes without one")
    parser.add_argument("--minutes", type=float, default=Plan.train_minutes, help="longest time of a training")
    given = parser.parse_args(arguments)
    settings = load_settings()
    wait_for(f"{settings.label_studio_url}/health")
    wait_for(f"{settings.public_url}/health")
    with closing(LabelStudio.from_settings(settings)) as studio:
        try:
            project = FirstProject(studio, settings, Plan(given.labelled, given.unlabelled, given.minutes)).make()
        except LabelStudioError as error:
            raise SystemExit(
                f"{error}\nIf this Label Studio is older than the secrets of this installation, set LABEL_STUDIO_API_KEY in .env to a "
                "token of one of its users."
            ) from error
    if project is None:
        print(
            "Label Studio has projects already: none is made. This connects one of them: docker compose run --rm backend segloop connect "
            "--project ID"
        )
        return
    print(
        f"Project {project} is connected, and its first training has begun or is done: in some minutes the {given.unlabelled} scenes "
        "that nobody labelled have pre-labels. Who logs in: docker compose exec backend cat /secrets/logins.txt"
    )


if __name__ == "__main__":
    main()
