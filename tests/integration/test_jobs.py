"""The retrain on a real Valkey, a real registry and real snapshots; fakes for Label Studio, images and the training.

The main test kills a retrain before and after every single thing it does to the world, starts it again, and
expects the same end.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Collection
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rq.serializers import JSONSerializer

from segloop.dataset import load_manifest
from segloop.errors import RegistryError, TrainingError, TrainingStopped
from segloop.images import Blob
from segloop.images import Image as SourceImage
from segloop.policy import Changes, Compared
from segloop.queue import PRELABEL_QUEUE, RETRAIN_QUEUE, Jobs, Parked
from segloop.registry import Registry, open_registry
from segloop.settings import Settings
from segloop.trainers.base import RunStatus
from segloop.versions import PromotionDecision
from tests.job_context import PROJECT, FakeLabelStudio, FakeTrainer, Fuse, Killed, begin, queued, retrain, scores, task
from worker.jobs.context import JobContext
from worker.jobs.retrain import run_retrain


def test_the_first_retrain(context: JobContext) -> None:
    context.jobs.changes.record(PROJECT, [1, 2, 3])
    result = retrain(context)
    champion = context.registry.champion(PROJECT)
    assert champion is not None
    assert champion.version == result["version"]
    assert result["promoted"]
    assert result["tasks"] == 10
    info = context.registry.get(PROJECT, champion.version)
    assert (info.metrics.miou, info.champion_metrics, info.parent) == (0.5, None, None)
    assert info.decision == PromotionDecision(act=True, reason=result["reason"])
    assert context.label_studio.title == champion.version  # type: ignore[attr-defined]
    assert queued(context.jobs, PRELABEL_QUEUE) == [[PROJECT, champion.version]]
    assert context.jobs.changes.count(PROJECT) == Changes(0, 0)
    assert context.jobs.live_retrain(PROJECT) is None


def test_a_worse_candidate_is_kept_but_not_served(context: JobContext) -> None:
    first, second, third = retrain(context), retrain(context), retrain(context)
    counted = context.jobs.counters.tallies([]).retrains
    assert (counted["full", "promoted"], counted["full", "kept"], counted["quick", "promoted"]) == (2, 1, 0)
    assert [first["promoted"], second["promoted"], third["promoted"]] == [True, True, False]
    champion = context.registry.champion(PROJECT)
    assert champion is not None
    assert champion.version == second["version"]
    assert champion.previous == (first["version"],)
    rejected = context.registry.get(PROJECT, third["version"])
    assert rejected.champion_metrics is not None
    assert (rejected.metrics.miou, rejected.champion_metrics.miou) == (0.4, 0.6)
    assert rejected.parent == second["version"]
    # The next starts from the champion, not from the rejected one.
    assert context.trainer.submitted[-1].champion == context.registry.bundle(PROJECT, second["version"])  # type: ignore[attr-defined]


def test_only_the_last_run_stays_on_disk(context: JobContext, settings: Settings) -> None:
    retrain(context)
    job_id = begin(context.jobs)
    run_retrain(context, PROJECT, job_id)
    assert [path.name for path in (settings.data_dir / "runs" / PROJECT).iterdir()] == [job_id]


@pytest.mark.slow
@pytest.mark.parametrize("after", [False, True])
def test_a_retrain_killed_anywhere_ends_the_same(
    settings: Settings, jobs: Jobs, context: JobContext, after: bool
) -> None:
    for burns_at in range(1, 200):
        jobs.connection.flushall()
        own = settings.model_copy(update={"data_dir": settings.data_dir / f"{after}-{burns_at}"})
        registry = open_registry(own)
        label_studio = FakeLabelStudio()
        world = replace(
            context,
            settings=own,
            registry=registry,
            label_studio=label_studio,  # type: ignore[arg-type]
            trainer=FakeTrainer(),
            compare=scores(0.5, 0.6),
        )
        first = retrain(world)["version"]
        jobs.connection.delete(jobs.queue(PRELABEL_QUEUE).key)
        jobs.changes.record(PROJECT, [1, 2, 3])
        job_id = begin(jobs)
        fuse = Fuse(burns_at, after)
        killed = False
        try:
            run_retrain(fuse.fit(world), PROJECT, job_id)
        except Killed:
            killed = True
            result = run_retrain(world, PROJECT, job_id)
            assert result["promoted"], burns_at
        champion = registry.champion(PROJECT)
        assert champion is not None
        assert champion.version != first, burns_at
        assert champion.generation == 2, burns_at
        assert [info.version for info in registry.versions(PROJECT)] == [first, champion.version], burns_at
        info = registry.get(PROJECT, champion.version)
        assert info.champion_metrics is not None
        assert (info.metrics.miou, info.champion_metrics.miou, info.parent) == (0.6, 0.5, first)
        assert label_studio.title == champion.version
        assert queued(jobs, PRELABEL_QUEUE) == [[PROJECT, champion.version]], burns_at
        assert (jobs.changes.count(PROJECT), jobs.live_retrain(PROJECT)) == (Changes(0, 0), None), burns_at
        assert queued(jobs, RETRAIN_QUEUE) == []
        assert jobs.counters.tallies([]).retrains["full", "promoted"] == 2, burns_at
        if not killed:
            break
    assert burns_at > 20, "the fuse should have burned in many places"


@pytest.mark.parametrize("fails", [False, True])
def test_a_retrain_that_has_ended_is_not_run_again(context: JobContext, settings: Settings, fails: bool) -> None:
    """Its worker died, or was stopped, after it had queued the next one and before it had said that it is done."""
    retrain(context)
    context.trainer.states += [RunStatus("failed", reason="The loss is NaN.")] * fails  # type: ignore[attr-defined]
    job_id = begin(context.jobs)
    fuse = Fuse(1, after=True)
    with pytest.raises(Killed):
        run_retrain(replace(context, jobs=fuse.wrap(context.jobs, ("finish_retrain",))), PROJECT, job_id)
    # another worker runs the next one
    context.jobs.changes.record(PROJECT, [1, 2, 3])
    after = begin(context.jobs)
    trainer = FakeTrainer([RunStatus("running")], poll_later_s=1)
    with pytest.raises(Parked):
        run_retrain(replace(context, trainer=trainer), PROJECT, after)
    submitted = len(context.trainer.submitted)  # type: ignore[attr-defined]
    if fails:
        with pytest.raises(TrainingError, match="NaN"):
            run_retrain(context, PROJECT, job_id)
    else:
        result = run_retrain(context, PROJECT, job_id)
        champion = context.registry.champion(PROJECT)
        assert champion is not None
        assert (result["version"], result["promoted"]) == (champion.version, True)
    assert len(context.trainer.submitted) == submitted  # type: ignore[attr-defined]
    assert [path.name for path in (settings.data_dir / "runs" / PROJECT).iterdir()] == [after]
    assert context.jobs.live_retrain(PROJECT) is not None
    assert run_retrain(replace(context, trainer=trainer), PROJECT, after)["version"]


def test_second_snapshot_loads_no_image_and_says_what_it_does(context: JobContext) -> None:
    shown: list[str] = []
    honest = context.jobs.report

    class Watched:
        def __getattr__(self, name: str) -> Any:
            return self.report if name == "report" else getattr(context.jobs, name)

        def report(self, job_id: str, progress: dict[str, Any], curves: Any = None) -> None:
            shown.append(progress["message"])
            honest(job_id, progress, curves)

    class NoImages:
        def load(self, uri: str, task_id: int | None) -> SourceImage:
            raise AssertionError(uri)

    run_retrain(replace(context, jobs=Watched()), PROJECT, begin(context.jobs))  # type: ignore[arg-type]
    assert "Syncing: 10 of 10 tasks" in shown
    assert shown.index("Syncing: 10 of 10 tasks") < shown.index("Drawing: 10 of 10 tasks")
    assert any("fewer than min_val_tasks=10" in message for message in shown)
    assert run_retrain(replace(context, images=NoImages()), PROJECT, begin(context.jobs))["tasks"] == 10  # type: ignore[arg-type]


def test_changes_during_a_run_bring_one_more(context: JobContext) -> None:
    job_id = begin(context.jobs)
    honest = context.compare

    def busy(*args: Any) -> dict[str, Any]:
        context.jobs.changes.record(PROJECT, [7])
        context.jobs.enqueue_retrain(PROJECT, "pressed again")
        return honest(*args)

    run_retrain(replace(context, compare=busy), PROJECT, job_id)
    assert queued(context.jobs, RETRAIN_QUEUE) == [[PROJECT]]
    assert context.jobs.changes.count(PROJECT) == Changes(1, 1)


def test_a_rollback_during_the_comparison_is_compared_with(context: JobContext) -> None:
    first, second = retrain(context), retrain(context)
    honest = scores(0.55, 0.6, 0.5)
    seen: list[Path] = []

    def compare(bundle: Path, *args: Any) -> Compared:
        seen.append(bundle)
        compared = honest(bundle, *args)
        if len(seen) == 1:
            context.registry.rollback(PROJECT, "somebody")
        return compared

    result = run_retrain(replace(context, compare=compare), PROJECT, begin(context.jobs))
    # 0.55 loses against the second's 0.6, but wins against the first's 0.5, which is served by then.
    assert result["promoted"]
    champion = context.registry.champion(PROJECT)
    assert champion is not None
    assert champion.version == result["version"] not in (first["version"], second["version"])


def test_a_rollback_while_the_candidates_files_are_verified_is_compared_with(
    context: JobContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    retrain(context), retrain(context)
    compared = scores(0.7, 0.6, 0.8)
    honest = Registry.bundle
    verified: list[str] = []

    def bundle(registry: Registry, project: str, version: str, files: Collection[str] | None = None) -> Path:
        if files is None and not verified:
            verified.append(version)
            registry.rollback(PROJECT, "somebody")
        return honest(registry, project, version, files)

    monkeypatch.setattr(Registry, "bundle", bundle)
    result = run_retrain(replace(context, compare=compared), PROJECT, begin(context.jobs))
    # 0.7 wins against the second's 0.6, but loses against the 0.8 of the first, which is served by then
    assert not result["promoted"]
    assert "0.8000" in result["reason"]
    champion = context.registry.champion(PROJECT)
    assert champion is not None
    assert champion.version != result["version"]


def test_a_second_comparison_outlives_a_kill_after_its_promotion(context: JobContext) -> None:
    retrain(context), retrain(context)
    honest = scores(0.55, 0.6, 0.5)
    seen: list[Path] = []

    def compare(bundle: Path, *args: Any) -> Compared:
        seen.append(bundle)
        compared = honest(bundle, *args)
        if len(seen) == 1:
            context.registry.rollback(PROJECT, "somebody")
        return compared

    job_id = begin(context.jobs)
    world = replace(context, compare=compare)
    fuse = Fuse(1, after=True)
    with pytest.raises(Killed):
        run_retrain(replace(world, registry=fuse.wrap(context.registry, ("promote",))), PROJECT, job_id)
    result = run_retrain(world, PROJECT, job_id)
    assert (result["promoted"], len(seen)) == (True, 2)
    assert result["reason"].startswith("The candidate wins: mIoU 0.5500 against the champion's 0.5000")


def test_progress_of_the_training_is_published(context: JobContext) -> None:
    job_id = begin(context.jobs)
    context.trainer.states += [RunStatus("running", {"epoch": 2, "loss": 0.25})]  # type: ignore[attr-defined]
    shown: list[dict[str, Any]] = []
    honest = context.jobs.report

    class Watched:
        def __getattr__(self, name: str) -> Any:
            return self.report if name == "report" else getattr(context.jobs, name)

        def report(self, job_id: str, progress: dict[str, Any], curves: Any = None) -> None:
            shown.append(progress)
            honest(job_id, progress, curves)

    watched = Watched()
    run_retrain(replace(context, jobs=watched), PROJECT, job_id)  # type: ignore[arg-type]
    assert {"phase": "training", "message": "Training.", "epoch": 2, "loss": 0.25} in shown
    phases = [progress["phase"] for progress in shown]
    assert list(dict.fromkeys(phases)) == ["snapshot", "training", "evaluating", "exporting", "promoting", "done"]


def test_a_retrain_is_stopped_before_it_begins(context: JobContext) -> None:
    job_id = begin(context.jobs)
    context.jobs.changes.record(PROJECT, range(context.settings.retrain_threshold))
    assert context.jobs.ask_stop(PROJECT) == job_id
    with pytest.raises(TrainingStopped):
        run_retrain(context, PROJECT, job_id)
    assert context.jobs.job_status(job_id)["progress"] == {
        "phase": "stopped",
        "message": "Somebody stopped the training.",
    }
    assert (context.jobs.live_retrain(PROJECT), context.registry.versions(PROJECT)) == (None, [])
    last = context.jobs.last_retrain(PROJECT)
    assert last is not None
    assert last["job"] == job_id


@pytest.mark.parametrize("during", ["compare", "export"])
def test_a_retrain_that_is_stopped_after_its_training_is_not_served(context: JobContext, during: str) -> None:
    job_id = begin(context.jobs)
    honest = getattr(context, during)

    def stopped(*args: Any, **options: Any) -> Any:
        context.jobs.ask_stop(PROJECT)
        return honest(*args, **options)

    with pytest.raises(TrainingStopped):
        run_retrain(replace(context, **{during: stopped}), PROJECT, job_id)
    assert context.jobs.job_status(job_id)["progress"]["phase"] == "stopped"
    assert (context.jobs.live_retrain(PROJECT), context.registry.champion(PROJECT)) == (None, None)


def test_a_stop_that_comes_when_the_version_is_registered_leaves_it(context: JobContext) -> None:
    job_id = begin(context.jobs)

    def killed(*_: Any) -> None:
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(context.jobs), "enqueue_prelabel", killed)
        with pytest.raises(KeyboardInterrupt):
            run_retrain(context, PROJECT, job_id)
    context.jobs.ask_stop(PROJECT)
    result = run_retrain(context, PROJECT, job_id)
    assert result["promoted"]
    assert context.jobs.job_status(job_id)["progress"]["phase"] == "done"


def test_a_training_that_0_1_0_parked_goes_on(context: JobContext, settings: Settings) -> None:
    job_id = begin(context.jobs)
    folder = settings.data_dir / "runs" / PROJECT / job_id
    folder.mkdir(parents=True)
    seen = [{"step": 1, "loss": 0.75, "evaluated": None}]
    (folder / "training.json").write_text(json.dumps({"submitted_at": time.time(), "lost": 0, "seen": seen}))
    trainer = FakeTrainer([RunStatus("running", {"step": 2, "loss": 0.5})], poll_later_s=1)
    with pytest.raises(Parked):
        run_retrain(replace(context, trainer=trainer), PROJECT, job_id)
    assert trainer.submitted == []
    assert context.jobs.job_status(job_id)["curves"]["loss"] == [[1, 0.75], [2, 0.5]]


@pytest.mark.parametrize("extra", [b"", b"x"])
def test_tasks_that_are_deleted_and_imported_again_keep_their_sides(context: JobContext, extra: bytes) -> None:
    def numbered(number: int) -> int:
        return (number - 1) % 10 + 1

    class ByAddress:
        def load(self, uri: str, task_id: int | None) -> SourceImage:
            source = context.images.load(uri, numbered(task_id or 0))
            data = source.blob.bytes + (extra if (task_id or 0) > 10 else b"")
            return SourceImage(Blob(data, hashlib.sha256(data).hexdigest()), max_pixels=96, name=uri)

    world = replace(context, images=ByAddress())  # type: ignore[arg-type]

    def split() -> dict[int, str]:
        run = context.trainer.submitted[-1]  # type: ignore[attr-defined]
        return {numbered(item.task): item.split for item in load_manifest(run.snapshot).items}

    retrain(world)
    first = split()
    context.label_studio.labelled[:] = [task(number) for number in range(51, 61)]  # type: ignore[attr-defined]
    retrain(world)
    assert split() == first


# -- the real context


def test_the_real_context_opens_without_torch(settings: Settings) -> None:
    with JobContext.open(settings) as context:
        assert context.registry.projects() == []
        with pytest.raises(RegistryError):
            context.registry.bundle("29", "v1-aaaaaaaa")


def test_results_can_be_stored(context: JobContext) -> None:
    assert JSONSerializer.loads(JSONSerializer.dumps(retrain(context)))["promoted"] is True
