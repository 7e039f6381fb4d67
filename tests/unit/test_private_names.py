"""What segloop uses of rq beyond its documentation: setup.py allows another release of rq only once this passes with it.

No private name is used. These are its classes' own methods, which its documentation does not promise to keep.
"""

from __future__ import annotations

import inspect
from typing import Any

import pytest
from rq import Queue, Worker, job_lifecycle, worker_registration
from rq.executions import Execution
from rq.intermediate_queue import IntermediateQueue
from rq.job import Job
from rq.registry import ScheduledJobRegistry, StartedJobRegistry
from rq.timeouts import UnixSignalDeathPenalty

from segloop.queue.own import OwnJob, OwnQueue
from worker.worker import DeathPenalty
from worker.worker import Worker as OwnWorker

#: Overridden: the name, and the parameters that rq calls it with.
HOOKS: list[tuple[type, str, str]] = [
    (Worker, "subscribe", ""),
    (Worker, "teardown", ""),
    (Worker, "run_maintenance_tasks", ""),
    (Worker, "heartbeat", "timeout pipeline"),
    (Worker, "maintain_heartbeats", "job execution"),
    (Worker, "execute_job", "job queue"),
    (Worker, "fork_work_horse", "job queue"),
    (Worker, "main_work_horse", "job queue"),
    (Worker, "setup_work_horse_signals", ""),
    (Worker, "prepare_job_execution", "job remove_from_intermediate_queue"),
    (Worker, "handle_exception", "job exc_info"),
    (Worker, "handle_job_failure", "job queue started_job_registry exc_string execution"),
    (Worker, "request_stop", "signum frame"),
    (Worker, "set_shutdown_requested_date", ""),
    (Worker, "handle_warm_shutdown_request", ""),
    (UnixSignalDeathPenalty, "__init__", "timeout exception kwargs"),
    (Job, "restore", "raw_data"),
    (Queue, "dequeue_any", "queues timeout connection job_class serializer death_penalty_class"),
]
#: Used.
NAMES: list[tuple[Any, str]] = [
    (Worker, "find_by_key"),
    (Worker, "horse_pid"),
    (Worker, "redis_worker_namespace_prefix"),
    (Worker, "register_death"),
    (Worker, "executions_key"),
    (Queue, "intermediate_queue"),
    (Queue, "intermediate_queue_key"),
    (Queue, "started_job_registry"),
    (Queue, "scheduled_job_registry"),
    (IntermediateQueue, "get_first_seen_key"),
    (IntermediateQueue, "set_first_seen"),
    (IntermediateQueue, "should_be_cleaned_up"),
    (Execution, "from_composite_key"),
    (Execution, "composite_key"),
    (Execution, "key"),
    (Job, "key_for"),
    (StartedJobRegistry, "cleanup"),
    (ScheduledJobRegistry, "schedule"),
    (job_lifecycle, "record_job_failure"),
    (worker_registration, "clean_worker_registry"),
]


@pytest.mark.parametrize(("owner", "name", "parameters"), HOOKS, ids=lambda value: getattr(value, "__name__", value))
def test_rq_has_the_hook(owner: type, name: str, parameters: str) -> None:
    found = inspect.signature(getattr(owner, name)).parameters
    assert " ".join(parameter for parameter in found if parameter != "self") == parameters


@pytest.mark.parametrize(("owner", "name"), NAMES, ids=lambda value: getattr(value, "__name__", value))
def test_rq_has_the_name(owner: Any, name: str) -> None:
    assert hasattr(owner, name)


@pytest.mark.parametrize("own", [OwnWorker, OwnJob, OwnQueue, DeathPenalty])
def test_what_is_overridden_is_listed_and_nothing_of_it_is_private(own: type) -> None:
    base = own.__bases__[0]
    overridden = {name for name, value in vars(own).items() if hasattr(base, name) and inspect.isroutine(value)}
    listed = {name for owner, name, _ in HOOKS if owner is base}
    assert overridden - {"__init__"} == listed - {"__init__"}
    assert not [name for name in overridden if name.startswith("_") and not name.startswith("__")]
