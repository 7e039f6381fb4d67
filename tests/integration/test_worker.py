"""The worker as a real process on a real Valkey, killed at any moment."""

from __future__ import annotations

import os
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from rq import Retry
from rq.job import Job
from rq.serializers import JSONSerializer

from segloop.errors import SettingsError
from segloop.queue import MAX_RETRIES, PRELABEL_QUEUE, RETRAIN_QUEUE, Jobs, WorkerLocks
from segloop.queue.own import OwnJob
from segloop.settings import Settings, environment
from tests.tiny_jobs import FUNCTIONS
from tests.valkey import Valkey
from tests.waiting import PATIENCE_S, until
from worker.__main__ import _queue

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def valkey(tmp_path: Path) -> Iterator[Valkey]:
    server = Valkey(tmp_path / "v").start()
    yield server
    server.stop()


@pytest.fixture
def settings(valkey: Valkey, tmp_path: Path) -> Settings:
    return Settings(redis_url=valkey.url, data_dir=tmp_path / "data", label_studio_api_key="")


@pytest.fixture
def jobs(settings: Settings) -> Iterator[Jobs]:
    jobs = Jobs.open(settings, timeout_s=5)
    yield jobs
    jobs.close()


#: A worker that also runs this folder's jobs.
PROGRAM = """
import os, signal, sys, time
from segloop.queue.own import OwnJob
from tests.tiny_jobs import FUNCTIONS
from worker.__main__ import main
from worker.worker import Worker

OwnJob.functions = FUNCTIONS
{}
sys.exit(main(sys.argv[1:]))
"""
#: It takes its time between its registration and rq's handlers of signals.
SLOW_TO_BEGIN = "Worker.subscribe = lambda worker: time.sleep(60)"
#: Both processes get a signal in the moment in which there are two.
STOPPED_AT_THE_FORK = """
fork = os.fork
def fork_and_stop():
    os.fork = fork
    pid = fork()
    os.kill(os.getpid(), signal.SIGTERM)
    return pid
os.fork = fork_and_stop
"""


class Workers:
    """Starts workers, and leaves none behind."""

    def __init__(self, settings: Settings, folder: Path) -> None:
        self._environment = {**environment(settings), "PYTHONPATH": f"{ROOT}", "TINY_JOBS": str(folder)}
        self._started: list[subprocess.Popen[bytes]] = []

    def start(self, *queues: str, change: str = "") -> subprocess.Popen[bytes]:
        process = subprocess.Popen([sys.executable, "-c", PROGRAM.format(change), *queues], env=self._environment)
        self._started.append(process)
        return process

    def stop(self) -> None:
        for process in self._started:
            process.kill()
            process.wait()


@pytest.fixture
def workers(settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Workers]:
    monkeypatch.setattr(OwnJob, "functions", FUNCTIONS)
    workers = Workers(settings, tmp_path)
    yield workers
    workers.stop()


@pytest.fixture
def notes(tmp_path: Path) -> Path:
    return tmp_path / "notes"


def enqueue(jobs: Jobs, name: str, *arguments: Any, queue: str = RETRAIN_QUEUE, timeout: int | None = None) -> Job:
    return jobs.queue(queue).enqueue_call(
        f"tests.tiny_jobs.{name}", args=[argument.name if isinstance(argument, Path) else str(argument) for argument in arguments],
        timeout=timeout, retry=Retry(max=MAX_RETRIES), meta={"project": "29"},
    )  # fmt: skip


def status(job: Job) -> str:
    return str(job.get_status(refresh=True).value)


def lines(notes: Path) -> list[str]:
    return notes.read_text(encoding="utf-8").splitlines() if notes.exists() else []


def started_pid(notes: Path) -> int:
    until(lambda: bool(lines(notes)))
    return int(lines(notes)[-1].split()[1])


def is_gone(pid: int) -> bool:
    try:
        return "State:\tZ" in Path(f"/proc/{pid}/status").read_text(encoding="utf-8")
    except FileNotFoundError:
        return True


def handles(pid: int, signum: signal.Signals) -> bool:
    """Whether a process has a handler of its own for a signal."""
    [caught] = re.findall(r"^SigCgt:\s*(\w+)", Path(f"/proc/{pid}/status").read_text(encoding="utf-8"), re.MULTILINE)
    return bool(int(caught, 16) >> (signum - 1) & 1)


def test_runs_jobs_of_both_queues_nicely_and_stops_on_sigterm(
    jobs: Jobs, workers: Workers, notes: Path, tmp_path: Path
) -> None:
    prelabel = enqueue(jobs, "quick", tmp_path / "other", queue=PRELABEL_QUEUE)
    retrain = enqueue(jobs, "slow", notes, 0)
    worker = workers.start()
    until(lambda: status(retrain) == status(prelabel) == "finished")
    assert lines(notes)[0].split()[2] == "10"
    assert jobs.job_status(prelabel.id)["result"] == "fine"
    later = enqueue(jobs, "quick", tmp_path / "later", queue=PRELABEL_QUEUE)
    until(lambda: status(later) == "finished")
    worker.terminate()
    assert worker.wait(PATIENCE_S) == 0
    for name in (RETRAIN_QUEUE, PRELABEL_QUEUE):
        assert jobs.connection.llen(jobs.queue(name).intermediate_queue_key) == 0


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_a_worker_that_has_just_begun_stops_without_a_trace(
    jobs: Jobs, workers: Workers, settings: Settings, signum: signal.Signals
) -> None:
    worker = workers.start(change=SLOW_TO_BEGIN)
    until(lambda: bool(jobs.connection.smembers("rq:workers")))
    worker.send_signal(signum)
    assert worker.wait(PATIENCE_S) == 0
    assert jobs.connection.smembers("rq:workers") == set()
    assert list((settings.data_dir / "workers").iterdir()) == []


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_a_worker_that_waits_for_redis_stops(workers: Workers, valkey: Valkey, signum: signal.Signals) -> None:
    valkey.kill()
    worker = workers.start()
    until(lambda: handles(worker.pid, signal.SIGTERM))
    time.sleep(0.7)  # it has tried once, and waits
    worker.send_signal(signum)
    assert worker.wait(PATIENCE_S) == 0


def test_a_killed_worker_takes_its_job_along_and_the_next_finishes_it(
    jobs: Jobs, workers: Workers, notes: Path, settings: Settings
) -> None:
    job = enqueue(jobs, "slow", notes, 600)
    worker = workers.start("retrain")
    horse = started_pid(notes)
    worker.kill()
    worker.wait()
    until(lambda: is_gone(horse))
    workers.start("retrain")
    until(lambda: status(job) == "finished")
    assert [line.split()[0] for line in lines(notes)] == ["start", "start", "done"]
    job.refresh()
    assert job.retries_left == MAX_RETRIES - 1
    until(lambda: len(list((settings.data_dir / "workers").glob("*.lock"))) == 1)
    assert jobs.connection.scard("rq:workers") == 1


def test_a_killed_job_is_started_again(jobs: Jobs, workers: Workers, notes: Path) -> None:
    job = enqueue(jobs, "slow", notes, 600)
    workers.start("retrain")
    os.kill(started_pid(notes), signal.SIGKILL)
    until(lambda: status(job) == "finished")
    assert [line.split()[0] for line in lines(notes)] == ["start", "start", "done"]


def test_a_stopped_worker_queues_its_job_again_at_no_cost(jobs: Jobs, workers: Workers, notes: Path) -> None:
    job = enqueue(jobs, "slow", notes, 600)
    worker = workers.start("retrain")
    started_pid(notes)
    worker.terminate()
    assert worker.wait(PATIENCE_S) == 0
    assert status(job) == "queued"
    job.refresh()
    assert job.retries_left == MAX_RETRIES
    workers.start("retrain")
    until(lambda: status(job) == "finished")


def test_a_signal_in_the_moment_of_the_fork_interrupts_the_job(
    jobs: Jobs, workers: Workers, notes: Path, settings: Settings
) -> None:
    job = enqueue(jobs, "slow", notes, 600)
    worker = workers.start("retrain", change=STOPPED_AT_THE_FORK)
    assert worker.wait(PATIENCE_S) == 0
    assert status(job) == "queued"
    job.refresh()
    assert job.retries_left == MAX_RETRIES
    assert jobs.connection.smembers("rq:workers") == set()
    assert list((settings.data_dir / "workers").iterdir()) == []


def test_an_error_of_segloop_is_final(jobs: Jobs, workers: Workers, notes: Path) -> None:
    job = enqueue(jobs, "useless", notes)
    workers.start("retrain")
    until(lambda: status(job) == "failed")
    assert lines(notes) == ["start"]
    assert jobs.job_status(job.id)["error"] == "It cannot work."


def test_the_end_of_a_jobs_time_is_no_failure_of_a_task(jobs: Jobs, workers: Workers, notes: Path) -> None:
    job = enqueue(jobs, "tolerant", notes, 30, timeout=1)
    workers.start("retrain")
    until(lambda: status(job) == "failed")
    assert len(lines(notes)) == 1, "neither gone on with nor tried again"


def test_any_other_error_is_tried_four_times(jobs: Jobs, workers: Workers, notes: Path) -> None:
    job = enqueue(jobs, "broken", notes)
    workers.start("retrain")
    until(lambda: status(job) == "failed")
    assert lines(notes) == ["start"] * (MAX_RETRIES + 1)


@pytest.mark.slow
def test_an_outage_is_waited_for(jobs: Jobs, workers: Workers, notes: Path) -> None:
    job = enqueue(jobs, "unreachable", notes)
    workers.start("retrain")
    until(lambda: status(job) == "scheduled")
    progress = jobs.job_status(job.id)["progress"]
    assert progress["phase"] == "waiting"
    assert "Label Studio is away." in progress["message"]
    registry = jobs.queue(RETRAIN_QUEUE).scheduled_job_registry.key
    jobs.connection.zadd(registry, {job.id: time.time() - 1})
    until(lambda: len(lines(notes)) == 2)
    job.refresh()
    assert job.retries_left == MAX_RETRIES


@pytest.mark.slow
def test_a_parked_job_leaves_its_worker_and_is_hastened(jobs: Jobs, workers: Workers, notes: Path) -> None:
    job = enqueue(jobs, "parks", notes)
    workers.start("retrain")
    until(lambda: status(job) == "scheduled")
    other = notes.with_name("other")
    second = enqueue(jobs, "quick", other)
    until(lambda: status(second) == "finished")
    jobs.hasten(job.id)
    until(lambda: status(job) == "finished")
    assert lines(notes)[-1] == "done"
    assert job.retries_left == MAX_RETRIES
    jobs.hasten(job.id)
    assert status(job) == "finished"


def test_a_worker_stops_while_redis_is_away_and_its_job_goes_on_in_the_next(
    jobs: Jobs, valkey: Valkey, workers: Workers, notes: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    job = enqueue(jobs, "slow", notes, 600)
    worker = workers.start("retrain")
    horse = started_pid(notes)
    valkey.kill()
    worker.terminate()
    assert worker.wait(PATIENCE_S) == 0
    until(lambda: is_gone(horse))
    assert "Traceback" not in capfd.readouterr().err
    valkey.start()
    begun = time.monotonic()
    workers.start("retrain")
    until(lambda: status(job) == "finished")
    assert time.monotonic() - begun < 60, "long before its heartbeat is overdue"


@pytest.mark.slow
def test_a_killed_redis_interrupts_no_job(jobs: Jobs, valkey: Valkey, workers: Workers, notes: Path) -> None:
    job = enqueue(jobs, "patient", notes, 14)
    worker = workers.start("retrain")
    started_pid(notes)
    valkey.kill()
    time.sleep(11)
    valkey.start()
    until(lambda: status(job) == "finished")
    assert len(lines(notes)) == 2
    assert worker.poll() is None
    later = enqueue(jobs, "quick", notes)
    until(lambda: status(later) == "finished")


def test_an_idle_worker_outlives_a_killed_redis(jobs: Jobs, valkey: Valkey, workers: Workers, notes: Path) -> None:
    worker = workers.start("retrain")
    until(lambda: jobs.connection.scard("rq:workers") == 1)
    valkey.kill()
    time.sleep(0.5)
    valkey.start()
    job = enqueue(jobs, "quick", notes)
    until(lambda: status(job) == "finished")
    assert worker.poll() is None


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(4))
def test_a_job_ends_whenever_its_worker_is_killed(jobs: Jobs, workers: Workers, notes: Path, seed: int) -> None:
    moments = random.Random(seed)
    job = enqueue(jobs, "patient", notes, 0.3)
    for _ in range(MAX_RETRIES):
        worker = workers.start(*(["retrain"] if seed % 2 else []))
        time.sleep(moments.uniform(0.5, 1.8))
        worker.kill()
        worker.wait()
    workers.start("retrain")
    until(lambda: status(job) == "finished")
    assert "done" in lines(notes)


def test_a_dead_worker_has_an_open_lock(tmp_path: Path) -> None:
    locks = WorkerLocks(tmp_path)
    name, descriptor = locks.register()
    assert locks.is_dead(name) is False
    assert locks.is_dead("elsewhere.1.abcdef") is None
    os.close(descriptor)
    assert locks.is_dead(name) is True
    assert list(locks.dead()) == [name]
    locks.forget(name)
    assert locks.is_dead(name) is None


def test_queue_names() -> None:
    assert _queue("retrain") == _queue("segloop-retrain") == RETRAIN_QUEUE
    with pytest.raises(SettingsError, match="no queue 'x'"):
        _queue("x")


def test_results_are_json(jobs: Jobs) -> None:
    assert jobs.queue(RETRAIN_QUEUE).serializer is JSONSerializer
