"""A queue on a Valkey of its own for each test module, and what a worker does to take a job from it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from redis import Redis
from rq import Queue, SimpleWorker
from rq.executions import prepare_execution
from rq.serializers import JSONSerializer

from segloop.queue import RETRAIN_QUEUE, Jobs
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
    taken = Queue.dequeue_any(worker.queues, None, jobs.connection, serializer=JSONSerializer)
    assert taken is not None
    job, _ = taken
    prepare_execution(worker, job)
    worker.prepare_job_execution(job, remove_from_intermediate_queue=True)
    return job.id
