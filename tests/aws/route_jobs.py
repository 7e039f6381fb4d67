"""A managed route on the emulator whose trainings take no time, and the segloop that takes them up."""

from __future__ import annotations

import json
import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import boto3
import numpy as np

from segloop.aws.training.route import AdoptedTraining
from segloop.dataset import Manifest
from segloop.queue import RETRAIN_QUEUE, Jobs, Parked
from tests.aws.sagemaker_emulator import Emulator
from tests.job_context import PROJECT
from tests.snapshots import write_snapshot
from tests.waiting import PATIENCE_S, until
from worker.jobs.adopt import run_adopt
from worker.jobs.context import JobContext
from worker.worker import Worker

ARTIFACTS = "route-artifacts"


@dataclass
class Route:
    """The deployed route, and a segloop that takes its models up."""

    emulator: Emulator
    outputs: dict[str, str]
    context: JobContext
    folder: Path

    def plan(self, manifest: Manifest | None = None, **plan: Any) -> None:
        """What the next training does; it learnt from tasks 1 to 10 unless told otherwise."""
        manifest = manifest or learnt(self.folder)
        files = {
            "plan.json": json.dumps({"miou": 0.8, **plan}),
            "manifest.json": manifest.text(),
            "train.py": (Path(__file__).with_name("tiny_route.py")).read_text("utf-8"),
        }
        for name, text in files.items():
            self.emulator.s3.put_object(Bucket=ARTIFACTS, Key=f"code/tiny/{name}", Body=text.encode())

    def start(self, generation: int = 1, project: str = "29", **parameters: str) -> str:
        """Start the pipeline, as the webhook's Lambda does; the training job's name, once there is one."""
        given = {"ProjectId": project, "Generation": str(generation), **parameters}
        client = boto3.client("sagemaker")
        arn = client.start_pipeline_execution(
            PipelineName="segloop",
            ClientRequestToken=f"{project}-{generation:032d}",
            PipelineParameters=[{"Name": name, "Value": value} for name, value in given.items()],
        )["PipelineExecutionArn"]
        until(
            lambda: bool(self.emulator.executions[arn].steps[:1] and self.emulator.executions[arn].steps[0]["Metadata"])
        )
        client.close()
        return str(self.emulator.executions[arn].steps[0]["Metadata"]["TrainingJob"]["Arn"].rpartition("/")[2])

    def execution(self, patience_s: float = PATIENCE_S) -> Any:
        """The latest execution, once it has ended."""
        execution = list(self.emulator.executions.values())[-1]
        until(lambda: execution.status != "Executing", "the execution's end", patience_s)
        return execution

    def ended(self, training: str) -> None:
        """Wait for a training's end."""
        until(lambda: self.emulator.jobs[training].description["TrainingJobStatus"] not in ("InProgress", "Stopping"))

    def hear(self) -> None:
        """Take what the queue of events has, as a worker does every few seconds."""
        worker = Worker(self.context.settings, [RETRAIN_QUEUE], self.context.jobs)
        try:
            worker.run_maintenance_tasks()
        finally:
            worker.close()

    def adopted(self) -> list[str]:
        """Ids of the jobs that follow trainings of the route, all that there ever were."""
        keys = self.context.jobs.connection.keys("rq:job:adopt-*")
        return sorted(key.decode().removeprefix("rq:job:") for key in keys)

    def work(self, job_id: str, deadline_s: float = 60) -> dict[str, Any]:
        """Run a job as workers do that each live for one look; its result."""
        job = self.context.jobs.fetch(job_id)
        assert job is not None
        take(self.context.jobs, job_id)
        project, training = job.args
        until_s = time.monotonic() + deadline_s
        while time.monotonic() < until_s:
            follower = AdoptedTraining(self.context.settings, training, 29, attempts=2)
            try:
                return run_adopt(self.context, project, follower, job_id)
            except Parked as pause:
                time.sleep(min(pause.delay_s, 0.1))
        raise AssertionError("the training did not end")


def take(jobs: Jobs, job_id: str) -> None:
    """Take a job off the queue, as a worker does."""
    jobs.connection.lrem(jobs.queue(RETRAIN_QUEUE).key, 0, job_id)
    jobs.connection.hset(f"rq:job:{job_id}", "status", "started")
    jobs.connection.zadd(jobs.queue(RETRAIN_QUEUE).started_job_registry.key, {f"{job_id}:execution": 4e9})


def learnt(folder: Path, tasks: int = 10, held_out: tuple[int, ...] = (3, 7), project: str = PROJECT) -> Manifest:
    """The training set of a candidate: tasks 1, 2, ..., some of them held out."""
    examples: Any = [
        (np.full((8, 8, 3), task, np.uint8), np.zeros((8, 8), np.uint8), "val" if task in held_out else "train")
        for task in range(1, tasks + 1)
    ]
    made = write_snapshot(folder / f"learnt-{tasks}", ["Road", "Sky"], examples, project=project)
    shutil.rmtree(folder / f"learnt-{tasks}")
    return made
