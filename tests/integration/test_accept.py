"""Auto-accept on a real Label Studio: what is accepted, marked, audited, suspended and undone."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import httpx
import pytest
from PIL import Image

from demo.label_studio import RunningLabelStudio
from segloop.accept import read_accept
from segloop.accepted import is_accepted
from segloop.blind import is_blind
from segloop.labelstudio import LabelStudio
from segloop.payloads import parse_event, project_key
from segloop.policy import RetrainDecision
from segloop.queue import Jobs
from segloop.registry import open_registry
from segloop.settings import Settings
from tests.job_context import begin
from tests.toys import BRUSH, ToyImages, half_red_half_blue, toy_bundle, toy_model
from worker.jobs.accept import resume_accept, run_accept, undo_accept
from worker.jobs.context import JobContext
from worker.jobs.feedback import Feedback, tell_outcome
from worker.jobs.ledger import make_ledger
from worker.jobs.mirrors import open_mirror
from worker.jobs.prelabel import run_prelabel

pytestmark = [pytest.mark.label_studio, pytest.mark.slow]

SHARE = 0.5
#: Tasks that are uploaded, so that chance makes enough of them blind; and of these, how many blind ones and others stay.
UPLOADED = 48
BLIND, SHOWN = 8, 7
#: Blind labels without an error that prove 40 % at 90 %.
NEEDED = 5


class Killed(BaseException):
    """Stands for kill -9."""


@dataclass
class World:
    """A project whose tasks a version has predicted: Road above, Sky below, of the same score."""

    context: JobContext
    http: httpx.Client
    project: int
    key: str
    version: str
    tasks: list[int]

    @property
    def blind(self) -> list[int]:
        return [task for task in self.tasks if is_blind(self.key, task, SHARE)]

    @property
    def shown(self) -> list[int]:
        return [task for task in self.tasks if not is_blind(self.key, task, SHARE)]

    def post(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        answer = self.http.post(path, json=body)
        assert answer.is_success, answer.text[:500]
        return dict(answer.json())

    def predictions(self, task: int) -> list[dict[str, Any]]:
        return list(self.http.get("/api/predictions/", params={"task": task}).json())

    def label(self, task: int, result: list[dict[str, Any]], **fields: Any) -> None:
        """As the editor does: a copy of the prediction, submitted."""
        (prediction,) = self.predictions(task)
        body = {"result": result, "parent_prediction": prediction["id"], "lead_time": 9.0, **fields}
        self.post(f"/api/tasks/{task}/annotations/", body)

    def annotations(self) -> dict[int, list[dict[str, Any]]]:
        fields = {"project": self.project, "fields": "all", "page_size": 200}
        return {one["id"]: one["annotations"] for one in self.http.get("/api/tasks/", params=fields).json()["tasks"]}

    def accept(self) -> dict[str, Any]:
        return dict(run_accept(self.context, self.key, "accept-1"))


def made_context(**given: Any) -> JobContext:
    return JobContext(**{one.name: None for one in fields(JobContext) if one.name not in given}, **given)


@pytest.fixture
def world(running: RunningLabelStudio, studio: LabelStudio, redis_url: str, tmp_path: Path) -> Iterator[World]:
    created = running.create_project("accept", BRUSH)
    project, key = int(created["id"]), project_key(created)
    picture = tmp_path / "picture.png"
    Image.fromarray(half_red_half_blue()).save(picture)
    uploaded = running.upload_images(project, [picture] * UPLOADED)
    blind = [task for task in uploaded if is_blind(key, task, SHARE)][:BLIND]
    tasks = sorted(blind + [task for task in uploaded if not is_blind(key, task, SHARE)][:SHOWN])
    settings = Settings(
        data_dir=tmp_path / "data",
        label_studio_url=running.url,
        redis_url=redis_url,
        blind_share=SHARE,
        auto_accept=True,
        accept_risk=0.4,
        accept_confidence=0.9,
        acquisition="entropy",
    )
    registry = open_registry(settings)
    registry.write_json(key, "project.json", {"project": key, "label_config": BRUSH})
    version = registry.add(key, *toy_bundle(tmp_path / "bundle"))
    registry.promote(key, version, "the first")
    jobs = Jobs.open(settings, timeout_s=5)
    given: dict[str, Any] = {
        "settings": settings,
        "registry": registry,
        "label_studio": studio,
        "jobs": jobs,
        "images": ToyImages(),
        "load_model": lambda registry, project, version, settings: toy_model(version, project),
    }
    context = made_context(**given)
    assert make_ledger(context, key, 60) is not None, "a worker notes the share as it sees it first"
    with running.client() as http:
        made = World(context, http, project, key, version, tasks)
        selected = {"selectedItems": {"all": False, "included": sorted(set(uploaded) - set(tasks))}}
        made.post(f"/api/dm/actions/?id=delete_tasks&project={project}", selected)
        assert run_prelabel(context, key, version, "prelabel-1")["predicted"] == BLIND + SHOWN
        studio.projects.change(project, model_version=version)  # as the title of a connected backend does
        yield made
    jobs.close()


def dying_after(studio: LabelStudio, creations: int) -> Any:
    """The Label Studio, to a job that is killed once it has made so many annotations."""

    class Annotations:
        left = creations

        def create(self, task: int, body: dict[str, Any]) -> bool:
            made = studio.annotations.create(task, body)
            self.left -= 1
            if not self.left:
                raise Killed
            return made

    class Parts:
        annotations = Annotations()

        def __getattr__(self, name: str) -> Any:
            return getattr(studio, name)

    return Parts()


def test_auto_accept(world: World) -> None:
    assert is_queued(world), "the refresh of a new champion asks for it"
    first = world.accept()
    assert (first["accepted"], first["audited"]) == (0, 0)
    assert f"{NEEDED} more blind labels are needed" in first["decision"][0]

    right = next(one for one in world.predictions(world.shown[0]) if one["result"])["result"]
    by_hand, skipped, *accepted = world.shown
    labelled, audited = world.blind[:NEEDED], world.blind[NEEDED:]
    assert (len(audited), len(accepted)) == (3, 5)
    for task in labelled:
        world.label(task, right)
    world.label(by_hand, right)
    world.label(skipped, [], was_cancelled=True)

    killed = replace(world.context, label_studio=dying_after(world.context.label_studio, 3))
    with pytest.raises(Killed):
        run_accept(killed, world.key, "accept-1")
    assert world.accept()["accepted"] == len(accepted) - 3
    check_marks(world, accepted, people={*labelled, by_hand, skipped})
    check_uncounted(world, accepted)

    # who changes an accepted annotation makes it his own
    changed, *rest = accepted
    (theirs,) = world.annotations()[changed]
    answer = world.http.patch(f"/api/annotations/{theirs['id']}/", json={"result": theirs["result"][:1]})
    assert parse_event(event(world, answer.json())).changed == (changed,)
    ledger = make_ledger(world.context, world.key, 60)
    assert ledger is not None
    assert (ledger.accepted, ledger.pre_labelled) == (len(rest), 2)

    # the audit: three people miss a class where the pre-label showed it, in the other direction
    for task in audited[:3]:
        assert all(not one["result"] for one in world.predictions(task)), "nobody sees the pre-label"
        world.label(task, [{**right[0], "value": {**right[0]["value"], "brushlabels": ["Sky"]}}])
    broken = world.accept()
    assert "Suspended: the audit found 3 of 3 pre-labels wrong" in broken["decision"][0]
    check_undo(world, rest, kept={*labelled, by_hand, changed, *audited[:3]})


def test_a_project_says_how_far_its_training_is(
    running: RunningLabelStudio, studio: LabelStudio, redis_url: str, tmp_path: Path
) -> None:
    created = running.create_project("feedback", BRUSH)
    project, key = int(created["id"]), project_key(created)
    studio.projects.change(project, description="Streets of Bonn.", expert_instruction="Label all.")
    settings = Settings(
        data_dir=tmp_path / "data",
        redis_url=redis_url,
        label_studio_api_key=running.api_key,
        page_url="http://segloop.example",
    )
    registry = open_registry(settings)
    jobs = Jobs.open(settings, timeout_s=5)
    context = made_context(settings=settings, registry=registry, label_studio=studio, jobs=jobs)
    before = studio.projects.get(project)

    def said() -> str:
        found = studio.projects.get(project)
        assert {**found, "description": ""} == {**before, "description": ""}, "nothing else of the project changes"
        own, _, line = str(found["description"]).partition("\nsegloop: ")
        assert own == "Streets of Bonn."
        return line

    page = f"http://segloop.example/ui/projects/{project}"
    tell_outcome(context, key)
    assert said() == "", "nobody asked for a training"
    job = begin(jobs, key)
    tell_outcome(context, key)
    assert said() == f"Training is queued. {page}"
    feedback = Feedback(context, key)
    for step in (40, 41):
        feedback.tell({"phase": "training", "step": step, "steps": 100})
        assert said() == f"Training runs (40 %). {page}"
    version = registry.add(key, *toy_bundle(tmp_path / "bundle"))
    registry.promote(key, version, "the first")
    jobs.report(job, {"phase": "done"})
    jobs.finish_retrain(key, job, lambda changes, requested: RetrainDecision(False, ""))
    tell_outcome(context, key)
    assert said().startswith(f"{version} was promoted. {page} Next: A quick adaptation in 10 more changed tasks")
    jobs.close()


def check_marks(world: World, accepted: list[int], people: set[int]) -> None:
    found = world.annotations()
    for task in accepted:
        (annotation,) = found[task]
        assert is_accepted(annotation)
        assert annotation["parent_prediction"] is not None
        texts = [region["meta"]["text"] for region in annotation["result"]]
        assert texts == [[f"Accepted by segloop, unseen: {world.version}"]] * 2
        assert parse_event(event(world, annotation)).changed == (), "segloop's own work is no change"
    assert {task for task, own in found.items() if own} == {*accepted, *people}
    again = {"result": [], "unique_id": "00000000-0000-4000-8000-000000000000"}
    assert world.context.label_studio.annotations.create(accepted[0], again)
    assert not world.context.label_studio.annotations.create(accepted[0], again), "Label Studio takes an id once"
    both = world.http.get(f"/api/tasks/{accepted[0]}/annotations/").json()
    (extra,) = [one for one in both if not one["result"]]
    assert world.context.label_studio.annotations.delete(extra["id"])


def check_uncounted(world: World, accepted: list[int]) -> None:
    ledger = make_ledger(world.context, world.key, 60)
    assert ledger is not None
    assert (ledger.accepted, ledger.blind, ledger.annotations) == (len(accepted), NEEDED, NEEDED + 1)
    with open_mirror(world.context, world.key) as mirror:
        assert mirror.records.accepted() == set(accepted)
        assert not {task["id"] for task in mirror.tasks()} & set(accepted)
        assert {task["id"] for task in mirror.tasks(accepted=True)} >= set(accepted)
        assert not set(mirror.changed_after(0)) & set(accepted)


def check_undo(world: World, accepted: list[int], kept: set[int]) -> None:
    jobs, before = world.context.jobs, world.context.jobs.changes.count(world.key)
    found = world.annotations()
    numbers = [found[task][0]["id"] for task in accepted]
    assert undo_accept(world.context, world.key) == len(accepted)
    left = world.annotations()
    assert {task for task, own in left.items() if [one for one in own if not one["was_cancelled"]]} == kept
    assert undo_accept(world.context, world.key) == 0
    assert jobs.changes.record(world.key, [f"annotation:{number}" for number in numbers]) == before
    assert world.accept()["accepted"] == 0, "nothing comes back by itself"
    suspended = read_accept(world.context.registry, world.key).suspended
    assert suspended is not None
    assert "took back" in suspended.reason
    resume_accept(world.context.registry, jobs, world.key)
    assert read_accept(world.context.registry, world.key).suspended is None


def event(world: World, annotation: dict[str, Any]) -> dict[str, Any]:
    return {"action": "ANNOTATION_CREATED", "project": {"id": world.project}, "annotation": annotation}


def is_queued(world: World) -> bool:
    queue = world.context.jobs.queue("segloop-prelabel")
    return any(job.func_name.endswith(".accept") and list(job.args) == [world.key] for job in queue.get_jobs() if job)
