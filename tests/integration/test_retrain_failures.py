"""Retrains that fail or are held up: trainings, time-outs, outages, images that are away, full disks."""

from __future__ import annotations

import errno
import json
import time
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import pytest

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
    SegloopError,
    TrainerUnavailable,
    TrainingError,
)
from segloop.images import Image as SourceImage
from segloop.policy import Changes, Compared
from segloop.queue import OUTAGES, PRELABEL_QUEUE, RETRAIN_QUEUE, JobTimeout, Parked
from segloop.settings import Settings
from segloop.trainers.base import Run, RunStatus
from segloop.versions import EngineReport
from tests.job_context import PROJECT, FakeTrainer, begin, queued, reconcile_all, retrain, task
from worker.jobs.context import JobContext
from worker.jobs.prelabel import run_prelabel
from worker.jobs.retrain import run_retrain
from worker.jobs.train import ROOM_WAITS_S


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


def test_waiting_for_room_is_no_training_that_takes_too_long(context: JobContext, settings: Settings) -> None:
    full = RunStatus("lost", reason="CapacityError: no instances.", no_room=True)
    trainer = FakeTrainer([full, full, RunStatus("running")], poll_later_s=1)
    own = settings.model_copy(update={"job_timeout_s": 60})
    world, job_id = replace(context, trainer=trainer, settings=own), begin(context.jobs)
    state = settings.data_dir / "runs" / PROJECT / job_id / "training.json"
    with pytest.raises(Parked):
        run_retrain(world, PROJECT, job_id)
    known = json.loads(state.read_text())
    waited = {"retry_at": time.time() - 1, "submitted_at": known["submitted_at"] - ROOM_WAITS_S[0]}
    state.write_text(json.dumps({**known, **waited}))
    for submitted in (2, 2):  # there is room now, and it runs
        with pytest.raises(Parked):
            run_retrain(world, PROJECT, job_id)
        assert (len(trainer.submitted), trainer.stopped) == (submitted, 0)
    assert run_retrain(world, PROJECT, job_id)["promoted"]


def test_a_lost_training_goes_on(context: JobContext) -> None:
    context.trainer.states += [RunStatus("lost", reason="Killed.")] * 3  # type: ignore[attr-defined]
    assert retrain(context)["promoted"]
    assert len(context.trainer.submitted) == 4  # type: ignore[attr-defined]


def test_a_training_lost_too_often_fails(context: JobContext) -> None:
    context.trainer.states += [RunStatus("lost", reason="Killed.")] * 4  # type: ignore[attr-defined]
    with pytest.raises(TrainingError, match="killed 4 times"):
        retrain(context)


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
