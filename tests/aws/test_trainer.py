"""The SageMaker trainer against an emulator of its control plane, moto's S3, and containers that are real processes."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from segloop.aws.training import SageMakerTrainer
from segloop.aws.training.code import PACKAGES
from segloop.aws.training.requests import job_name
from segloop.errors import SettingsError, TrainerUnavailable, TrainingError
from segloop.network.network import load_bundle
from segloop.registry import bundles
from segloop.trainers.base import Run, RunStatus
from tests.aws.container_image import image_site
from tests.aws.sagemaker_emulator import Emulator, Refusal
from tests.aws.sagemaker_runs import bucket_of, emulator, finish, run_of, s3_server, settings_of, trainer_of
from tests.aws.smoke import smoke
from tests.waiting import until

__all__ = ["emulator", "s3_server"]

pytestmark = pytest.mark.slow


def trains(trainer: SageMakerTrainer, run: Run) -> bool:
    return "step" in (trainer.poll(run).progress or {})


def keys(emulator: Emulator, tmp_path: Path) -> dict[str, Any]:
    """When each object of the bucket was written."""
    found = emulator.s3.list_objects_v2(Bucket=bucket_of(tmp_path)).get("Contents", [])
    return {item["Key"]: item["LastModified"] for item in found}


# -- the life of a run


def test_trains_and_collects(emulator: Emulator, tmp_path: Path) -> None:
    trainer, run = trainer_of(tmp_path, sagemaker_price_per_hour=3.6), run_of(tmp_path)
    with pytest.raises(TrainingError, match="no trained bundle"):
        trainer.collect(run)
    trainer.submit(run)
    status = finish(trainer, run)
    assert status.state == "finished"
    progress = dict(status.progress or {})
    assert (progress["step"], progress["steps"], progress["stage"]) == (3, 3, "Completed")
    assert progress["loss"] == pytest.approx(1 / 3)
    assert "miou" not in progress
    assert progress["cost"] == pytest.approx(progress["billable_s"] * 3.6 / 3600)
    bundle = trainer.collect(run)
    assert bundles.describe_files(bundle).keys() == {"model.safetensors"}
    assert b'"device": "auto"' in (bundle / "model.safetensors").read_bytes()
    assert trainer.collect(run) == bundle
    stages = [
        moment["Status"] for moment in emulator.jobs[job_name(run.id, 1)].description["SecondaryStatusTransitions"]
    ]
    assert stages == ["Starting", "Downloading", "Training", "Uploading", "Completed"]


def test_the_container_is_as_sagemakers(emulator: Emulator, tmp_path: Path) -> None:
    trainer, run = trainer_of(tmp_path), run_of(tmp_path)
    trainer.submit(run)
    finish(trainer, run)
    first = emulator.jobs[job_name(run.id, 1)].log[0]
    if os.geteuid() == 0:
        assert first == "pid 1 base /opt/ml"
    else:
        assert first.endswith(str(tmp_path / "instances" / job_name(run.id, 1)))


def test_stages_are_shown(emulator: Emulator, tmp_path: Path) -> None:
    emulator.start_s = 0.3
    trainer, run = trainer_of(tmp_path), run_of(tmp_path, train_epochs="1000")
    trainer.submit(run)
    assert (trainer.poll(run).progress or {})["stage"] == "Starting"
    until(lambda: trains(trainer, run))
    assert (trainer.poll(run).progress or {})["stage"] == "Training"
    trainer.stop(run)


def test_failure_gives_the_reason(emulator: Emulator, tmp_path: Path) -> None:
    trainer, run = trainer_of(tmp_path), run_of(tmp_path, fails="1")
    trainer.submit(run)
    status = finish(trainer, run)
    assert (status.state, status.reason) == ("failed", "AlgorithmError: It cannot learn., exit code: 1")
    trainer.submit(run)
    assert trainer.poll(run).state == "failed"
    assert len(emulator.jobs) == 1


def test_a_stopped_run_goes_on_from_its_checkpoint(emulator: Emulator, tmp_path: Path) -> None:
    trainer, run = trainer_of(tmp_path), run_of(tmp_path, train_epochs="60")
    trainer.submit(run)
    until(lambda: trains(trainer, run))
    trainer.stop(run)
    assert trainer.poll(run).state == "lost"
    trainer.stop(run)
    trainer.submit(run)
    assert finish(trainer, run).state == "finished"
    first, second = (emulator.jobs[job_name(run.id, attempt)] for attempt in (1, 2))
    assert "begins at 0" in first.log
    assert "begins at 0" not in second.log
    assert trainer.collect(run).is_dir()


def test_max_runtime_is_a_failure(emulator: Emulator, tmp_path: Path) -> None:
    trainer, run = trainer_of(tmp_path, sagemaker_max_runtime_s=60), run_of(tmp_path, train_epochs="100000")
    trainer.submit(run)
    status = finish(trainer, run)
    assert status.state == "failed"
    assert "after 60 s" in status.reason
    assert "SEGLOOP_SAGEMAKER_MAX_RUNTIME_S" in status.reason


def test_a_spot_interruption_resumes(emulator: Emulator, tmp_path: Path) -> None:
    trainer, run = trainer_of(tmp_path, sagemaker_spot=True), run_of(tmp_path, train_epochs="80")
    trainer.submit(run)
    until(lambda: trains(trainer, run))
    name = job_name(run.id, 1)
    emulator.interrupt(name)
    status = finish(trainer, run)
    assert status.state == "finished"
    job = emulator.jobs[name]
    assert job.starts == 2
    begins = [line for line in job.log if line.startswith("begins")]
    assert begins[0] == "begins at 0"
    assert begins[1] != "begins at 0"
    assert "Interrupted" in [moment["Status"] for moment in job.description["SecondaryStatusTransitions"]]
    assert 0.5 < (status.progress or {})["spot_saving"] < 0.8


# -- idempotence: a worker may die anywhere


def test_another_process_takes_a_run_up(emulator: Emulator, tmp_path: Path) -> None:
    run = run_of(tmp_path)
    trainer_of(tmp_path).submit(run)
    trainer_of(tmp_path).submit(run)
    again = trainer_of(tmp_path)
    assert finish(again, run).state == "finished"
    again.submit(run)
    assert again.collect(run).is_dir()
    assert emulator.calls.count("CreateTrainingJob") == 1


def test_a_duplicate_is_already_submitted(emulator: Emulator, tmp_path: Path) -> None:
    run = run_of(tmp_path)
    trainer_of(tmp_path).submit(run)
    # Two submit at once: neither sees the other's job yet.
    emulator.faults.append(("DescribeTrainingJob", Refusal("ValidationException", "Requested resource not found.")))
    trainer_of(tmp_path).submit(run)
    assert emulator.calls.count("CreateTrainingJob") == 2
    assert len(emulator.jobs) == 1


def test_killed_before_the_state_of_a_new_attempt_was_used(emulator: Emulator, tmp_path: Path) -> None:
    trainer, run = trainer_of(tmp_path), run_of(tmp_path, train_epochs="1000")
    trainer.submit(run)
    until(lambda: trains(trainer, run))
    trainer.stop(run)
    emulator.faults.append(("CreateTrainingJob", Refusal("AccessDeniedException", "not now")))
    with pytest.raises(TrainingError):
        trainer.submit(run)
    trainer_of(tmp_path).submit(replace(run, hyperparameters={"train_epochs": "2"}))
    assert finish(trainer, run).state == "finished"
    assert set(emulator.jobs) == {job_name(run.id, 1), job_name(run.id, 2)}


# -- uploads


def test_the_same_is_uploaded_once(emulator: Emulator, tmp_path: Path) -> None:
    trainer = trainer_of(tmp_path)
    champion = tmp_path / "champion"
    champion.mkdir()
    (champion / "model.safetensors").write_bytes(b"champion")
    (champion / "version.json").write_text("{}", "utf-8")
    first = replace(run_of(tmp_path, "retrain-7-a"), champion=champion)
    trainer.submit(first)
    assert finish(trainer, first).state == "finished"
    before = {key: moment for key, moment in keys(emulator, tmp_path).items() if "/output/" not in key}
    second = replace(run_of(tmp_path, "retrain-7-b"), champion=champion)
    trainer.submit(second)
    assert finish(trainer, second).state == "finished"
    after = keys(emulator, tmp_path)
    assert {key: after[key] for key in before} == before
    inputs = {key for key in after.keys() - before.keys() if "/output/" not in key and "/checkpoints/" not in key}
    assert inputs == set()
    assert "model/version.json" in (trainer.collect(second) / "version.json").read_text("utf-8")


def test_a_grown_snapshot_sends_what_is_new(
    emulator: Emulator, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    trainer = trainer_of(tmp_path)
    first, second = run_of(tmp_path, "retrain-7-a", tasks=3), run_of(tmp_path, "retrain-7-b", tasks=4)
    trainer.submit(first)
    with caplog.at_level("INFO", "segloop.aws.training"):
        trainer.submit(second)
    # An image and the manifest: the new mask is like another's. 4 images, 1 mask, the manifest.
    assert "2 of 6 files sent" in caplog.text
    assert finish(trainer, second).state == "finished"
    inputs = (trainer.collect(second) / "version.json").read_text("utf-8")
    assert inputs.count("snapshot/images/") == 4


# -- AWS refuses


def test_throttling_is_waited_out(emulator: Emulator, tmp_path: Path) -> None:
    trainer, run = trainer_of(tmp_path), run_of(tmp_path)
    emulator.faults.append(("CreateTrainingJob", Refusal("ThrottlingException", "Rate exceeded")))
    trainer.submit(run)
    assert finish(trainer, run).state == "finished"


def test_throttling_without_end(emulator: Emulator, tmp_path: Path) -> None:
    trainer, run = trainer_of(tmp_path, attempts=1), run_of(tmp_path)
    emulator.faults.append(("CreateTrainingJob", Refusal("ThrottlingException", "Rate exceeded")))
    with pytest.raises(TrainerUnavailable, match="ThrottlingException"):
        trainer.submit(run)
    trainer.submit(run)
    emulator.faults.append(("DescribeTrainingJob", Refusal("ThrottlingException", "Rate exceeded")))
    assert trainer.poll(run) == RunStatus("running")
    assert finish(trainer, run).state == "finished"


@pytest.mark.parametrize(
    ("code", "message", "expected"),
    [
        (
            "AccessDeniedException",
            "User u is not authorized to perform: iam:PassRole",
            r"does not allow sagemaker:CreateTrainingJob: .*iam:PassRole.*docs/sagemaker.md",
        ),
        (
            "ResourceLimitExceeded",
            "The account-level service limit 'ml.g4dn.xlarge for training job usage' is 0 Instances.",
            r"quota.*'ml.g4dn.xlarge for training job usage' is 0 Instances.*Service Quotas",
        ),
        ("ExpiredTokenException", "The security token is expired", "does not accept the credentials"),
    ],
)
def test_a_refusal_is_told(emulator: Emulator, tmp_path: Path, code: str, message: str, expected: str) -> None:
    trainer, run = trainer_of(tmp_path), run_of(tmp_path)
    emulator.faults.append(("CreateTrainingJob", Refusal(code, message)))
    with pytest.raises(TrainingError, match=expected):
        trainer.submit(run)
    assert emulator.calls.count("CreateTrainingJob") == 1


def test_no_permission_to_ask(emulator: Emulator, tmp_path: Path) -> None:
    trainer, run = trainer_of(tmp_path), run_of(tmp_path)
    trainer.submit(run)
    emulator.faults.append(("DescribeTrainingJob", Refusal("AccessDeniedException", "no")))
    with pytest.raises(TrainingError, match="sagemaker:DescribeTrainingJob"):
        trainer.poll(run)


def test_a_bucket_that_is_not_there(emulator: Emulator, tmp_path: Path) -> None:
    settings = settings_of(tmp_path).model_copy(update={"sagemaker_s3": "s3://segloop-nowhere/x"})
    with pytest.raises(TrainingError, match=r"s3:\w+: NoSuchBucket"):
        SageMakerTrainer(settings).submit(run_of(tmp_path))


def test_nothing_is_sent_that_does_not_fit(emulator: Emulator, tmp_path: Path) -> None:
    trainer, run = trainer_of(tmp_path, sagemaker_instance="ml.g4dn.huge"), run_of(tmp_path)
    with pytest.raises(SettingsError, match=r"SEGLOOP_SAGEMAKER_INSTANCE.*ml\.g4dn\.huge"):
        trainer.submit(run)
    assert keys(emulator, tmp_path) == {}
    assert "CreateTrainingJob" not in emulator.calls


# -- what comes back


@pytest.mark.parametrize("damage", ["truncated", "other"])
def test_a_damaged_archive_is_refused(emulator: Emulator, tmp_path: Path, damage: str) -> None:
    trainer, run = trainer_of(tmp_path), run_of(tmp_path)
    trainer.submit(run)
    finish(trainer, run)
    place = {"Bucket": bucket_of(tmp_path), "Key": f"segloop/output/{job_name(run.id, 1)}/output/model.tar.gz"}
    data = emulator.s3.get_object(**place)["Body"].read()
    emulator.s3.put_object(**place, Body=data[: len(data) // 2] if damage == "truncated" else b"hello")
    with pytest.raises(TrainingError, match="damaged or incomplete"):
        trainer.collect(run)
    emulator.s3.put_object(**place, Body=data)
    assert trainer.collect(run).is_dir()


# -- the real training


@pytest.mark.slow
def test_segloop_trains_in_the_container(
    emulator: Emulator, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """By the very smoke test that `make test-aws` runs in an account."""
    emulator.second_s = 1.0
    emulator.environment = {"PYTHONPATH": str(image_site(tmp_path / "site", PACKAGES))}
    folder = tmp_path / "run"
    folder.mkdir()
    code = smoke(settings_of(tmp_path), folder)
    (job,) = emulator.jobs.values()
    assert code == 0, "\n".join(job.log)
    metrics = {item["MetricName"]: item["Value"] for item in job.description["FinalMetricDataList"]}
    assert metrics["segloop:step"] == metrics["segloop:steps"] == 2
    assert "finished" in capsys.readouterr().out
    _, info = load_bundle(folder / "model")
    assert info.classes == ("bright",)
