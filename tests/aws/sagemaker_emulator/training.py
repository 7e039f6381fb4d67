"""Training jobs of the SageMaker emulator: their requests, their life, their containers.

A job's container is a process with /opt/ml of its own and PID 1 where the tests run as root (a private mount and PID
namespace), else one that gets a base folder in place of /opt/ml.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tarfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import boto3

from tests.aws.hosting_emulator import ACCOUNT, Refusal, share_of_cores

ML = Path("/opt/ml")
#: Real seconds that a container has to end after SIGTERM; SageMaker gives 120.
GRACE_S = 10.0
#: Whoever runs a container, and the tests, may use moto.
KEYS = {"aws_access_key_id": "test", "aws_secret_access_key": "test"}
REGION = "us-east-1"
Json = dict[str, Any]


@dataclass
class Job:
    """A training job: its request, what DescribeTrainingJob tells of it, and its container."""

    request: Json
    folder: Path
    description: Json
    wish: str = ""
    process: subprocess.Popen[bytes] | None = None
    log: list[str] = field(default_factory=list)
    starts: int = 0

    @property
    def name(self) -> str:
        return str(self.request["TrainingJobName"])


class Training:
    """Training jobs, with S3 at `s3_url`.

    Args:
        second_s: real seconds that a second of limits and bills takes.

    Attributes:
        start_s: real seconds that a job takes to start.
        environment: variables of the image.
        told: what every change of a job's status is told to, with the job's description.
    """

    def __init__(self, s3_url: str, folder: Path, *, second_s: float = 1.0) -> None:
        self.s3_url, self.folder, self.second_s = s3_url, folder, second_s
        self.jobs: dict[str, Job] = {}
        self.start_s = 0.0
        self.environment: dict[str, str] = {}
        self.told: Callable[[Json], None] = lambda description: None
        self.lock = threading.RLock()
        self.threads: list[threading.Thread] = []
        self.s3 = boto3.client("s3", REGION, endpoint_url=s3_url, **KEYS)

    def end_jobs(self) -> None:
        """Stop all jobs, and wait for their ends."""
        for job in self.jobs.values():
            job.wish = job.wish or "stop"
        for thread in self.threads:
            thread.join()
        self.s3.close()

    def create_training_job(self, request: Json) -> Json:
        name = request["TrainingJobName"]
        if name in self.jobs:
            raise Refusal("ResourceInUse", f"Training job names must be unique within an AWS account: {name}")
        condition = request["StoppingCondition"]
        if request.get("EnableManagedSpotTraining"):
            if condition.get("MaxWaitTimeInSeconds", 0) < condition["MaxRuntimeInSeconds"]:
                raise Refusal("ValidationException", "MaxWaitTimeInSeconds must be at least MaxRuntimeInSeconds")
            if request["ResourceConfig"].get("KeepAlivePeriodInSeconds"):
                raise Refusal("ValidationException", "Warm pools are not supported for managed spot training")
        elif "MaxWaitTimeInSeconds" in condition:
            raise Refusal("ValidationException", "MaxWaitTimeInSeconds is for managed spot training")
        kept = (
            "RoleArn",
            "ResourceConfig",
            "StoppingCondition",
            "EnableManagedSpotTraining",
            "HyperParameters",
            "InputDataConfig",
            "OutputDataConfig",
        )
        description = {
            "TrainingJobName": name,
            "TrainingJobArn": f"arn:aws:sagemaker:us-east-1:{ACCOUNT}:training-job/{name}",
            "TrainingJobStatus": "InProgress",
            "CreationTime": time.time(),
            "SecondaryStatusTransitions": [],
            "FinalMetricDataList": [],
            **{key: request[key] for key in kept if key in request},
        }
        job = Job(request, self.folder / name, description)
        _move(job, "Starting", "Starting the training job")
        self.jobs[name] = job
        self.told(dict(description))
        thread = threading.Thread(target=self._run, args=(job,))
        self.threads.append(thread)
        thread.start()
        return {"TrainingJobArn": description["TrainingJobArn"]}

    def describe_training_job(self, request: Json) -> Json:
        return self._job(request["TrainingJobName"]).description

    def stop_training_job(self, request: Json) -> Json:
        job = self._job(request["TrainingJobName"])
        if job.description["TrainingJobStatus"] not in ("InProgress", "Stopping"):
            raise Refusal("ValidationException", "The request was rejected because the training job is not running.")
        job.description["TrainingJobStatus"] = "Stopping"
        _move(job, "Stopping", "Stopping the training job")
        job.wish = "stop"
        return {}

    def interrupt(self, name: str) -> None:
        """Take a job's spot instance away."""
        self.jobs[name].wish = "interrupt"

    def _job(self, name: str) -> Job:
        if name not in self.jobs:
            raise Refusal("ValidationException", "Requested resource not found.")
        return self.jobs[name]

    # -- a job's life, in a thread

    def _run(self, job: Job) -> None:
        try:
            self._live(job)
        except Exception as error:  # noqa: BLE001 - a broken emulator must fail the test, not hang it
            self._end(job, "Failed", "Failed", f"InternalServerError: {type(error).__name__}: {error}")

    def _live(self, job: Job) -> None:
        until = time.monotonic() + self.start_s
        while time.monotonic() < until and not job.wish:
            time.sleep(0.01)
        trained_s = 0.0
        while True:
            if job.wish == "stop":
                return self._end(job, "Stopped", "Stopped")
            _move(job, "Downloading", "Downloading input data")
            missing = self._prepare(job)
            if missing:
                return self._end(job, "Failed", "Failed", f"ClientError: Data download failed: {missing}")
            _move(job, "Training", "Training image download completed. Training in progress.")
            started = time.monotonic()
            limit_s = job.request["StoppingCondition"]["MaxRuntimeInSeconds"] * self.second_s - trained_s
            code = self._train(job, limit_s)
            trained_s += time.monotonic() - started
            self._bill(job, trained_s)
            self._upload_folder(job.folder / "checkpoints", job.request["CheckpointConfig"]["S3Uri"])
            if job.wish != "interrupt":
                break
            job.wish = ""
            _move(job, "Interrupted", "The spot instance was interrupted")
            _move(job, "Restarting", "Starting the training job again")
        if code and not job.wish:
            failure = job.folder / "output" / "failure"
            told = failure.read_text("utf-8") if failure.is_file() else ""
            return self._end(job, "Failed", "Failed", f"AlgorithmError: {told}, exit code: {code}"[:1024])
        _move(job, "Uploading", "Uploading generated training model")
        address = f"{job.request['OutputDataConfig']['S3OutputPath'].rstrip('/')}/{job.name}/output/model.tar.gz"
        self._upload_model(job, address)
        job.description["ModelArtifacts"] = {"S3ModelArtifacts": address}
        if job.wish == "stop":
            return self._end(job, "Stopped", "Stopped")
        if job.wish == "timeout":
            return self._end(job, "Stopped", "MaxRuntimeExceeded")
        return self._end(job, "Completed", "Completed")

    def _prepare(self, job: Job) -> str:
        """The container's folders, as a new instance has them; what S3 lacks."""
        job.starts += 1
        shutil.rmtree(job.folder, ignore_errors=True)
        for name in ("input/config", "input/data", "output/data", "model", "checkpoints", "tmp"):
            (job.folder / name).mkdir(parents=True)
        hosts = {"current_host": "algo-1", "hosts": ["algo-1"], "network_interface_name": "eth0"}
        channels = job.request.get("InputDataConfig", [])
        configs = {
            "hyperparameters": job.request.get("HyperParameters", {}),
            "resourceconfig": hosts,
            "inputdataconfig": {channel["ChannelName"]: {"TrainingInputMode": "File"} for channel in channels},
        }
        for name, content in configs.items():
            (job.folder / "input" / "config" / f"{name}.json").write_text(json.dumps(content), "utf-8")
        for channel in channels:
            uri = channel["DataSource"]["S3DataSource"]["S3Uri"]
            if not self._download_folder(uri, job.folder / "input" / "data" / channel["ChannelName"]):
                return f"no S3 objects found under {uri}"
        self._download_folder(job.request["CheckpointConfig"]["S3Uri"], job.folder / "checkpoints")
        return ""

    def _train(self, job: Job, limit_s: float) -> int:
        entrypoint = job.request["AlgorithmSpecification"]["ContainerEntrypoint"]
        process = subprocess.Popen(
            _container(job.folder, entrypoint),
            env={
                "PATH": os.pathsep.join((str(Path(sys.executable).parent), os.environ["PATH"])),
                "HOME": str(job.folder),
                "TMPDIR": str(job.folder / "tmp"),
                "LANG": "C.UTF-8",
                **share_of_cores(),
                "TRAINING_JOB_NAME": job.name,
                "AWS_REGION": REGION,
                "AWS_DEFAULT_REGION": REGION,
                "AWS_ENDPOINT_URL_S3": self.s3_url,
                **{name.upper(): value for name, value in KEYS.items()},
                **self.environment,
            },
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        job.process = process
        reader = threading.Thread(target=_read, args=(job, process))
        reader.start()
        deadline = time.monotonic() + limit_s
        asked_s = 0.0
        while process.poll() is None:
            time.sleep(0.02)
            if not job.wish and time.monotonic() > deadline:
                job.wish = "timeout"
            if job.wish and not asked_s:
                _signal(process, signal.SIGTERM)
                asked_s = time.monotonic()
            if asked_s and time.monotonic() - asked_s > GRACE_S:
                _signal(process, signal.SIGKILL)
        reader.join()
        return process.returncode

    def _bill(self, job: Job, trained_s: float) -> None:
        seconds = max(1, round(trained_s / self.second_s))
        spot = job.request.get("EnableManagedSpotTraining")
        job.description["TrainingTimeInSeconds"] = seconds
        job.description["BillableTimeInSeconds"] = max(1, round(seconds * 0.3)) if spot else seconds

    def _end(self, job: Job, status: str, secondary: str, reason: str = "") -> None:
        with self.lock:
            if reason:
                job.description["FailureReason"] = reason
            _move(job, secondary, reason or secondary)
        try:
            # first: whoever then sees the end may count on its event, and no later test gets it
            self.told(job.description | {"TrainingJobStatus": status})
        finally:
            job.description["TrainingJobStatus"] = status

    # -- S3

    def _download_folder(self, uri: str, folder: Path) -> int:
        bucket, _, prefix = uri.removeprefix("s3://").partition("/")
        count = 0
        for page in self.s3.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix):
            for found in page.get("Contents", []):
                path = folder / found["Key"].removeprefix(prefix).lstrip("/")
                path.parent.mkdir(parents=True, exist_ok=True)
                self.s3.download_file(bucket, found["Key"], str(path))
                count += 1
        return count

    def _upload_folder(self, folder: Path, uri: str) -> None:
        bucket, _, prefix = uri.removeprefix("s3://").partition("/")
        for path in folder.rglob("*"):
            if path.is_file():
                self.s3.upload_file(str(path), bucket, f"{prefix.rstrip('/')}/{path.relative_to(folder).as_posix()}")

    def _upload_model(self, job: Job, address: str) -> None:
        archive = job.folder / "model.tar.gz"
        with tarfile.open(archive, "w:gz", compresslevel=1) as tar:
            tar.add(job.folder / "model", ".")
        bucket, _, key = address.removeprefix("s3://").partition("/")
        self.s3.upload_file(str(archive), bucket, key)


def _move(job: Job, status: str, message: str) -> None:
    job.description["SecondaryStatus"] = status
    moment = {"Status": status, "StatusMessage": message, "StartTime": time.time()}
    job.description["SecondaryStatusTransitions"] = [*job.description["SecondaryStatusTransitions"], moment]


def _container(base: Path, entrypoint: list[str]) -> list[str]:
    if os.geteuid() == 0 and shutil.which("unshare"):
        ML.mkdir(exist_ok=True)
        mount = 'mount --bind "$0" /opt/ml && exec "$@"'
        namespace = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]
        return [*namespace, "sh", "-c", mount, str(base), *entrypoint]
    return [part.replace(str(ML), str(base)) for part in entrypoint]


def _signal(process: subprocess.Popen[bytes], number: int) -> None:
    """To the container's first process: of a namespace, to the child of `unshare`."""
    pid = process.pid
    if b"unshare" in Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")[:1]:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text("ascii").split()
        pid = int(children[0]) if children else pid
    os.kill(pid, number)


def _read(job: Job, process: subprocess.Popen[bytes]) -> None:
    assert process.stdout is not None
    definitions = job.request["AlgorithmSpecification"].get("MetricDefinitions", [])
    with process.stdout:
        for raw in process.stdout:
            line = raw.decode(errors="replace").rstrip("\n")
            job.log.append(line)
            metrics = {item["MetricName"]: item for item in job.description["FinalMetricDataList"]}
            for definition in definitions:
                if found := re.search(definition["Regex"], line):
                    name = definition["Name"]
                    metrics[name] = {"MetricName": name, "Value": float(found[1]), "Timestamp": time.time()}
            job.description["FinalMetricDataList"] = list(metrics.values())
