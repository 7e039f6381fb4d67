"""A queue on a Valkey of its own for each test module, and what a worker does to take a job from it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from redis import Redis
from rq import SimpleWorker
from rq.executions import Execution, prepare_execution
from rq.serializers import JSONSerializer

from segloop.queue import RETRAIN_QUEUE, Jobs
from segloop.queue.own import OwnQueue
from segloop.settings import Settings
from tests.valkey import Valkey

PROJECT = "29.1795383040"


@pytest.fixture(scope="module")
def valkey(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Valkey]:
    server = Valkey(tmp_path_factory.mktemp("v")).start()
    yield server
    server.stop()


@pytest.fixture
def settings(valkey: Valkey, tmp_path: Path) -> Settings:
    with Redis.from_url(valkey.url) as client:
        client.flushall()
    return Settings(redis_url=valkey.url, data_dir=tmp_path)


@pytest.fixture
def jobs(settings: Settings) -> Iterator[Jobs]:
    jobs = Jobs.open(settings, timeout_s=5)
    yield jobs
    jobs.close()


def queued(jobs: Jobs, name: str = RETRAIN_QUEUE) -> list[str]:
    return jobs.queue(name).get_job_ids()


def take(jobs: Jobs, name: str = RETRAIN_QUEUE, worker_name: str = "host.1.abc") -> str:
    """Take a job as a worker does, up to the moment its process begins; its worker then is a name only."""
    worker = SimpleWorker([name], connection=jobs.connection, serializer=JSONSerializer, name=worker_name)
    taken = OwnQueue.dequeue_any([jobs.queue(name)], None, jobs.connection)
    assert taken is not None
    job, _ = taken
    prepare_execution(worker, job)
    worker.prepare_job_execution(job, remove_from_intermediate_queue=True)
    return job.id


def execution(jobs: Jobs) -> Execution:
    """The one execution of a retrain that is registered."""
    [entry] = jobs.connection.zrange(jobs.queue(RETRAIN_QUEUE).started_job_registry.key, 0, -1)
    return Execution.from_composite_key(entry.decode(), jobs.connection)
