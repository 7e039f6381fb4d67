"""The retrain on a real Valkey, a real registry and real snapshots; fakes for Label Studio, images and the training.

The main test kills a retrain before and after every single thing it does to the world, starts it again, and
expects the same end.
"""

from __future__ import annotations

import errno
import hashlib
import json
import time
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from rq.serializers import JSONSerializer

from segloop.dataset import load_manifest
from segloop.dataset.files import Objects
from segloop.errors import (
    DiskError,
    DiskFull,
    EngineError,
    ImageError,
    ImageUnavailable,
    LabelStudioUnreachable,
    NothingToTrain,
    RegistryError,
    SegloopError,
    TrainerUnavailable,
    TrainingError,
    TrainingStopped,
)
from segloop.images import Blob
from segloop.images import Image as SourceImage
from segloop.policy import Changes, Compared
from segloop.queue import OUTAGES, PRELABEL_QUEUE, RETRAIN_QUEUE, Jobs, JobTimeout, Parked
from segloop.registry import open_registry
from segloop.settings import Settings
from segloop.trainers.base import Run, RunStatus
from segloop.versions import EngineReport, PromotionDecision
from tests.job_context import (
    PROJECT,
    FakeLabelStudio,
    FakeTrainer,
    Fuse,
    Killed,
    begin,
    queued,
    reconcile_all,
    retrain,
    scores,
    task,
)
from worker.jobs.context import JobContext
from worker.jobs.prelabel import run_prelabel
from worker.jobs.retrain import run_retrain
from worker.jobs.train import ROOM_WAITS_S


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


def test_a_failing_training_is_final_and_frees_the_project(context: JobContext) -> None:
    context.trainer.states += [RunStatus("failed", reason="The loss is NaN.")]  # type: ignore[attr-defined]
    job_id = begin(context.jobs)
    context.jobs.changes.record(PROJECT, [1])
    with pytest.raises(TrainingError, match="NaN"):
        run_retrain(context, PROJECT, job_id)
    assert context.trainer.stopped == 1  # type: ignore[attr-defined]
    assert context.jobs.job_status(job_id)["progress"] == {"phase": "failed", "message": "The loss is NaN."}
    assert context.jobs.live_retrain(PROJECT) is None
    assert context.registry.champion(PROJECT) is None
    assert context.jobs.counters.tallies([]).retrains["full", "failed"] == 1


@pytest.mark.parametrize("fails", ["training", "snapshot", "comparison", "stopped"])
def test_what_a_failed_retrain_took_counts_again_and_begins_nothing_by_itself(context: JobContext, fails: str) -> None:
    class NoImages:
        def load(self, uri: str, task_id: int | None) -> SourceImage:
            raise ImageError(f"{uri} answered 404")

    context.jobs.changes.record(PROJECT, range(1, 11))
    job_id, world = begin(context.jobs), context
    if fails == "training":
        reason = "CapacityError: Unable to provision requested ML compute capacity."
        context.trainer.states += [RunStatus("failed", reason=reason)]  # type: ignore[attr-defined]
    elif fails == "snapshot":
        world = replace(context, images=NoImages())  # type: ignore[arg-type]
    elif fails == "stopped":
        context.jobs.ask_stop(PROJECT)
    else:

        def endless(*args: Any) -> Compared:
            raise JobTimeout("too long")

        world = replace(context, compare=endless)
    with pytest.raises(SegloopError):
        run_retrain(world, PROJECT, job_id)
    assert context.jobs.changes.count(PROJECT) == Changes(10, 10)
    # neither the end of the job nor the next questions to Label Studio begin another of the same changes
    for _ in range(2):
        reconcile_all(context)
        assert queued(context.jobs, RETRAIN_QUEUE) == []
        # all that is known of them is in Label Studio and in the store
        context.jobs.connection.flushall()
    reconcile_all(context)
    assert context.jobs.changes.count(PROJECT) == Changes(10, 10)
    later = (datetime.now(UTC) + timedelta(seconds=5)).isoformat()
    context.label_studio.labelled.append(task(11, updated_at=later))  # type: ignore[attr-defined]
    reconcile_all(context)
    assert queued(context.jobs, RETRAIN_QUEUE) == [[PROJECT]]
    assert context.jobs.changes.count(PROJECT) == Changes(11, 11)


def test_an_outage_that_lasts_for_a_day_fails_and_forgets_nothing(context: JobContext, settings: Settings) -> None:
    context.jobs.changes.record(PROJECT, range(1, 11))
    job_id = begin(context.jobs)

    class Away(FakeTrainer):
        def submit(self, run: Run) -> None:
            raise TrainerUnavailable("The credentials have expired.")

    away = replace(context, trainer=Away())
    outage = settings.data_dir / "runs" / PROJECT / job_id / "outage.json"
    for since_h, last_h, error in ((0, 0, TrainerUnavailable), (25, 2, TrainerUnavailable), (25, 0.1, TrainingError)):
        if since_h:
            known = {"since": time.time() - since_h * 3600, "last": time.time() - last_h * 3600}
            outage.write_text(json.dumps(known))
        with pytest.raises(error, match="expired"):
            run_retrain(away, PROJECT, job_id)
    assert context.jobs.live_retrain(PROJECT) is None
    assert context.jobs.changes.count(PROJECT) == Changes(10, 10)


def test_a_training_for_which_there_is_no_room_is_tried_again_with_a_limit(
    context: JobContext, settings: Settings
) -> None:
    full = RunStatus("lost", reason="CapacityError: no instances.", no_room=True)
    trainer = FakeTrainer([full] * 100, poll_later_s=1)
    world, job_id = replace(context, trainer=trainer), begin(context.jobs)
    context.jobs.changes.record(PROJECT, range(1, 11))
    state = settings.data_dir / "runs" / PROJECT / job_id / "training.json"
    for tries in range(1, len(ROOM_WAITS_S) + 1):
        with pytest.raises(Parked) as caught:
            run_retrain(world, PROJECT, job_id)
        assert ROOM_WAITS_S[tries - 1] - 60 < caught.value.delay_s <= ROOM_WAITS_S[tries - 1]
        assert context.jobs.job_status(job_id)["progress"]["phase"] == "waiting"
        assert len(trainer.submitted) == tries
        state.write_text(json.dumps({**json.loads(state.read_text()), "retry_at": time.time() - 1}))
        with pytest.raises(Parked):
            run_retrain(world, PROJECT, job_id)
    with pytest.raises(TrainingError, match="no room for the training 8 times: CapacityError"):
        run_retrain(world, PROJECT, job_id)
    assert context.jobs.changes.count(PROJECT) == Changes(10, 10)


def test_a_lost_training_goes_on(context: JobContext) -> None:
    context.trainer.states += [RunStatus("lost", reason="Killed.")] * 3  # type: ignore[attr-defined]
    assert retrain(context)["promoted"]
    assert len(context.trainer.submitted) == 4  # type: ignore[attr-defined]


def test_a_training_lost_too_often_fails(context: JobContext) -> None:
    context.trainer.states += [RunStatus("lost", reason="Killed.")] * 4  # type: ignore[attr-defined]
    with pytest.raises(TrainingError, match="killed 4 times"):
        retrain(context)


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


def test_a_time_out_is_final(context: JobContext) -> None:
    def endless(*args: Any) -> dict[str, Any]:
        raise JobTimeout("too long")

    with pytest.raises(TrainingError, match="job_timeout_s=86400"):
        run_retrain(replace(context, compare=endless), PROJECT, begin(context.jobs))
    assert context.jobs.live_retrain(PROJECT) is None


def test_an_outage_leaves_the_job_live_and_its_changes_taken(context: JobContext) -> None:
    context.label_studio.error = LabelStudioUnreachable("away")  # type: ignore[attr-defined]
    context.jobs.changes.record(PROJECT, [1, 2])
    job_id = begin(context.jobs)
    with pytest.raises(LabelStudioUnreachable):
        run_retrain(context, PROJECT, job_id)
    assert context.jobs.live_retrain(PROJECT) is not None
    context.label_studio.error = None  # type: ignore[attr-defined]
    assert run_retrain(context, PROJECT, job_id)["promoted"]


def test_images_that_cannot_be_had_now_are_waited_for(context: JobContext) -> None:
    class Flaky:
        def load(self, uri: str, task_id: int | None) -> SourceImage:
            if (task_id or 0) > 3:
                raise ImageUnavailable(f"{uri} answered 503")
            return context.images.load(uri, task_id)

    context.jobs.changes.record(PROJECT, range(1, 11))
    job_id = begin(context.jobs)
    for _ in range(2):
        with pytest.raises(ImageUnavailable, match="7 images of 7 tasks"):
            run_retrain(replace(context, images=Flaky()), PROJECT, job_id)  # type: ignore[arg-type]
    assert context.jobs.live_retrain(PROJECT) is not None
    assert (context.trainer.submitted, context.registry.versions(PROJECT)) == ([], [])  # type: ignore[attr-defined]
    assert run_retrain(context, PROJECT, job_id)["tasks"] == 10


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


def test_a_full_disk_is_said_and_promotes_nothing(context: JobContext, monkeypatch: pytest.MonkeyPatch) -> None:
    honest = Objects.put
    put: list[str] = []

    def full(self: Objects, name: str, data: bytes) -> None:
        put.append(name)
        if len(put) > 7:
            raise OSError(errno.ENOSPC, "No space left on device")
        honest(self, name, data)

    monkeypatch.setattr(Objects, "put", full)
    job_id = begin(context.jobs)
    with pytest.raises(DiskFull, match=r"disk of .* is full"):
        run_retrain(context, PROJECT, job_id)
    assert (context.trainer.submitted, context.registry.champion(PROJECT)) == ([], None)  # type: ignore[attr-defined]
    assert context.jobs.live_retrain(PROJECT) is not None, "it waits"
    assert issubclass(DiskFull, OUTAGES), "the worker says why, and runs it again"
    monkeypatch.setattr(Objects, "put", honest)
    assert run_retrain(context, PROJECT, job_id)["promoted"]
    [run] = context.trainer.submitted  # type: ignore[attr-defined]
    assert len(load_manifest(run.snapshot).items) == 10


def test_a_disk_that_fails_ends_a_retrain(context: JobContext, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(self: Objects, name: str, data: bytes) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(Objects, "put", broken)
    job_id = begin(context.jobs)
    with pytest.raises(DiskError, match="Input/output error"):
        run_retrain(context, PROJECT, job_id)
    assert context.jobs.live_retrain(PROJECT) is None


def test_an_export_that_a_full_disk_stopped_is_made_later(context: JobContext, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_space(*_: object) -> EngineReport:
        raise EngineError("the export failed with status 1")

    job_id = begin(context.jobs)
    with monkeypatch.context() as full:
        full.setattr("shutil.disk_usage", lambda folder: SimpleNamespace(free=1000))
        with pytest.raises(DiskFull):
            run_retrain(replace(context, export=no_space), PROJECT, job_id)
        assert context.registry.versions(PROJECT) == []
    assert run_retrain(context, PROJECT, job_id)["promoted"]


def test_a_title_that_cannot_be_set_does_not_undo_a_promotion(context: JobContext) -> None:
    job_id = begin(context.jobs)
    honest = context.compare

    def then_away(*args: Any) -> dict[str, Any]:
        context.label_studio.error = LabelStudioUnreachable("away")  # type: ignore[attr-defined]
        return honest(*args)

    assert run_retrain(replace(context, compare=then_away), PROJECT, job_id)["promoted"]
    assert context.label_studio.title == "old"  # type: ignore[attr-defined]
    context.label_studio.error = None  # type: ignore[attr-defined]
    [[project, version]] = queued(context.jobs, PRELABEL_QUEUE)
    run_prelabel(context, project, version, "none")
    assert context.label_studio.title == version  # type: ignore[attr-defined]


def test_nothing_to_train_is_said(context: JobContext) -> None:
    context.label_studio.labelled = [task(1)]  # type: ignore[attr-defined]
    with pytest.raises(NothingToTrain):
        retrain(context)


# -- the real context


def test_the_real_context_opens_without_torch(settings: Settings) -> None:
    with JobContext.open(settings) as context:
        assert context.registry.projects() == []
        with pytest.raises(RegistryError):
            context.registry.bundle("29", "v1-aaaaaaaa")


def test_results_can_be_stored(context: JobContext) -> None:
    assert JSONSerializer.loads(JSONSerializer.dumps(retrain(context)))["promoted"] is True
