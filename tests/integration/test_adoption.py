"""A training that the managed route began, taken up: killed anywhere it ends the same, and other retrains are not in its way."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from segloop.dataset import MANIFEST, ProjectSplits
from segloop.errors import LabelStudioUnreachable, TrainerUnavailable, TrainingError
from segloop.policy import Changes, RetrainDecision
from segloop.queue import PRELABEL_QUEUE, RETRAIN_QUEUE, Jobs, Parked, remember, take_up
from segloop.settings import Settings
from segloop.trainers.base import Run, RunStatus
from tests.aws.route_jobs import learnt, take
from tests.job_context import PROJECT, FakeTrainer, Fuse, Killed, begin, queued, reconcile_all, retrain, scores
from worker.jobs.adopt import run_adopt
from worker.jobs.context import JobContext

JOB = "pipelines-0a1b2c3d4e5f-Train-6a7b8c9d0e"


@dataclass
class FakeFollower(FakeTrainer):
    """Stands for `AdoptedTraining`: what it learnt from was not taken here."""

    folder: Path = Path()
    job: str = JOB
    parent: str | None = None
    held_out: tuple[int, ...] = (3, 7)

    def collect(self, run: Run) -> Path:
        run.snapshot.mkdir(parents=True, exist_ok=True)
        manifest = learnt(self.folder, held_out=self.held_out)
        (run.snapshot / MANIFEST).write_text(manifest.text(), "utf-8")
        for item in manifest.items:
            for name in (item.image, item.mask):
                (run.snapshot / name).parent.mkdir(exist_ok=True)
                (run.snapshot / name).touch()
        bundle = super().collect(run)
        (run.snapshot / MANIFEST).rename(bundle / MANIFEST)
        for path in sorted(run.snapshot.rglob("*"), reverse=True):
            path.unlink() if path.is_file() else path.rmdir()
        run.snapshot.rmdir()
        info = json.loads((bundle / "version.json").read_bytes())
        (bundle / "version.json").write_text(json.dumps({**info, "parent": self.parent}), "utf-8")
        return bundle

    def hyperparameters(self) -> dict[str, str]:
        return {"train_epochs": "20"}


def taken_up(context: JobContext, training: str = JOB) -> str:
    """Take a training up, and its job off the queue; the job's id."""
    enqueued = take_up(context.jobs, context.registry, 29, training, "The managed route trained.")
    assert enqueued is not None
    take(context.jobs, enqueued.job_id)
    return enqueued.job_id


@pytest.mark.slow
@pytest.mark.parametrize("after", [False, True])
def test_killed_anywhere_it_ends_the_same(context: JobContext, tmp_path: Path, after: bool) -> None:
    first = retrain(context)["version"]
    registry, jobs = context.registry, context.jobs
    held_out = tuple(task for task, side in ProjectSplits(registry, PROJECT).load().items() if side == "val")
    # each takes every second place, so that together they take them all, half of them before and half after
    for burns_at in range(1 + after, 80, 2):
        registry._store.write(f"{PROJECT}/champion.json", json.dumps(champion_of(first)).encode())
        jobs.connection.delete(jobs.queue(PRELABEL_QUEUE).key)
        jobs.changes.record(PROJECT, [1, 2, 3])
        world = replace(context, compare=scores(0.6, 0.5))
        training = f"{JOB}{burns_at}{after}"
        job_id = taken_up(context, training)
        made = partial(follower, tmp_path, training, first, held_out=held_out)
        fuse = Fuse(burns_at, after)
        killed = False
        try:
            run_adopt(fuse.fit(world), PROJECT, made(), job_id)  # type: ignore[arg-type]
        except Killed:
            killed = True
            assert run_adopt(world, PROJECT, made(), job_id)["promoted"], burns_at  # type: ignore[arg-type]
        champion = registry.champion(PROJECT)
        assert champion is not None
        assert champion.version != first, burns_at
        assert champion.generation == 2, burns_at
        assert registry.get(PROJECT, champion.version).parent == first
        kept = registry.read_json(PROJECT, "adopted.json")["trainings"][training]
        assert (kept["job"], kept["version"], kept["promoted"]) == (job_id, champion.version, True)
        assert queued(jobs, PRELABEL_QUEUE) == [[PROJECT, champion.version]], burns_at
        assert (jobs.changes.count(PROJECT), jobs.live_retrain(PROJECT)) == (Changes(0, 0), None), burns_at
        assert queued(jobs, RETRAIN_QUEUE) == []
        assert take_up(jobs, registry, 29, training, "again") is None
        if not killed:
            break
    assert burns_at > 15, "the fuse should have burned in many places"


def test_an_adoption_that_has_ended_is_not_run_again(context: JobContext, tmp_path: Path, settings: Settings) -> None:
    job_id = taken_up(context)
    fuse = Fuse(1, after=True)
    with pytest.raises(Killed):
        adopt(replace(context, jobs=fuse.wrap(context.jobs, ("finish_retrain",))), tmp_path, job_id)
    shutil.rmtree(settings.data_dir / "runs")  # another host runs it
    after = begin(context.jobs)
    assert adopt(context, tmp_path, job_id)["promoted"]
    live = context.jobs.live_retrain(PROJECT)
    assert live is not None
    assert live["job"] == after
    assert not (settings.data_dir / "runs").exists()


def follower(tmp_path: Path, training: str = JOB, parent: str | None = None, **own: Any) -> FakeFollower:
    return FakeFollower(folder=tmp_path, job=training, parent=parent, **own)


def champion_of(version: str) -> dict[str, Any]:
    return {"version": version, "generation": 1, "promoted_at": "2026-11-22", "reason": "first", "previous": []}


def adopt(context: JobContext, tmp_path: Path, job_id: str, **own: Any) -> dict[str, Any]:
    return run_adopt(context, PROJECT, follower(tmp_path, **own), job_id)  # type: ignore[arg-type]


def test_what_changed_since_its_snapshot_still_counts(context: JobContext, tmp_path: Path) -> None:
    """The candidate's training set was taken at midnight; the tasks were annotated at noon."""
    context.jobs.changes.record(PROJECT, [1, 2, 3])
    adopt(context, tmp_path, taken_up(context))
    assert context.registry.read_json(PROJECT, "snapshot.json")["since"] == "2026-11-22T00:00:00+00:00"
    assert context.jobs.changes.count(PROJECT) == Changes(0, 0)
    assert reconcile_all(replace(context, settings=context.settings.model_copy(update={"retrain_threshold": 11})))
    assert context.jobs.changes.count(PROJECT).full == 10


def test_a_press_meanwhile_joins_it_and_one_more_follows(context: JobContext, tmp_path: Path) -> None:
    job_id = taken_up(context)
    with pytest.raises(Parked):
        adopt(context, tmp_path, job_id, states=[RunStatus("running")], poll_later_s=1)
    pressed = context.jobs.enqueue_retrain(PROJECT, "pressed")
    assert (pressed.job_id, pressed.joined) == (job_id, True)
    context.jobs.changes.record(PROJECT, [4])
    adopt(context, tmp_path, job_id)
    assert queued(context.jobs, RETRAIN_QUEUE) == []  # what changed, its comparison has seen
    job_id = taken_up(context, "another")
    with pytest.raises(Parked):
        adopt(context, tmp_path, job_id, training="another", states=[RunStatus("running")], poll_later_s=1)
    other = context.jobs.claim_retrain(PROJECT, "a third")
    assert other == job_id


def test_an_outage_is_no_end(context: JobContext, tmp_path: Path) -> None:
    job_id = taken_up(context)
    context.label_studio.error = LabelStudioUnreachable("away")  # type: ignore[attr-defined]
    with pytest.raises(LabelStudioUnreachable):
        adopt(context, tmp_path, job_id)
    assert context.registry.read_json(PROJECT, "adopted.json") is None
    context.label_studio.error = None  # type: ignore[attr-defined]
    assert adopt(context, tmp_path, job_id)["promoted"]


def test_a_training_of_a_forgotten_parent_has_none(context: JobContext, tmp_path: Path) -> None:
    result = adopt(context, tmp_path, taken_up(context), parent="v7-0a1b2c3d")
    assert context.registry.get(PROJECT, result["version"]).parent is None


def test_jobs_are_claimed_one_at_a_time(jobs: Jobs) -> None:
    live = begin(jobs)
    assert jobs.claim_retrain(PROJECT, "adopt-1") == live
    assert jobs.claim_retrain(PROJECT, live) is None
    jobs.finish_retrain(PROJECT, live, lambda *_: RetrainDecision(False, "nothing changed"))
    first, second = (jobs.enqueue_adoption(PROJECT, name, "trained").job_id for name in ("a", "b"))
    assert first != second
    assert jobs.enqueue_adoption(PROJECT, "a", "trained").joined
    assert jobs.claim_retrain(PROJECT, first) is None
    assert jobs.claim_retrain(PROJECT, second) == first
    assert queued(jobs, RETRAIN_QUEUE) == [[PROJECT, "a"], [PROJECT, "b"]]


def test_the_store_remembers_the_latest(context: JobContext) -> None:
    earlier = {f"job-{number}": {"job": "x"} for number in range(200)}
    context.registry.write_json(PROJECT, "adopted.json", {"format": 1, "trainings": earlier})
    remember(context.registry, PROJECT, "job-204", {"job": "x"})
    kept = context.registry.read_json(PROJECT, "adopted.json")["trainings"]
    assert list(kept) == [*(f"job-{number}" for number in range(1, 200)), "job-204"]
    assert take_up(context.jobs, context.registry, 29, "job-204", "again") is None
    assert take_up(context.jobs, context.registry, 31, "job-205", "of another project") is None


def test_a_split_that_leaves_nothing_to_compare_on_is_told(context: JobContext, tmp_path: Path) -> None:
    retrain(context)
    splits = ProjectSplits(context.registry, PROJECT)
    before = splits.load()
    trained = tuple(task for task, side in before.items() if side == "train")
    with pytest.raises(TrainingError, match="Set SEGLOOP_STORE to the store that the trainings read"):
        adopt(context, tmp_path, taken_up(context), held_out=trained[:2])
    assert splits.load() == before


def test_a_failure_is_remembered(context: JobContext, tmp_path: Path) -> None:
    job_id = taken_up(context)
    failed = RunStatus("failed", reason="AlgorithmError: no luck")
    with pytest.raises(TrainingError, match="no luck"):
        adopt(context, tmp_path, job_id, states=[failed], poll_later_s=1)
    assert context.registry.read_json(PROJECT, "adopted.json")["trainings"][JOB]["error"] == "AlgorithmError: no luck"
    assert context.jobs.live_retrain(PROJECT) is None


def test_an_unreachable_trainer_is_waited_for(context: JobContext, tmp_path: Path) -> None:
    class Away(FakeFollower):
        def submit(self, run: Run) -> None:
            raise TrainerUnavailable("SageMaker is away")

    job_id = taken_up(context)
    with pytest.raises(TrainerUnavailable):
        run_adopt(context, PROJECT, Away(folder=tmp_path, poll_later_s=1), job_id)  # type: ignore[arg-type]
    assert context.jobs.live_retrain(PROJECT) is not None
    assert adopt(context, tmp_path, job_id)["promoted"]
