"""Jobs enqueued, joined and followed."""

from __future__ import annotations

import hashlib
import logging
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

from rq import Retry
from rq.exceptions import DuplicateJobError
from rq.job import Job
from rq.job import JobStatus as JobState

from segloop.errors import JobNotFound
from segloop.metrics.curves import CurvesByName
from segloop.policy import Changes, Live, Recipe, RetrainDecision
from segloop.progress import Progress
from segloop.queue.changes import ChangedTasks, counted
from segloop.queue.connection import QueueConnection, reaching_redis
from segloop.queue.counters import Counters
from segloop.queue.names import (
    ACCEPT,
    ADOPT,
    FEEDBACK,
    LOOK_UP,
    MAX_RETRIES,
    PRELABEL,
    QUEUE_OF,
    RECONCILE,
    RESULT_TTL_S,
    RETRAIN,
    UNFINISHED,
    key_of,
)
from segloop.queue.reconciles import Reconciles
from segloop.queue.recovery import Recovery
from segloop.queue.status import JobStatus, describe
from segloop.settings import Settings

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Enqueued:
    """The job that does what was asked; `joined` if it was there already."""

    job_id: str
    joined: bool


class Jobs:
    """Every job of segloop: enqueued, joined, followed. Thread-safe.

    Attributes:
        recovery: requeues jobs whose worker died.
        counters: queue depths, and how jobs ended.
        reconciles: when each project is reconciled.
        changes: the tasks that changed since the last snapshots.

    Raises (every method):
        QueueUnavailable: Redis cannot be reached or refused.
    """

    def __init__(self, connection: QueueConnection, settings: Settings) -> None:
        self._connection = connection
        self._settings = settings
        self.connection: Any = connection.redis
        self.queue = connection.queue
        self.fetch = connection.fetch
        self.recovery = Recovery(connection)
        self.counters = Counters(connection)
        self.reconciles = Reconciles(connection, settings)
        self.changes = ChangedTasks(connection)

    @classmethod
    def open(cls, settings: Settings, *, timeout_s: float | None = 0.5) -> Jobs:
        """The queue of these settings; a command that takes longer than `timeout_s` fails."""
        return cls(QueueConnection.open(settings, timeout_s=timeout_s), settings)

    def close(self) -> None:
        """Close the connections."""
        self.connection.close()

    @reaching_redis
    def check_writable(self) -> None:
        """Return if Redis takes what is queued: it sets a key that lapses in a moment.

        Raises:
            QueueRefusesWrites: it answers and takes none: full, a replica, or without a disk to save to.
        """
        self.connection.set("segloop:writable", 1, px=1000)

    # -- enqueue

    @reaching_redis
    def enqueue_retrain(self, project: str, reason: str, recipe: Recipe = "full", *, again: str = "") -> Enqueued:
        """Queue a retrain, or join the project's live one.

        A full one that joins a quick one makes it full, if that has not begun; joining one that already runs asks
        for one more run after it, if anything changed since its snapshot. A quick one that joins adds nothing: what
        changed is counted, and the end of the live one decides upon it. A live one whose worker is gone is put back
        into the queue. `again` is the id of a retrain that Redis has lost, and that goes on.
        """
        fresh = self._job(RETRAIN, (project,), reason, name=again.rpartition("-")[2])

        def attempt(pipe: Any) -> Enqueued:
            live = self.recovery.live(key_of(project, "retrain"), pipe)
            pipe.multi()
            if live is not None:
                if recipe == "full":
                    pipe.set(key_of(project, "rerun"), reason)
                    pipe.set(key_of(project, "recipe"), recipe)
                return Enqueued(live.id, joined=True)
            pipe.delete(key_of(project, "rerun"))
            pipe.set(key_of(project, "recipe"), recipe)
            return self._enqueue(fresh, key_of(project, "retrain"), pipe)

        return self._connection.transaction(attempt, key_of(project, "retrain"))

    @reaching_redis
    def enqueue_adoption(self, project: str, training: str, reason: str) -> Enqueued:
        """Queue the job that follows a training which somebody else started, unless there was one for it already.

        Its id follows from the training's name, and it is the project's live retrain once it has claimed to be.
        """
        name = hashlib.sha256(training.encode()).hexdigest()[:16]
        fresh = self._job(ADOPT, (project, training), reason, name=name)
        try:
            self.queue(fresh.origin).enqueue_job(fresh, unique=True)
        except DuplicateJobError:
            return Enqueued(fresh.id, joined=True)
        return Enqueued(fresh.id, joined=False)

    @reaching_redis
    def claim_retrain(self, project: str, job_id: str) -> str | None:
        """Make a job that is not the project's live retrain into it; the id of the one that is, if it is another."""

        def attempt(pipe: Any) -> str | None:
            live = self.recovery.live(key_of(project, "retrain"), pipe)
            pipe.multi()
            if live is None:
                pipe.delete(key_of(project, "rerun"))
                pipe.set(key_of(project, "recipe"), "full")
                pipe.set(key_of(project, "retrain"), job_id)
                return None
            return None if live.id == job_id else str(live.id)

        return self._connection.transaction(attempt, key_of(project, "retrain"))

    @reaching_redis
    def enqueue_prelabel(self, project: str, version: str) -> Enqueued:
        """Queue the prediction of a project's unlabelled tasks with a version, or join the live job that does it.

        Replaces a job of another version that waits; one that runs ends by itself when it sees the new champion.
        """
        fresh = self._job(PRELABEL, (project, version), version)

        def attempt(pipe: Any) -> Enqueued:
            live = self.recovery.live(key_of(project, "prelabel"), pipe)
            pipe.multi()
            if live is not None:
                if list(live.args) == [project, version]:
                    return Enqueued(live.id, joined=True)
                if live.get_status(refresh=False) != JobState.STARTED:
                    self._cancel(live, pipe)
            return self._enqueue(fresh, key_of(project, "prelabel"), pipe)

        return self._connection.transaction(attempt, key_of(project, "prelabel"))

    @reaching_redis
    def has_no_prelabel(self, project: str) -> bool:
        """Whether Redis knows of no refresh of a project's predictions, neither a live one nor one that has ended."""
        job_id = self.connection.get(key_of(project, "prelabel"))
        return job_id is None or self.fetch(job_id.decode()) is None

    @reaching_redis
    def enqueue_accept(self, project: str) -> Enqueued:
        """Queue the look at which pre-labels may be accepted, or join the project's live one."""
        return self._enqueue_once(self._job(ACCEPT, (project,), "accept"), key_of(project, "accept"))

    @reaching_redis
    def enqueue_feedback(self, project: str) -> None:
        """Have Label Studio say how far a training is, before other work of that queue, unless that is to come already."""
        fresh, pointer = self._job(FEEDBACK, (project,), "feedback"), key_of(project, "feedback")

        def attempt(pipe: Any) -> None:
            live = self.recovery.live(pointer, pipe)
            pipe.multi()
            # one that runs may have looked already
            if live is None or live.get_status(refresh=False) == JobState.STARTED:
                pipe.set(pointer, fresh.id)
                self.queue(fresh.origin).enqueue_job(fresh, pipeline=pipe, at_front=True)

        self._connection.transaction(attempt, pointer)

    @reaching_redis
    def enqueue_reconcile(self, project: str) -> Enqueued:
        """Queue the question to Label Studio what changed in a project, unless it is queued or asked already."""
        return self._enqueue_once(self._job(RECONCILE, (project,), "reconcile"), key_of(project, "reconcile"))

    @reaching_redis
    def enqueue_look_up(self) -> Enqueued:
        """Queue the question to SageMaker which trainings the managed route has begun, unless it is queued or asked already."""
        return self._enqueue_once(self._job(LOOK_UP, (), "look-up"), "segloop:look-up")

    def _enqueue_once(self, fresh: Job, pointer: str) -> Enqueued:
        def attempt(pipe: Any) -> Enqueued:
            live = self.recovery.live(pointer, pipe)
            pipe.multi()
            return self._enqueue(fresh, pointer, pipe) if live is None else Enqueued(live.id, joined=True)

        return self._connection.transaction(attempt, pointer)

    # -- jobs that wait for something outside

    @reaching_redis
    def hasten(self, job_id: str) -> None:
        """Queue a job that was parked now; any other stays as it is."""
        job = self.fetch(job_id)
        if job is not None:
            self.recovery.release(job_id, self.queue(job.origin))

    @reaching_redis
    def ask_stop(self, project: str) -> str | None:
        """Ask the project's live retrain to stop for good; its id, None if there is none."""
        job_id = self.connection.get(key_of(project, "retrain"))
        if job_id is None:
            return None
        self.connection.set(key_of(project, "stop"), job_id)
        self.hasten(job_id.decode())
        return str(job_id.decode())

    @reaching_redis
    def stop_asked(self, project: str, job_id: str) -> bool:
        """Whether a retrain is asked to stop."""
        asked = self.connection.get(key_of(project, "stop"))
        return asked is not None and asked.decode() == job_id

    @reaching_redis
    def recipe(self, project: str) -> Recipe:
        """The recipe that the project's live retrain is asked for now."""
        return _recipe(self.connection.get(key_of(project, "recipe")))

    @reaching_redis
    def make_full(self, project: str) -> None:
        """Make the project's live retrain a full one, as it begins."""
        self.connection.set(key_of(project, "recipe"), "full")

    @reaching_redis
    def finish_retrain(
        self, project: str, job_id: str, decide: Callable[[Changes, bool], RetrainDecision], *, failed: bool = False
    ) -> Enqueued | None:
        """End a project's live retrain and, if `decide(changes, requested)` says so, queue the next, at once.

        The changes that a retrain took which `failed` count again afterwards; `decide` is asked about the others alone,
        so that none fails twice by itself. A press or a change either is seen by `decide`, or finds no live retrain any more.
        """

        def attempt(pipe: Any) -> Enqueued | None:
            live = pipe.get(key_of(project, "retrain"))
            counts = counted([pipe.scard(key_of(project, name)) for name in ("changes", "recent")])
            decision = decide(counts, bool(pipe.exists(key_of(project, "rerun"))))
            pipe.multi()
            if live is not None and live.decode() != job_id:
                return None
            if failed:
                for name in ("changes", "recent"):
                    pipe.sunionstore(key_of(project, name), key_of(project, name), key_of(project, "taken"))
            pipe.set(key_of(project, "last"), job_id)
            pipe.delete(*(key_of(project, name) for name in ("taken", "rerun", "retrain", "recipe", "stop")))
            if not decision.act:
                return None
            logger.info("project %s: one more retrain after job %s: %s", project, job_id, decision.reason)
            following = self._job(RETRAIN, (project,), decision.reason)
            pipe.set(key_of(project, "recipe"), decision.recipe)
            return self._enqueue(following, key_of(project, "retrain"), pipe)

        watched = ("retrain", "changes", "recent", "rerun")
        return self._connection.transaction(attempt, *(key_of(project, name) for name in watched))

    @reaching_redis
    def is_retrain(self, project: str, job_id: str) -> bool:
        """Whether a job is the project's retrain, and has not seen to its own end."""
        live = self.connection.get(key_of(project, "retrain"))
        return live is not None and live.decode() == job_id

    @reaching_redis
    def has_ended(self, project: str, job_id: str) -> bool:
        """Whether a retrain ended before, and is run again because its worker died before it had said so."""
        return self.counters.is_counted(job_id) and not self.is_retrain(project, job_id)

    @reaching_redis
    def is_lost(self, project: str, job_id: str) -> bool:
        """Whether Redis knows nothing of a retrain that has not ended: neither its job nor its end."""
        last = self.connection.get(key_of(project, "last"))
        return self.fetch(job_id) is None and (last is None or last.decode() != job_id)

    # -- follow

    @reaching_redis
    def live_retrain(self, project: str) -> JobStatus | None:
        """Status of the project's queued or running retrain, and the `recipe` that it is asked for."""
        job_id, recipe = self.connection.mget(key_of(project, "retrain"), key_of(project, "recipe"))
        job = self.fetch(job_id.decode()) if job_id is not None else None
        if job is None or job.get_status(refresh=False) not in UNFINISHED:
            return None
        return {**describe(job), "recipe": _recipe(recipe)}

    @reaching_redis
    def last_retrain(self, project: str) -> JobStatus | None:
        """Status of the project's retrain that ended last; None if there was none, or more than a week ago."""
        job_id = self.connection.get(key_of(project, "last"))
        job = self.fetch(job_id.decode()) if job_id is not None else None
        return None if job is None else describe(job)

    def live(self, project: str) -> Live | None:
        """The project's queued or running retrain, as policy asks for it."""
        status = self.live_retrain(project)
        if status is None:
            return None
        # one that is parked while its training goes on elsewhere has no start, but progress
        return Live(status["recipe"], waits=status["started_at"] is None and status["progress"] is None)

    @reaching_redis
    def job_status(self, job_id: str) -> JobStatus:
        """State of a job under label-studio-ml's keys, and its progress.

        Raises:
            JobNotFound: no such job, or it ended more than a week ago.
        """
        job = self.fetch(job_id)
        if job is None:
            raise JobNotFound(f"There is no job {job_id[:80]!r} (any more).")
        return describe(job)

    @reaching_redis
    def report(self, job_id: str, progress: Progress, curves: CurvesByName | None = None) -> None:
        """Publish a job's progress in its meta, and its curves, which stay until there are others."""
        job = self.fetch(job_id)
        if job is not None:
            job.meta["progress"] = progress
            if curves is not None:
                job.meta["curves"] = curves
            job.save_meta()  # type: ignore[no-untyped-call]

    # -- inside

    def _job(self, function: str, arguments: tuple[str, ...], reason: str, *, name: str = "") -> Job:
        kind = function.rpartition(".")[2]
        project = arguments[0] if arguments else ""
        parts = (kind, re.sub(r"[^A-Za-z0-9]+", "-", project), name or uuid4().hex[:8])
        return self.queue(QUEUE_OF[function]).create_job(
            function,
            args=arguments,
            job_id="-".join(part for part in parts if part),
            timeout=self._settings.job_timeout_s,
            result_ttl=RESULT_TTL_S,
            failure_ttl=RESULT_TTL_S,
            meta={"kind": kind, "project": project, "reason": reason},
            retry=Retry(max=MAX_RETRIES),
        )

    def _cancel(self, job: Job, pipe: Any) -> None:
        """Take a job off the queue that waits there, or for its time to run again."""
        queue = self.queue(job.origin)
        pipe.lrem(queue.key, 0, job.id)
        pipe.zrem(queue.scheduled_job_registry.key, job.id)
        job.set_status(JobState.CANCELED, pipeline=pipe)
        pipe.expire(Job.key_for(job.id), RESULT_TTL_S)

    def _enqueue(self, job: Job, pointer: str, pipe: Any) -> Enqueued:
        pipe.set(pointer, job.id)
        self.queue(job.origin).enqueue_job(job, pipeline=pipe)
        return Enqueued(job.id, joined=False)


def _recipe(value: bytes | None) -> Recipe:
    return "quick" if value == b"quick" else "full"
