"""Hostile jobs on a real Valkey, and a real worker: whatever Redis holds, only segloop's own jobs are run."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from rq import Queue, Retry, SimpleWorker
from rq.job import Callback
from rq.serializers import JSONSerializer
from rq.webhook import Webhook

from segloop.queue import PRELABEL_QUEUE, RETRAIN_QUEUE, Jobs
from segloop.queue.names import FUNCTIONS, RETRAIN
from segloop.queue.own import OwnQueue
from segloop.settings import Settings, environment
from tests.queues import PROJECT, execution, jobs, queued, settings, take, valkey
from tests.waiting import until

__all__ = ["jobs", "settings", "valkey"]


class Bomb:
    """Makes a folder named `exploded` where it is unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, ("exploded",)


def payload(function: Any, instance: Any = None, arguments: Any = (), keywords: Any = None) -> bytes:
    return zlib.compress(json.dumps([function, instance, arguments, keywords or {}]).encode())


PLANTED = "exploding_module.function"
#: What takes the place of a good job's fields.
HOSTILE: dict[str, dict[str, Any]] = {
    "a function of the standard library": {"data": payload("os.mkdir", arguments=["exploded"])},
    "a module that explodes when it is imported": {"data": payload(PLANTED)},
    "another function of ours": {"data": payload("worker.jobs.retrain.run_retrain", arguments=[PROJECT])},
    "a function by another path": {"data": payload("worker.jobs.entry_points.os.mkdir", arguments=["exploded"])},
    "a function that is no text": {"data": payload(["os.mkdir"])},
    "a method of an instance": {"data": payload("format", instance="{0.__class__}", arguments=["x"])},
    "arguments by name": {"data": payload(RETRAIN, keywords={"project": PROJECT})},
    "too few arguments": {"data": payload(RETRAIN)},
    "an argument that is no text": {"data": payload(RETRAIN, arguments=[{"a": 1}])},
    "a path as an argument": {"data": payload(RETRAIN, arguments=["../../exploded"])},
    "pickled data": {"data": zlib.compress(pickle.dumps(Bomb()))},
    "bare pickled data": {"data": pickle.dumps(Bomb())},
    "pickled meta": {"meta": pickle.dumps(Bomb())},
    "a pickled result": {"result": pickle.dumps(Bomb())},
    "data that grows without end": {"data": zlib.compress(b"[" * 50_000_000)},
    "data nested without end": {"data": zlib.compress(b"[" * 60_000)},
    "no data": {"data": b""},
    "a callback when it succeeds": {"success_callback_name": PLANTED},
    "a callback when it fails": {"failure_callback_name": PLANTED},
    "a callback when it is stopped": {"stopped_callback_name": PLANTED},
    "a request to anywhere": {"webhooks": json.dumps([{"url": "http://127.0.0.1:1/", "job_status": "failed"}])},
    "a job that depends on others": {"dependency_ids": json.dumps(["other"])},
    "repeats": {"repeats_left": "7"},
    "a queue that is not ours": {"origin": "default"},
    "a status that there is not": {"status": "exploded"},
    "a number that is none": {"timeout": "exploded"},
}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where jobs run here; a module lies there that makes a folder when it is imported."""
    (tmp_path / "exploding_module.py").write_text("import os; os.mkdir('exploded')\ndef function(*_): pass\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


def plant(jobs: Jobs, fields: dict[str, Any], project: str = "666") -> str:
    """Make a queued retrain into something else."""
    job_id = jobs.enqueue_retrain(project, "pressed").job_id
    jobs.connection.hset(f"rq:job:{job_id}", mapping=fields)
    return job_id


def dequeue(jobs: Jobs) -> str | None:
    found = OwnQueue.dequeue_any([jobs.queue(RETRAIN_QUEUE)], None, jobs.connection)
    return None if found is None else found[0].id


@pytest.mark.parametrize("what", HOSTILE)
def test_a_hostile_job_is_removed_as_failed_and_its_record_is_gone(
    jobs: Jobs, folder: Path, what: str, caplog: pytest.LogCaptureFixture
) -> None:
    hostile = plant(jobs, HOSTILE[what])
    good = jobs.enqueue_retrain(PROJECT, "pressed").job_id
    caplog.clear()
    assert dequeue(jobs) == good
    [record] = caplog.records
    assert hostile in record.getMessage()
    assert "\n" not in record.getMessage()
    assert len(record.getMessage()) < 600
    assert record.exc_info is None
    assert not (folder / "exploded").exists()
    assert jobs.fetch(hostile) is None
    assert jobs.counters.depths()[0].jobs["failed"] == 1
    assert (queued(jobs), jobs.queue(RETRAIN_QUEUE).intermediate_queue.get_job_ids()) == ([], [good])


def test_rq_itself_would_run_them(jobs: Jobs, folder: Path) -> None:
    """That the jobs above are hostile indeed: one for each way in."""
    queue = Queue("default", connection=jobs.connection, serializer=JSONSerializer)
    queue.enqueue(PLANTED)
    queue.enqueue("os.getpid", on_success=Callback(PLANTED))
    worker = SimpleWorker([queue], connection=jobs.connection, serializer=JSONSerializer)
    for _ in range(2):
        worker.work(burst=True, max_jobs=1)
        (folder / "exploded").rmdir()
        del sys.modules["exploding_module"]


@pytest.mark.parametrize("job_id", [b"\xff\xfe", b"a:b", b"../x", b"x" * 100_000, b"line\nbreak", b""])
def test_an_id_that_is_none_is_refused(jobs: Jobs, job_id: bytes, caplog: pytest.LogCaptureFixture) -> None:
    jobs.connection.rpush(jobs.queue(RETRAIN_QUEUE).key, job_id)
    jobs.connection.rpush(jobs.queue(RETRAIN_QUEUE).intermediate_queue_key, job_id)
    jobs.connection.zadd(jobs.queue(RETRAIN_QUEUE).scheduled_job_registry.key, {job_id: 1})
    jobs.connection.zadd(jobs.queue(RETRAIN_QUEUE).started_job_registry.key, {job_id: 1})
    jobs.recovery.recover(lambda _: True)
    jobs.recovery.enqueue_due()
    assert dequeue(jobs) is None
    assert all(len(record.getMessage()) < 600 and "\n" not in record.getMessage() for record in caplog.records)


def test_a_record_that_is_no_hash_is_refused(jobs: Jobs) -> None:
    job_id = jobs.enqueue_retrain("666", "pressed").job_id
    jobs.connection.delete(f"rq:job:{job_id}")
    jobs.connection.set(f"rq:job:{job_id}", "exploded")
    assert dequeue(jobs) is None
    assert not jobs.connection.exists(f"rq:job:{job_id}")


def test_a_hostile_job_is_no_ones_live_job(jobs: Jobs) -> None:
    job_id = plant(jobs, HOSTILE["pickled data"])
    assert (jobs.live_retrain("666"), jobs.last_retrain("666")) == (None, None)
    assert not jobs.enqueue_retrain("666", "pressed").joined
    jobs.hasten(job_id)
    jobs.report(job_id, {"phase": "training"})
    assert jobs.connection.hget(f"rq:job:{job_id}", "data") == HOSTILE["pickled data"]["data"]


def test_a_job_becomes_hostile_while_its_worker_is_dead(jobs: Jobs, folder: Path) -> None:
    job_id = jobs.enqueue_retrain("666", "pressed").job_id
    take(jobs)
    jobs.connection.hset(f"rq:job:{job_id}", mapping={"failure_callback_name": PLANTED, "retries_left": 0})
    assert jobs.recovery.recover(lambda _: True) == [job_id]
    assert queued(jobs) == []
    assert jobs.connection.zcard(jobs.queue(RETRAIN_QUEUE).started_job_registry.key) == 0
    assert not (folder / "exploded").exists()


def test_an_id_that_is_queued_twice_is_run_once(jobs: Jobs) -> None:
    job_id = jobs.enqueue_retrain(PROJECT, "pressed").job_id
    jobs.connection.rpush(jobs.queue(RETRAIN_QUEUE).key, job_id)
    assert take(jobs) == job_id
    assert dequeue(jobs) is None
    assert execution(jobs).job_id == job_id
    assert jobs.job_status(job_id)["job_status"] == "started"


def test_our_functions_are_those_that_there_are() -> None:
    import inspect

    from worker.jobs import entry_points

    for name, arguments in FUNCTIONS.items():
        module, _, function = name.rpartition(".")
        assert module == entry_points.__name__
        assert len(inspect.signature(getattr(entry_points, function)).parameters) == arguments


@pytest.fixture
def worker(settings: Settings, folder: Path) -> Iterator[subprocess.Popen[str]]:
    root = Path(__file__).resolve().parents[2]
    process = subprocess.Popen(
        [sys.executable, "-m", "worker"],
        env={**environment(settings), "PYTHONPATH": f"{root}:{folder}"},
        cwd=folder,
        stderr=subprocess.PIPE,
        text=True,
    )
    yield process
    process.kill()
    process.wait()


@pytest.mark.slow
def test_a_worker_goes_on_among_hostile_jobs_and_commands(
    jobs: Jobs, worker: subprocess.Popen[str], folder: Path
) -> None:
    until(lambda: bool(jobs.connection.smembers("rq:workers")))
    [name] = jobs.connection.smembers("rq:workers")
    for command in (b"exploded", json.dumps({"command": "shutdown"}).encode()):
        jobs.connection.publish(f"rq:pubsub:{name.decode().rpartition(':')[2]}", command)
    for queue in (RETRAIN_QUEUE, PRELABEL_QUEUE):
        pickled = Queue(queue, connection=jobs.connection)
        pickled.enqueue(os.mkdir, "exploded", retry=Retry(max=3))
        foreign = Queue(queue, connection=jobs.connection, serializer=JSONSerializer)
        foreign.enqueue("os.mkdir", "exploded", retry=Retry(max=3))
        foreign.enqueue(PLANTED, on_failure=Callback(PLANTED))
        foreign.enqueue(RETRAIN, PROJECT, webhooks=[Webhook("http://127.0.0.1:1/", "failed")])
    for number, fields in enumerate(HOSTILE.values()):
        plant(jobs, fields, str(number))
    refused = 8 + len(HOSTILE)
    until(lambda: sum(depth.jobs["failed"] for depth in jobs.counters.depths()) == refused)
    job = jobs.enqueue_retrain(PROJECT, "pressed").job_id
    until(lambda: jobs.job_status(job)["job_status"] not in ("queued", "started"))
    assert not (folder / "exploded").exists()
    worker.terminate()
    log = worker.communicate()[1]
    assert worker.returncode == 0
    assert log.count(" refused: It ") == refused
    assert "Traceback" not in log
