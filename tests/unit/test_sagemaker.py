"""The parts of the SageMaker trainer that need no AWS: names, requests and their rules, statuses, archives, the entry."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import re
import signal
import subprocess
import sys
import tarfile
import time
import zipfile
from pathlib import Path
from typing import Any

import boto3
import click
import pytest

from segloop.cli import main
from segloop.errors import SettingsError, TrainingError
from segloop.settings import Settings
from tests.snapshots import write_base
from worker.trainers.base import Run
from worker.trainers.sagemaker import archive, entry, requests
from worker.trainers.sagemaker.archive import extract_bundle
from worker.trainers.sagemaker.checks import check_request, check_settings
from worker.trainers.sagemaker.code import REQUIREMENTS, code_files, requirements_of
from worker.trainers.sagemaker.requests import Inputs, default_image, job_name, training_job
from worker.trainers.sagemaker.status import status_of
from worker.trainers.sagemaker.trainer import SageMakerTrainer
from worker.trainers.sagemaker.uploads import Folder

ROOT = Path(__file__).parents[2]
ROLE = "arn:aws:iam::123456789012:role/segloop-training"
SNAPSHOT = "5" * 64


# -- names


def test_a_name_follows_from_the_run() -> None:
    assert job_name("retrain-7-1795383040-0a1b2c3d", 1) == "segloop-retrain-7-1795383040-0a1b2c3d-1"
    assert job_name("retrain-7-1795383040-0a1b2c3d", 2) == "segloop-retrain-7-1795383040-0a1b2c3d-2"


@pytest.mark.parametrize("run_id", ["r" * 54, "r" * 200, "a_b", "a.b", "___", "é", "-a-"])
@pytest.mark.parametrize("attempt", [1, 12])
def test_any_run_has_a_name_of_its_own(run_id: str, attempt: int) -> None:
    name = job_name(run_id, attempt)
    assert len(name) <= 63
    assert re.fullmatch("[a-zA-Z0-9](-*[a-zA-Z0-9])*", name)
    assert name != job_name(f"{run_id}x", attempt)
    assert name != job_name(run_id.replace("_", ".") + ".", attempt)


def test_images() -> None:
    assert default_image("us-east-1", "ml.g5.xlarge") == (
        "763104351884.dkr.ecr.us-east-1.amazonaws.com/pytorch-training:2.10.0-gpu-py313"
    )
    assert default_image("eu-south-1", "ml.m5.xlarge") == (
        "692866216735.dkr.ecr.eu-south-1.amazonaws.com/pytorch-training:2.10.0-cpu-py313"
    )
    assert ".amazonaws.com.cn/" in default_image("cn-north-1", "ml.p3.2xlarge")
    with pytest.raises(SettingsError, match=r"SEGLOOP_SAGEMAKER_IMAGE.*mars-1"):
        default_image("mars-1", "ml.m5.xlarge")


# -- requests


def sagemaker_settings(**own: Any) -> Settings:
    return Settings(**{"sagemaker_s3": "s3://bucket/segloop", "sagemaker_role": ROLE, **own})


def request_of(settings: Settings, **hyperparameters: str) -> dict[str, Any]:
    inputs = Inputs("s3://bucket/snapshot/", "s3://bucket/code/")
    places = {"output": "s3://bucket/output/", "checkpoints": "s3://bucket/checkpoints/"}
    return training_job(settings, "us-east-1", "name", "run", inputs, hyperparameters, places)


def check(settings: Settings, **hyperparameters: str) -> dict[str, Any]:
    check_settings(settings)
    request = request_of(settings, **hyperparameters)
    keys = {"aws_access_key_id": "test", "aws_secret_access_key": "test"}
    client = boto3.client("sagemaker", "us-east-1", **keys)
    check_request(client, "CreateTrainingJob", request)
    client.close()
    return request


def test_a_plain_request_fits() -> None:
    request = check(sagemaker_settings(), train_epochs="20")
    assert request["AlgorithmSpecification"]["ContainerEntrypoint"] == ["python3", "/opt/ml/input/data/code/train.py"]
    assert request["StoppingCondition"] == {"MaxRuntimeInSeconds": 14400}
    assert request["RetryStrategy"] == {"MaximumRetryAttempts": 2}
    assert {"VpcConfig", "KeepAlivePeriodInSeconds"}.isdisjoint(request | request["ResourceConfig"])


def test_every_option_fits() -> None:
    request = check(
        sagemaker_settings(
            sagemaker_spot=True,
            sagemaker_instance="ml.p3.2xlarge",
            sagemaker_instances=2,
            sagemaker_volume_kms_key="arn:aws:kms:us-east-1:123456789012:key/abc",
            sagemaker_output_kms_key="alias/segloop",
            sagemaker_subnets="subnet-1, subnet-2",
            sagemaker_security_groups="sg-1",
            sagemaker_tags="team=vision, cost = 7",
        )
    )
    assert request["StoppingCondition"]["MaxWaitTimeInSeconds"] == 28800
    assert request["VpcConfig"] == {"Subnets": ["subnet-1", "subnet-2"], "SecurityGroupIds": ["sg-1"]}
    assert request["Tags"][1:] == [{"Key": "team", "Value": "vision"}, {"Key": "cost", "Value": "7"}]
    assert check(sagemaker_settings(sagemaker_warm_pool_s=600))["ResourceConfig"]["KeepAlivePeriodInSeconds"] == 600


def test_metrics_are_read_from_the_entrys_lines() -> None:
    definitions = request_of(sagemaker_settings())["AlgorithmSpecification"]["MetricDefinitions"]
    line = f"{entry.PROGRESS} {json.dumps({'phase': 'training', 'epoch': 1, 'step': 12, 'steps': 20, 'loss': 2.5e-05, 'miou': 0.5, 'eta_s': 3.1})}"
    found = {item["Name"]: match[1] for item in definitions if (match := re.search(item["Regex"], line))}
    assert found["segloop:loss"] == "2.5e-05"
    assert found["segloop:step"] == "12"
    assert found["segloop:steps"] == "20"
    assert entry.PROGRESS == requests.PROGRESS


@pytest.mark.parametrize(
    ("own", "expected"),
    [
        ({"sagemaker_s3": "bucket"}, r"SEGLOOP_SAGEMAKER_S3 is 'bucket'"),
        ({"sagemaker_s3": ""}, "SEGLOOP_SAGEMAKER_S3 is ''"),
        ({"sagemaker_role": ""}, "SEGLOOP_SAGEMAKER_ROLE is empty"),
        ({"sagemaker_role": "segloop"}, "SEGLOOP_SAGEMAKER_ROLE does not fit"),
        ({"sagemaker_wheels": "wheels"}, "SEGLOOP_SAGEMAKER_WHEELS"),
        ({"sagemaker_tags": "team"}, "SEGLOOP_SAGEMAKER_TAGS has 'team'"),
        ({"sagemaker_subnets": "subnet-1"}, "SEGLOOP_SAGEMAKER_SECURITY_GROUPS go together"),
        ({"sagemaker_spot": True, "sagemaker_warm_pool_s": 60}, "SEGLOOP_SAGEMAKER_WARM_POOL_S can't be used"),
        ({"sagemaker_spot": True, "sagemaker_max_wait_s": 60}, "SEGLOOP_SAGEMAKER_MAX_WAIT_S is 60, less than"),
        ({"sagemaker_volume_kms_key": "alias/key"}, "SEGLOOP_SAGEMAKER_VOLUME_KMS_KEY can't be used with ml.g4dn"),
        (
            {"sagemaker_instance": "g4dn.xlarge"},
            "SEGLOOP_SAGEMAKER_INSTANCE does not fit.*'g4dn.xlarge' is none that this version of boto3 knows",
        ),
        ({"sagemaker_output_kms_key": "a key"}, "SEGLOOP_SAGEMAKER_OUTPUT_KMS_KEY does not fit"),
        ({"sagemaker_tags": ",".join(f"k{n}=v" for n in range(60))}, "SEGLOOP_SAGEMAKER_TAGS does not fit"),
        ({"sagemaker_image": "i" * 300}, "SEGLOOP_SAGEMAKER_IMAGE does not fit"),
    ],
)
def test_a_setting_that_does_not_fit_is_named(own: dict[str, Any], expected: str) -> None:
    with pytest.raises(SettingsError, match=expected):
        check(sagemaker_settings(**own))


def test_a_hyperparameter_that_is_too_long_is_named() -> None:
    with pytest.raises(SettingsError, match="SEGLOOP_WEIGHTS has 300 characters"):
        check(sagemaker_settings(), weights="w" * 300)


def test_a_region_is_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_DEFAULT_REGION", raising=False)
    with pytest.raises(SettingsError, match="SEGLOOP_SAGEMAKER_REGION"):
        SageMakerTrainer(sagemaker_settings())


def test_weights_of_this_machine_travel(tmp_path: Path) -> None:
    weights = tmp_path / "own.safetensors"
    weights.write_bytes(b"weights")
    trainer = SageMakerTrainer(sagemaker_settings(sagemaker_region="us-east-1"))
    run = Run("run", tmp_path, tmp_path, None, {"weights": str(weights)})
    assert trainer._hyperparameters(run) == {"weights": "/opt/ml/input/data/weights/own.safetensors"}
    with pytest.raises(TrainingError, match=r"SEGLOOP_WEIGHTS is '/nowhere'"):
        trainer._hyperparameters(Run("run", tmp_path, tmp_path, None, {"weights": "/nowhere"}))


# -- statuses

JOB = {"TrainingJobName": "job", "TrainingJobStatus": "InProgress", "SecondaryStatus": "Training"}


@pytest.mark.parametrize(
    ("secondary", "stage"),
    [
        ("Starting", "Starting"),
        ("LaunchingMLInstances", "Starting"),
        ("DownloadingTrainingImage", "Downloading"),
        ("Training", "Training"),
        ("Interrupted", "Interrupted"),
        ("Uploading", "Uploading"),
    ],
)
def test_stages(secondary: str, stage: str) -> None:
    status = status_of({**JOB, "SecondaryStatus": secondary})
    assert status.state == "running"
    assert (status.progress or {})["stage"] == stage


@pytest.mark.parametrize(
    ("status", "secondary", "state"),
    [
        ("Completed", "Completed", "finished"),
        ("Failed", "Failed", "failed"),
        ("Stopping", "Stopping", "running"),
        ("Stopped", "Stopped", "lost"),
        ("Stopped", "MaxRuntimeExceeded", "failed"),
        ("Stopped", "MaxWaitTimeExceeded", "failed"),
    ],
)
def test_ends(status: str, secondary: str, state: str) -> None:
    assert status_of({**JOB, "TrainingJobStatus": status, "SecondaryStatus": secondary}).state == state


def test_costs() -> None:
    billed = {
        **JOB,
        "TrainingTimeInSeconds": 1000,
        "BillableTimeInSeconds": 300,
        "EnableManagedSpotTraining": True,
        "ResourceConfig": {"InstanceCount": 2},
    }
    progress = status_of(billed, price_per_hour=6.0).progress or {}
    assert progress["cost"] == 1.0  # 300 s * 2 instances * 6 an hour / 3600 s
    assert progress["spot_saving"] == 0.7
    assert "cost" not in (status_of(billed).progress or {})


# -- archives


def bundle_files(weights: bytes = b"weights", **own: Any) -> dict[str, bytes]:
    described = {"sha256": hashlib.sha256(weights).hexdigest(), "bytes": len(weights)}
    info = {"snapshot": SNAPSHOT, "files": {"model.safetensors": described}, **own}
    return {"model.safetensors": weights, "version.json": json.dumps(info).encode()}


def regular(name: str, data: bytes) -> tuple[tarfile.TarInfo, bytes]:
    member = tarfile.TarInfo(name)
    member.size = len(data)
    return member, data


def special(name: str, kind: bytes, target: str = "") -> tuple[tarfile.TarInfo, bytes]:
    member = tarfile.TarInfo(name)
    member.type, member.linkname = kind, target
    return member, b""


def write_archive(path: Path, *members: tuple[tarfile.TarInfo, bytes]) -> Path:
    with tarfile.open(path, "w:gz") as tar:
        for member, data in members:
            tar.addfile(member, io.BytesIO(data))
    return path


def extract(tmp_path: Path, *members: tuple[tarfile.TarInfo, bytes]) -> Path:
    folder = tmp_path / "bundle"
    folder.mkdir()
    extract_bundle(write_archive(tmp_path / "model.tar.gz", *members), folder, SNAPSHOT)
    return folder


GOOD = [regular(name, data) for name, data in bundle_files().items()]


@pytest.mark.parametrize("start", ["", "./"])
def test_a_bundle_is_extracted(tmp_path: Path, start: str) -> None:
    members = [regular(start + name, data) for name, data in bundle_files().items()]
    folder = extract(tmp_path, special(".", tarfile.DIRTYPE), *members)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == bundle_files()


@pytest.mark.parametrize(
    "member",
    [
        regular("../model.safetensors", b"x"),
        regular("/etc/passwd", b"x"),
        regular("manifest.json/x", b"x"),
        regular("code.py", b"x"),
        special("manifest.json", tarfile.SYMTYPE, "/etc/passwd"),
        special("manifest.json", tarfile.LNKTYPE, "version.json"),
        special("manifest.json", tarfile.CHRTYPE),
        special("manifest.json", tarfile.FIFOTYPE),
        special("folder", tarfile.DIRTYPE),
    ],
    ids=lambda member: f"{member[0].name}-{member[0].type!r}",
)
def test_a_hostile_member_is_refused(tmp_path: Path, member: tuple[tarfile.TarInfo, bytes]) -> None:
    with pytest.raises(TrainingError, match="no file of a bundle"):
        extract(tmp_path, *GOOD, member)
    assert {path.name for path in tmp_path.rglob("*")} <= {
        "bundle",
        "model.tar.gz",
        "model.safetensors",
        "version.json",
    }


def test_a_member_twice_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"version\.json twice"):
        extract(tmp_path, *GOOD, GOOD[1])


def test_a_large_member_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(archive.LARGEST, "model.safetensors", 3)
    with pytest.raises(TrainingError, match=r"model.safetensors has 7 bytes; at most 3"):
        extract(tmp_path, *GOOD)


@pytest.mark.parametrize("kind", ["member", "header"])
def test_a_bomb_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    monkeypatch.setattr(archive, "FREE_BYTES", 2**16)
    bomb = regular("manifest.json", bytes(2**24 if kind == "member" else 1))
    if kind == "header":
        bomb[0].pax_headers = {"comment": "0" * 2**24}
    with pytest.raises(TrainingError, match="far larger"):
        extract(tmp_path, bomb, *GOOD)


@pytest.mark.parametrize("keep", [0.0, 0.3, 0.6, 0.95])
def test_a_truncated_archive_is_refused(tmp_path: Path, keep: float) -> None:
    path = write_archive(tmp_path / "whole", *GOOD, regular("manifest.json", bytes(range(256)) * 40))
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * keep)])
    folder = tmp_path / "bundle"
    folder.mkdir()
    with pytest.raises(TrainingError, match="damaged or incomplete"):
        extract_bundle(path, folder, SNAPSHOT)


def test_a_wrong_checksum_is_refused(tmp_path: Path) -> None:
    path = write_archive(tmp_path / "model.tar.gz", *GOOD)
    data = bytearray(gzip.compress(gzip.decompress(path.read_bytes())))
    data[-8] ^= 1
    path.write_bytes(data)
    folder = tmp_path / "bundle"
    folder.mkdir()
    with pytest.raises(TrainingError, match="damaged or incomplete"):
        extract_bundle(path, folder, SNAPSHOT)


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({"model.safetensors": b"other"}, "has the sha256"),
        ({"version.json": b"{}"}, "no version.json that tells"),
        ({"version.json": b"[]"}, "no version.json that tells"),
        ({"version.json": bundle_files(snapshot="6" * 64)["version.json"]}, "learnt from the snapshot"),
        ({"version.json": b"{"}, "no version.json that tells"),
    ],
)
def test_a_bundle_that_is_not_the_runs_is_refused(tmp_path: Path, files: dict[str, bytes], expected: str) -> None:
    with pytest.raises(TrainingError, match=expected):
        extract(tmp_path, *(regular(name, data) for name, data in {**bundle_files(), **files}.items()))


@pytest.mark.parametrize("missing", ["model.safetensors", "version.json"])
def test_a_bundle_without_a_file_is_refused(tmp_path: Path, missing: str) -> None:
    with pytest.raises(TrainingError, match=missing):
        extract(tmp_path, *(regular(name, data) for name, data in bundle_files().items() if name != missing))


# -- the code channel and its entry


def test_the_requirements_are_the_locks() -> None:
    lock = (ROOT / "requirements.lock").read_text("utf-8")
    assert REQUIREMENTS.read_text("utf-8") == requirements_of(lock), "run make lock"
    assert "--hash=sha256:" in REQUIREMENTS.read_text("utf-8")


def test_the_code_is_the_same_every_time(tmp_path: Path) -> None:
    first, second = code_files(tmp_path / "a"), code_files(tmp_path / "b")
    assert first["segloop.zip"].read_bytes() == second["segloop.zip"].read_bytes()
    assert set(first) == {"train.py", "requirements.txt", "segloop.zip"}
    assert Folder("code", first, "train.py").last in first


def test_what_is_installed_is_not_installed_again() -> None:
    text = f"pytest=={pytest.__version__} \\\n    --hash=sha256:00\nno-such-thing==1.0 \\\n    --hash=sha256:11\npydantic==0.0.1 ; python_version < '9' \\\n    --hash=sha256:22\n"
    left = entry.lacking(text)
    assert "pytest" not in left
    assert "no-such-thing==1.0" in left
    assert "--hash=sha256:22" in left
    assert entry.lacking(REQUIREMENTS.read_text("utf-8")) == ""


def test_what_cannot_be_installed_is_told(tmp_path: Path) -> None:
    wheels = tmp_path / "wheels"
    wheels.mkdir()
    requirements = tmp_path / "requirements.txt"
    requirements.write_text(f"no-such-thing==1.0 --hash=sha256:{'0' * 64}\n", "utf-8")
    target = tmp_path / "target"
    target.mkdir()
    assert "no-such-thing==1.0" in entry.install(requirements, target, wheels)


def test_wheels_are_installed_offline(tmp_path: Path) -> None:
    wheels = tmp_path / "wheels"
    wheels.mkdir()
    wheel = wheels / "tinything-1.0-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as file:
        file.writestr("tinything.py", "VALUE = 7\n")
        file.writestr("tinything-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: tinything\nVersion: 1.0\n")
        file.writestr("tinything-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        file.writestr("tinything-1.0.dist-info/RECORD", "tinything.py,,\ntinything-1.0.dist-info/METADATA,,\n")
    requirements = tmp_path / "requirements.txt"
    sha256 = hashlib.sha256(wheel.read_bytes()).hexdigest()
    requirements.write_text(f"tinything==1.0 --hash=sha256:{sha256}\n", "utf-8")
    target = tmp_path / "target"
    target.mkdir()
    assert entry.install(requirements, target, wheels) == ""
    assert (target / "tinything.py").read_text("utf-8") == "VALUE = 7\n"


def test_one_process_trains_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(entry, "BASE", write_base(tmp_path))
    monkeypatch.setattr(entry, "_gpus", lambda: 1)
    assert entry.command() == [sys.executable, "-m", "segloop.training", "--base", str(tmp_path)]


@pytest.mark.parametrize(("recipe", "torchrun"), [("full", True), ("quick", False)])
def test_hosts_and_gpus_train_by_torchrun(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, recipe: str, torchrun: bool
) -> None:
    monkeypatch.setattr(entry, "BASE", write_base(tmp_path, recipe=recipe))
    monkeypatch.setattr(entry, "_gpus", lambda: 4)
    hosts = {"current_host": "algo-2", "hosts": ["algo-2", "algo-1"]}
    (tmp_path / "input/config/resourceconfig.json").write_text(json.dumps(hosts), "utf-8")
    command = entry.command()
    assert ("torch.distributed.run" in command) == torchrun
    if torchrun:
        assert {"--nnodes=2", "--node-rank=1", "--nproc-per-node=4", "--master-addr=algo-1"} <= set(command)


def test_sigterm_is_passed_on(tmp_path: Path) -> None:
    """The training gets the signal, its exit status is the container's, and the last progress is printed."""
    child = "import signal, sys, time; signal.signal(signal.SIGTERM, lambda *_: sys.exit(7)); print('ready', flush=True); time.sleep(60)"
    progress = tmp_path / "output" / "data" / "progress.jsonl"
    progress.parent.mkdir(parents=True)
    progress.write_text('{"phase": "training", "step": 5}\n{"phase": "evaluating", "step": 1}\n', "utf-8")
    program = (
        "import os, sys; from pathlib import Path; from worker.trainers.sagemaker import entry; "
        f"entry.BASE = Path({str(tmp_path)!r}); sys.exit(entry.run([sys.executable, '-c', {child!r}], dict(os.environ)))"
    )
    with subprocess.Popen([sys.executable, "-c", program], cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        time.sleep(0.1)
        process.send_signal(signal.SIGTERM)
        out = process.stdout.read()
        assert process.wait(30) == 7
    assert f'{entry.PROGRESS} {{"phase": "training", "step": 5}}' in out


# -- the page


def test_the_page_lists_every_permission_and_its_policies_are_json() -> None:
    page = (ROOT / "docs" / "sagemaker.md").read_text("utf-8")
    files = [*(ROOT / "worker/trainers/sagemaker").glob("*.py"), *(ROOT / "worker/endpoints").glob("*.py")]
    source = "".join(path.read_text("utf-8") for path in files)
    actions = set(re.findall(r'explained\("([a-z0-9]+:[A-Za-z]+)"\)', source))
    assert {"s3:PutObject", "sagemaker:CreateTrainingJob", "sqs:DeleteMessage", "sagemaker:UpdateEndpoint"} <= actions
    fenced = re.findall(r"(?ms)^```(\w*)\n(.*?)^```$", page)
    plain = "".join(text for language, text in fenced if language == "sh")
    commands = re.findall(r"^segloop (.*)$", plain, re.MULTILINE)
    assert commands
    for command in commands:
        names = [word for word in command.split() if not word.startswith("-")]
        options = {word for word in command.split() if word.startswith("--")}
        found: Any = main
        while isinstance(found, click.Group):
            found = found.commands[names.pop(0)]
        assert options <= {name for parameter in found.params for name in parameter.opts}, command
    assert {action for action in actions if action not in page} == set()
    blocks = re.findall(r"(?s)```json\n(.*?)```", page)
    assert len(blocks) >= 5
    for block in blocks:
        content = json.loads(block)
        json.loads(content.get("Policy", "{}"))
    for name in re.findall(r"SEGLOOP_(SAGEMAKER_[A-Z0-9_]+)", page):
        assert name.lower() in Settings.model_fields
