"""The managed route's training half: aws/sagemaker.yaml's pipeline runs in the emulator, its models are taken up by segloop."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import boto3
import pytest

from segloop.aws.training.route import AdoptedTraining
from segloop.errors import TrainingError
from segloop.policy import Compared, RetrainDecision
from segloop.queue import PRELABEL_QUEUE, Jobs, Parked
from segloop.registry import open_registry
from segloop.settings import Settings, environment
from segloop.versions import Metrics
from tests.aws.route_jobs import ARTIFACTS, Route, learnt, take
from tests.aws.sagemaker_emulator import Emulator, Refusal, deploy, emulated_aws
from tests.job_context import PROJECT, FakeImages, FakeLabelStudio, begin, fake_export, queued, reconcile_all, scores
from tests.toys import BRUSH, toy_model
from tests.waiting import PATIENCE_S, until
from worker.jobs.adopt import run_adopt
from worker.jobs.context import JobContext

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def aws(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Emulator, dict[str, str]]]:
    with emulated_aws(tmp_path_factory.mktemp("instances"), ARTIFACTS) as found:
        yield found


@pytest.fixture
def route(
    aws: tuple[Emulator, dict[str, str]],
    redis_url: str,
    jobs: Jobs,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Route]:
    emulator, environment = aws
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    emulator.pipelines.clear()
    emulator.executions.clear()
    emulator.flow.groups.clear()
    outputs = deploy(
        emulator,
        {
            "SourceBucketName": "route-source",
            "TargetBucketName": "route-target",
            "ArtifactsBucketName": ARTIFACTS,
            "CodeUri": f"s3://{ARTIFACTS}/code/tiny/",
            "MinimumMiou": "0.5",
        },
    )
    settings = Settings(
        data_dir=tmp_path / "data",
        redis_url=redis_url,
        weights="none",
        retrain_threshold=0,
        sagemaker_route=outputs["PipelineName"],
        sagemaker_events=outputs["EventQueueUrl"],
        sagemaker_poll_s=0.05,
    )
    registry = open_registry(settings)
    registry.write_json(PROJECT, "project.json", {"project": PROJECT, "label_config": BRUSH})
    context = JobContext(
        settings,
        registry,
        FakeLabelStudio(),  # type: ignore[arg-type]
        FakeImages(),  # type: ignore[arg-type]
        jobs,
        None,  # type: ignore[arg-type]
        scores(0.5, 0.6, 0.4, 0.7),
        fake_export,
        lambda registry, project, version, settings: toy_model(version, project),
        lambda settings: False,
    )
    made = Route(emulator, outputs, context, tmp_path)
    made.plan()
    yield made
    boto3.client("sqs", endpoint_url=emulator.s3_url).delete_queue(QueueUrl=outputs["EventQueueUrl"])


def test_a_model_of_the_route_is_taken_up_and_promoted(route: Route) -> None:
    go_on = route.folder / "go on"
    route.plan(waits_for=str(go_on))
    training = route.start()
    route.hear()
    (job_id,) = route.adopted()
    take(route.context.jobs, job_id)
    with pytest.raises(Parked):
        run_adopt(route.context, PROJECT, AdoptedTraining(route.context.settings, training, 29), job_id)
    # visible while it trains, as any retrain
    status = route.context.jobs.live_retrain(PROJECT)
    assert status is not None
    assert (status["job"], status["kind"], status["progress"]["phase"]) == (job_id, "adopt", "training")
    assert (status["progress"]["job"], status["reason"]) == (training, "The managed route trained generation 1.")
    go_on.touch()
    result = route.work(job_id)
    assert (result["promoted"], result["training"], result["learnt"], result["tasks"]) == (True, training, 8, 10)
    version = route.context.registry.get(PROJECT, result["version"])
    assert version.recipe.hyperparameters["recipe"] == "full"
    assert not any(name.startswith("segloop_") for name in version.recipe.hyperparameters)
    assert queued(route.context.jobs, PRELABEL_QUEUE) == [[PROJECT, result["version"]]]
    assert route.context.label_studio.title == result["version"]  # type: ignore[attr-defined]
    assert route.context.jobs.live_retrain(PROJECT) is None
    assert route.execution().status == "Succeeded"
    (package,) = route.emulator.flow.groups["segloop"]
    assert package["CustomerMetadataProperties"] == {"project": "29", "generation": "1"}
    assert package["InferenceSpecification"]["Containers"][0]["ModelDataUrl"].endswith(
        f"{training}/output/model.tar.gz"
    )


def test_a_training_is_taken_up_once(route: Route) -> None:
    training = route.start()
    route.ended(training)
    for _ in range(2):  # begun, ended
        route.hear()
    (job_id,) = route.adopted()
    assert route.work(job_id)["promoted"]
    registry = route.context.registry
    event = {
        "detail-type": "SageMaker Training Job State Change",
        "detail": {
            "TrainingJobName": training,
            "TrainingJobStatus": "Completed",
            "HyperParameters": route.emulator.jobs[training].description["HyperParameters"],
        },
    }
    client = boto3.client("sqs")
    for _ in range(3):
        client.send_message(QueueUrl=route.outputs["EventQueueUrl"], MessageBody=json.dumps(event))
    client.close()
    # a Redis that was lost forgets the job; the store does not
    route.context.jobs.connection.flushall()
    route.hear()
    reconcile_all(route.context)
    assert route.adopted() == []
    assert len(registry.versions(PROJECT)) == 1
    assert registry.champion(PROJECT).generation == 1  # type: ignore[union-attr]


def test_a_missed_event_is_found_by_asking(route: Route) -> None:
    training = route.start()
    boto3.client("sqs").purge_queue(QueueUrl=route.outputs["EventQueueUrl"])
    found = reconcile_all(route.context)["queued"]
    assert found == route.adopted()
    assert [job for job in found if job.startswith("adopt-29-1795383040-")]
    assert reconcile_all(route.context)["queued"] == []
    assert route.work(found[0])["training"] == training


def test_below_the_minimum_nothing_is_registered_but_segloop_compares(route: Route) -> None:
    route.plan(miou=0.3)
    training = route.start()
    execution = route.execution()
    assert execution.status == "Failed"
    assert "mIoU on the held-out tasks is below 0.5 (parameter MinimumMiou)" in execution.steps[-1]["FailureReason"]
    assert route.emulator.flow.groups["segloop"] == []
    route.hear()
    (job_id,) = route.adopted()
    result = route.work(job_id)
    assert result["training"] == training
    assert result["metrics"]["miou"] == 0.5  # of the comparison, on segloop's held-out tasks
    assert route.context.registry.get(PROJECT, result["version"]).metrics.miou == 0.5


def test_a_worker_follows_a_training_and_tells_why_it_failed(route: Route) -> None:
    """A real worker process: it hears of the training, follows it, and is told SageMaker's reason."""
    route.plan(fails="There are too few annotations.")
    jobs = route.context.jobs
    worker = subprocess.Popen(
        [sys.executable, "-m", "worker", "retrain"], env=environment(route.context.settings), cwd=ROOT
    )
    try:
        route.ended(route.start())
        until(lambda: bool(route.adopted()) and jobs.job_status(route.adopted()[0])["job_status"] == "failed")
    finally:
        worker.terminate()
        worker.wait(PATIENCE_S)
    (job_id,) = route.adopted()
    status = jobs.job_status(job_id)
    assert status["error"] == "AlgorithmError: There are too few annotations., exit code: 1"
    assert status["progress"] == {"phase": "failed", "message": status["error"]}
    assert jobs.live_retrain(PROJECT) is None
    jobs.connection.flushall()
    assert reconcile_all(route.context)["queued"] == []


@pytest.mark.parametrize(
    ("project", "route_name", "told"),
    [
        ("30", "segloop", "is of project 30, which is not connected here: ignored"),
        ("29", "another", "is of the route segloop, not SEGLOOP_SAGEMAKER_ROUTE: ignored"),
    ],
)
def test_what_is_not_ours_is_ignored(
    route: Route, caplog: pytest.LogCaptureFixture, project: str, route_name: str, told: str
) -> None:
    route.context = replace(
        route.context, settings=route.context.settings.model_copy(update={"sagemaker_route": route_name})
    )
    route.ended(route.start(project=project))
    with caplog.at_level(logging.INFO):
        route.hear()
    assert told in caplog.text
    assert route.adopted() == []


def test_it_waits_for_a_retrain_that_is_under_way(route: Route) -> None:
    other = begin(route.context.jobs)
    training = route.start()
    route.hear()
    (job_id,) = route.adopted()
    take(route.context.jobs, job_id)
    with pytest.raises(Parked):
        run_adopt(route.context, PROJECT, AdoptedTraining(route.context.settings, training, 29), job_id)
    assert route.context.jobs.job_status(job_id)["progress"]["message"] == (
        f"{training} waits for the retrain {other}, which is under way."
    )
    route.context.jobs.finish_retrain(PROJECT, other, lambda *_: RetrainDecision(False, "nothing changed"))
    assert route.work(job_id)["promoted"]


def test_nothing_that_it_learnt_from_is_held_out(route: Route) -> None:
    """segloop held 3 and 7 out, the candidate learnt from 3 and held 5 out; 11 is of neither yet."""
    registry = route.context.registry
    known = {str(task): "val" if task in (3, 7) else "train" for task in (1, 2, 3, 4, 7)}
    registry.write_json(PROJECT, "split.json", {"format": 1, "splits": known})
    route.plan(learnt(route.folder, held_out=(5, 7)))
    compared: list[set[int]] = []

    def compare(candidate: Path, champion: Path | None, snapshot: Path, *_: Any) -> Compared:
        manifest = json.loads((snapshot / "manifest.json").read_bytes())
        compared.append({item["task"] for item in manifest["items"] if item["split"] == "val"})
        return Compared(Metrics(miou=0.5, tasks=2, pixels=9))

    route.context = replace(route.context, compare=compare)
    route.start()
    route.execution()
    route.hear()
    (job_id,) = route.adopted()
    assert route.work(job_id)["promoted"]
    assert compared == [{5, 7}]
    kept = registry.read_json(PROJECT, "split.json")["splits"]
    assert [kept[str(task)] for task in (3, 5, 7)] == ["train", "val", "val"]


def test_a_stop_from_segloop_stops_the_training(route: Route) -> None:
    route.plan(waits_for="/nowhere")
    training = route.start()
    until(lambda: route.emulator.jobs[training].process is not None)
    route.hear()
    (job_id,) = route.adopted()
    take(route.context.jobs, job_id)
    follower = AdoptedTraining(route.context.settings, training, 29)
    with pytest.raises(Parked):
        run_adopt(route.context, PROJECT, follower, job_id)
    assert route.context.jobs.ask_stop(PROJECT) == job_id
    with pytest.raises(TrainingError, match="stopped the training"):
        run_adopt(route.context, PROJECT, follower, job_id)
    route.ended(training)
    assert route.execution().status == "Failed"


@pytest.mark.parametrize(
    ("plan", "manifest", "expected"),
    [
        ({"snapshot": "0" * 64}, {}, "learnt from the snapshot '0000"),
        ({}, {"project": "29.1"}, "the project 29.1, an earlier one with the id"),
    ],
)
def test_a_model_of_something_else_is_refused(
    route: Route, plan: dict[str, Any], manifest: dict[str, Any], expected: str
) -> None:
    route.plan(learnt(route.folder, **manifest), **plan)
    route.start()
    route.execution()
    route.hear()
    (job_id,) = route.adopted()
    with pytest.raises(TrainingError, match=expected):
        route.work(job_id)


def test_the_route_cannot_be_asked(route: Route, caplog: pytest.LogCaptureFixture) -> None:
    route.emulator.faults.append(("ListPipelineExecutions", Refusal("AccessDeniedException", "no")))
    assert reconcile_all(route.context)["queued"] == []
    assert "does not allow sagemaker:ListPipelineExecutions" in caplog.text
