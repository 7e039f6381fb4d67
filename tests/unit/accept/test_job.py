"""The job of auto-accept over a store, a mirror and a network's arithmetic; a fake Label Studio."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, fields
from datetime import UTC, datetime
from itertools import count
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from segloop.accept import AcceptState, Audited, Suspension, read_accept, write_accept
from segloop.blind import is_blind
from segloop.dataset import ProjectSplits
from segloop.label_config import parse_label_config
from segloop.labelstudio import Totals
from segloop.registry import open_registry
from segloop.serving.predict import Predictor
from segloop.settings import Settings
from tests.toys import BRUSH, ToyImages, toy_bundle, toy_model
from worker.jobs.accept import resume_accept, run_accept
from worker.jobs.context import JobContext

PROJECT = "29.1795383040"
SHARE = 0.5
LATER = "2099-01-01T00:00:00+00:00"
BLIND = [number for number in range(1, 200) if is_blind(PROJECT, number, SHARE)]
OTHERS = [number for number in range(1, 200) if not is_blind(PROJECT, number, SHARE)]


@dataclass
class Studio:
    """Labelled tasks, and tasks that wait, each with the prediction of a version."""

    right: list[dict[str, Any]]
    version: str
    labelled: list[dict[str, Any]] = field(default_factory=list)
    waiting: dict[int, dict[str, Any]] = field(default_factory=dict)
    accepted: dict[int, dict[str, Any]] = field(default_factory=dict)
    hidden: list[int] = field(default_factory=list)
    ids: Iterator[int] = field(default_factory=lambda: count(1000))

    @property
    def projects(self) -> Any:
        return SimpleNamespace(get=lambda project_id: {"label_config": BRUSH})

    @property
    def tasks(self) -> Any:
        parts = ("totals", "labelled_ids", "annotated_pages", "scored")
        return SimpleNamespace(get=self.waiting.get, **{name: getattr(self, name) for name in parts})

    @property
    def predictions(self) -> Any:
        return SimpleNamespace(hide=lambda one: self.hidden.append(one["task"]))

    @property
    def annotations(self) -> Any:
        return SimpleNamespace(create=lambda task, body: bool(self.accepted.setdefault(task, body)))

    def totals(self, project_id: int, after: int = 0, upto: int | None = None) -> Totals:
        return Totals(len(self.labelled), len(self.labelled), datetime.now(UTC))

    def labelled_ids(self, project_id: int, after: int = 0, upto: int | None = None) -> list[int]:
        return [one["id"] for one in self.labelled]

    def annotated_pages(self, project_id: int, **where: Any) -> Iterator[list[dict[str, Any]]]:
        yield self.labelled

    def scored(self, project_id: int, version: str) -> list[dict[str, Any]]:
        tasks = [task for number, task in self.waiting.items() if number not in self.accepted]
        return [{"id": one["id"], "data": one["data"], "score": one["predictions"][0]["score"]} for one in tasks]

    def label(self, number: int, result: list[dict[str, Any]], **data: str) -> None:
        """Somebody labels a task whose pre-label is hidden."""
        hidden = {"id": next(self.ids), "result": [], "model_version": self.version, "created_at": LATER}
        annotation = {"id": next(self.ids), "updated_at": LATER, "created_at": LATER, "result": result, "lead_time": 9}
        task = {"id": number, "data": {"image": f"{number}.png", **data}, "predictions": [hidden]}
        self.labelled.append({**task, "annotations": [{**annotation, "parent_prediction": hidden["id"]}]})

    def wait(self, number: int, score: float = 0.5, **data: str) -> None:
        """A task comes that nobody labelled."""
        shown = {"id": next(self.ids), "result": self.right, "model_version": self.version, "score": score}
        task = {"id": number, "data": {"image": f"{number}.png", **data}, "annotations": [], "predictions": [shown]}
        self.waiting[number] = task


@dataclass
class World:
    context: JobContext
    studio: Studio
    tmp_path: Path

    def run(self) -> dict[str, Any]:
        return dict(run_accept(self.context, PROJECT, "accept-1"))

    def promote(self, seed: int) -> str:
        bundle = toy_bundle(self.tmp_path / f"bundle{seed}", seed)
        self.studio.version = self.context.registry.add(PROJECT, *bundle)
        self.context.registry.promote(PROJECT, self.studio.version, "it wins")
        for task in self.studio.waiting.values():
            task["predictions"][0]["model_version"] = self.studio.version
        return self.studio.version


def make(tmp_path: Path, **own: Any) -> World:
    rule = {"auto_accept": True, "accept_risk": 0.4, "accept_confidence": 0.9, "blind_share": SHARE}
    settings = Settings(data_dir=tmp_path / "data", acquisition="entropy", **rule, **own)
    registry = open_registry(settings)
    registry.write_json(PROJECT, "project.json", {"project": PROJECT, "label_config": BRUSH})
    predictor = Predictor(parse_label_config(BRUSH), toy_model("v1"), ToyImages(), Settings())  # type: ignore[arg-type]
    (right,) = predictor.predict([{"id": 1, "data": {"image": "a.png"}}])
    studio = Studio(right["result"], "")  # type: ignore[typeddict-item]
    given = {
        "settings": settings,
        "registry": registry,
        "label_studio": studio,
        "images": ToyImages(),
        "jobs": SimpleNamespace(report=lambda *_: None),
        "load_model": lambda registry, project, version, settings: toy_model(version, project),
    }
    context = JobContext(**{one.name: None for one in fields(JobContext) if one.name not in given}, **given)  # type: ignore[arg-type]
    return World(context, studio, tmp_path)


@pytest.fixture
def world(tmp_path: Path) -> World:
    made = make(tmp_path)
    made.promote(0)
    return made


@pytest.mark.slow
def test_each_group_is_tested_by_itself(tmp_path: Path) -> None:
    world = make(tmp_path, split_by="drive")
    world.promote(0)
    for place, number in enumerate(BLIND[:10]):
        wrong = place in (1, 3)
        world.studio.label(number, world.studio.right[:1] if wrong else world.studio.right, drive="ab"[place % 2])
    for place, number in enumerate(OTHERS[:12]):
        world.studio.wait(number, drive="abc"[place % 3])
    world.studio.wait(OTHERS[12])
    found = world.run()
    groups = read_accept(world.context.registry, PROJECT).groups
    assert (groups["a"].threshold, groups["b"].threshold, groups["c"].threshold) == (0.5, None, None)
    assert (groups["b"].wrong, groups["b"].above, groups["c"].needed) == (2, 5, 5)
    assert {world.studio.waiting[number]["data"]["drive"] for number in world.studio.accepted} == {"a"}
    assert found["accepted"] == 4
    assert [sentence.partition(":")[0] for sentence in found["decision"]] == ["a", "b", "c"]


def test_a_version_is_tested_once(world: World) -> None:
    for number in BLIND[:4]:
        world.studio.label(number, world.studio.right)
    world.studio.wait(OTHERS[0])
    assert "1 more blind label is needed" in world.run()["decision"][0]
    world.studio.label(BLIND[4], world.studio.right[:1])
    assert "1 of 5 blind pre-labels were wrong" in world.run()["decision"][0]
    for number in BLIND[5:40]:
        world.studio.label(number, world.studio.right)
    assert world.run()["accepted"] == 0, "more labels do not test it again"
    world.promote(1)
    assert world.run()["accepted"] == 1


def test_what_was_trained_on_proves_nothing(world: World) -> None:
    for number in BLIND[:5]:
        world.studio.label(number, world.studio.right)
    world.studio.wait(OTHERS[0])
    ProjectSplits(world.context.registry, PROJECT).save({BLIND[0]: "train", BLIND[1]: "val"})
    assert "1 more blind label is needed" in world.run()["decision"][0]


def test_pre_labels_below_the_threshold_wait(world: World) -> None:
    for number in BLIND[:5]:
        world.studio.label(number, world.studio.right)
    for number in OTHERS[:3]:
        world.studio.wait(number, score=0.99999)
    world.studio.wait(OTHERS[3], score=0.1)
    world.run()
    threshold = read_accept(world.context.registry, PROJECT).groups[""].threshold
    assert threshold == 0.1, "five labels are as sure as all that wait"
    for number in (OTHERS[4], BLIND[8]):
        world.studio.wait(number, score=0.09)
    assert OTHERS[3] in world.studio.accepted
    found = world.run()
    assert (found["accepted"], found["audited"]) == (0, 0)


def test_blind_tasks_are_the_audit_and_a_pre_label_that_is_seen_is_hidden(world: World) -> None:
    for number in BLIND[:5]:
        world.studio.label(number, world.studio.right)
    world.studio.wait(OTHERS[0])
    world.studio.wait(BLIND[9])
    found = world.run()
    assert (found["accepted"], found["audited"]) == (1, 1)
    assert world.studio.hidden == [BLIND[9]]
    state = read_accept(world.context.registry, PROJECT)
    assert state.waiting() == [BLIND[9]]
    del world.studio.waiting[BLIND[9]]
    world.studio.label(BLIND[9], world.studio.right)
    assert "Audit: 0 of 1 were wrong; 0 are to be labelled." in world.run()["decision"][-1]


def test_the_audit_of_a_version_that_was_removed_is_left_open(world: World) -> None:
    audits = {BLIND[0]: Audited(version="v9-00000000", since=LATER)}
    write_accept(world.context.registry, PROJECT, AcceptState(audits=audits))

    def load(registry: Any, project: str, version: str, settings: Any) -> Any:
        return registry.get(project, version) and toy_model(version, project)

    object.__setattr__(world.context, "load_model", load)
    world.studio.label(BLIND[0], [])
    assert world.run()["accepted"] == 0
    assert read_accept(world.context.registry, PROJECT).judged == []


@pytest.mark.parametrize("is_suspended", [True, False])
def test_who_lifts_a_suspension_or_suspends_meanwhile_is_heard(world: World, is_suspended: bool) -> None:
    """A run that began before may predict for an hour, and the next one would be queued behind it: it joins it instead."""
    registry = world.context.registry
    for number in BLIND[:5]:
        world.studio.label(number, world.studio.right)
    world.studio.wait(OTHERS[0])
    broken = Suspension(reason="the audit found 9 of 9 wrong", since=LATER)
    wrong = {number: Audited(version=world.studio.version, since=LATER, wrong=True) for number in range(901, 910)}
    write_accept(registry, PROJECT, AcceptState(suspended=broken if is_suspended else None, audits=wrong))
    jobs: Any = SimpleNamespace(enqueue_accept=lambda project: SimpleNamespace(job_id="accept-1"))

    def load(found: Any, project: str, version: str, settings: Any) -> Any:
        if is_suspended:
            resume_accept(registry, jobs, PROJECT)
        else:
            write_accept(registry, PROJECT, AcceptState(suspended=broken))
        return toy_model(version, project)

    object.__setattr__(world.context, "load_model", load)
    assert world.run()["accepted"] == is_suspended
    state = read_accept(registry, PROJECT)
    assert (state.suspended is None, state.judged) == (is_suspended, [])


def test_a_broken_state_accepts_nothing(world: World) -> None:
    for number in BLIND[:5]:
        world.studio.label(number, world.studio.right)
    world.studio.wait(OTHERS[0])
    world.context.registry.write_json(PROJECT, "accept.json", {"groups": 7})
    found = world.run()
    assert found["accepted"] == 0
    assert found["decision"][0].startswith("Suspended: the store's accept.json cannot be read")
