"""The whole retrain with training in the SageMaker emulator: submitted, left, looked at, finished; workers die between."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from segloop.aws.training import SageMakerTrainer
from segloop.errors import TrainerUnavailable, TrainingError
from segloop.queue import Jobs, Parked
from segloop.settings import Settings
from tests.aws.sagemaker_emulator import Emulator, Refusal, emulated_aws
from tests.job_context import PROJECT, begin, make_context, reconcile_all, task
from tests.waiting import PATIENCE_S
from worker.jobs.context import JobContext
from worker.jobs.retrain import run_retrain

pytestmark = pytest.mark.slow

HERE = Path(__file__).resolve().parent
ROLE = "arn:aws:iam::123456789012:role/segloop-training"


@pytest.fixture
def emulator(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Emulator]:
    with emulated_aws(tmp_path / "instances", "segloop-loop") as (emulator, environment):
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        yield emulator


@pytest.fixture
def settings(redis_url: str, tmp_path: Path) -> Settings:
    return Settings(
        data_dir=tmp_path / "data",
        redis_url=redis_url,
        weights="none",
        train_epochs=30,
        trainer="sagemaker",
        sagemaker_s3="s3://segloop-loop/x",
        sagemaker_role=ROLE,
        sagemaker_poll_s=0.1,
    )


@pytest.fixture
def context(settings: Settings, jobs: Jobs, emulator: Emulator, tmp_path: Path) -> JobContext:
    return make_context(settings, jobs, new_trainer(settings, tmp_path))


def new_trainer(settings: Settings, tmp_path: Path) -> SageMakerTrainer:
    code = tmp_path / "code"
    code.mkdir(exist_ok=True)
    shutil.copy(HERE / "tiny_sagemaker.py", code / "train.py")
    return SageMakerTrainer(settings, code=code, attempts=2)


def looks(context: JobContext, job_id: str, tmp_path: Path) -> tuple[dict[str, Any], int]:
    """Run a retrain as workers do that each live for one look; its result, and how often it was parked."""
    parked = 0
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        try:
            fresh = replace(context, trainer=new_trainer(context.settings, tmp_path))
            return run_retrain(fresh, PROJECT, job_id), parked
        except Parked as pause:
            parked += 1
            time.sleep(pause.delay_s)
    raise AssertionError("the training did not end")


def test_a_retrain_holds_no_worker(context: JobContext, emulator: Emulator, tmp_path: Path) -> None:
    job_id = begin(context.jobs)
    result, parked = looks(context, job_id, tmp_path)
    assert result["promoted"]
    assert parked  # how often depends on how fast this machine looks, and the stand-in trains for half a second
    assert len(emulator.jobs) == 1
    assert context.jobs.live_retrain(PROJECT) is None
    # the second one begins with the first one's version
    context.label_studio.labelled.pop()  # type: ignore[attr-defined]
    second, _ = looks(context, begin(context.jobs), tmp_path)
    info = context.registry.get(PROJECT, second["version"])
    assert "model/version.json" in info.recipe.weights
    assert info.parent == result["version"]


def other_host(context: JobContext, tmp_path: Path, trainer: SageMakerTrainer) -> JobContext:
    """Another host's world: the same queue and store, and a data folder of its own."""
    own = context.settings.model_copy(update={"data_dir": tmp_path / "other", "store": context.settings.store_url})
    return replace(context, settings=own, trainer=trainer)


def test_a_training_goes_on_from_another_host(context: JobContext, emulator: Emulator, tmp_path: Path) -> None:
    first, _ = looks(context, begin(context.jobs), tmp_path)
    job_id = begin(context.jobs)
    with pytest.raises(Parked):
        run_retrain(context, PROJECT, job_id)
    # meanwhile somebody labels: a snapshot of now would be another than the training learns from
    context.label_studio.labelled.append(task(11))  # type: ignore[attr-defined]
    other = other_host(context, tmp_path, new_trainer(context.settings, tmp_path))
    result, _ = looks(other, job_id, tmp_path)
    assert len(emulator.jobs) == 2
    assert result["tasks"] == 10
    assert context.registry.get(PROJECT, result["version"]).parent == first["version"]
    marks = context.registry.read_json(PROJECT, "snapshot.json")
    assert reconcile_all(replace(context, settings=context.settings.model_copy(update={"retrain_threshold": 0})))
    assert (context.jobs.changes.count(PROJECT).full, marks["job"]) == (1, "")


def test_a_stop_is_heard_on_another_host(context: JobContext, emulator: Emulator, tmp_path: Path) -> None:
    job_id = begin(context.jobs)
    long = replace(context, settings=context.settings.model_copy(update={"train_epochs": 10000}))
    with pytest.raises(Parked):
        run_retrain(long, PROJECT, job_id)
    (job,) = emulator.jobs.values()
    while "begins at 0" not in job.log:
        time.sleep(0.02)
    context.jobs.ask_stop(PROJECT)
    with pytest.raises(TrainingError, match="stopped the training"):
        run_retrain(other_host(long, tmp_path, new_trainer(context.settings, tmp_path)), PROJECT, job_id)
    assert job.description["TrainingJobStatus"] == "Stopped"


def test_progress_is_sagemakers(context: JobContext, tmp_path: Path) -> None:
    job_id = begin(context.jobs)
    with pytest.raises(Parked):
        run_retrain(context, PROJECT, job_id)
    progress = context.jobs.job_status(job_id)["progress"]
    assert progress["phase"] == "training"
    assert progress["message"].startswith("SageMaker: ")
    assert progress["job"].endswith("-1")
    assert looks(context, job_id, tmp_path)[0]["promoted"]


def test_a_failure_is_told_and_frees_the_project(context: JobContext, emulator: Emulator) -> None:
    emulator.faults.append(("CreateTrainingJob", Refusal("ResourceLimitExceeded", "The service limit is 0 Instances.")))
    job_id = begin(context.jobs)
    with pytest.raises(TrainingError, match="limit is 0 Instances"):
        run_retrain(context, PROJECT, job_id)
    assert context.jobs.live_retrain(PROJECT) is None


@pytest.mark.parametrize("code", ["ExpiredTokenException", "AccessDeniedException", "UnrecognizedClientException"])
def test_a_training_is_collected_once_aws_can_be_asked_again(
    context: JobContext, emulator: Emulator, tmp_path: Path, code: str
) -> None:
    job_id = begin(context.jobs)
    with pytest.raises(Parked):
        run_retrain(context, PROJECT, job_id)
    emulator.faults += [("DescribeTrainingJob", Refusal(code, "refused"))] * 3
    result, _ = looks(context, job_id, tmp_path)
    assert result["promoted"]
    assert len(emulator.jobs) == 1


def test_a_used_up_quota_is_waited_for(context: JobContext, emulator: Emulator, tmp_path: Path) -> None:
    message = "The account-level service limit 'ml.g5.xlarge for training job usage' is 1 Instances, with current utilization of 1."
    emulator.faults.append(("CreateTrainingJob", Refusal("ResourceLimitExceeded", message)))
    context.jobs.changes.record(PROJECT, range(1, 11))
    job_id = begin(context.jobs)
    with pytest.raises(TrainerUnavailable, match="is 1 Instances"):
        run_retrain(context, PROJECT, job_id)
    assert looks(context, job_id, tmp_path)[0]["promoted"]


def test_a_stop_from_segloop_stops_the_job_there(context: JobContext, emulator: Emulator, tmp_path: Path) -> None:
    long = replace(context, settings=context.settings.model_copy(update={"train_epochs": 10000}))
    job_id = begin(context.jobs)
    with pytest.raises(Parked):
        run_retrain(long, PROJECT, job_id)
    (job,) = emulator.jobs.values()
    while "begins at 0" not in job.log:
        time.sleep(0.02)
    assert context.jobs.ask_stop(PROJECT) == job_id
    with pytest.raises(TrainingError, match="stopped the training"):
        run_retrain(long, PROJECT, job_id)
    assert job.description["TrainingJobStatus"] == "Stopped"
    assert context.jobs.live_retrain(PROJECT) is None


def test_a_stop_in_the_console_is_gone_on_from(context: JobContext, emulator: Emulator, tmp_path: Path) -> None:
    job_id = begin(context.jobs)
    with pytest.raises(Parked):
        run_retrain(context, PROJECT, job_id)
    (job,) = emulator.jobs.values()
    while "begins at 0" not in job.log:
        time.sleep(0.02)
    emulator.stop_training_job({"TrainingJobName": job.name})
    assert looks(context, job_id, tmp_path)[0]["promoted"]
    assert len(emulator.jobs) == 2
