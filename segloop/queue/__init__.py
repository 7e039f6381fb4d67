"""The queue: what may be enqueued, how far it is, and what becomes of the jobs of dead workers. Imports no torch.

Redis holds, besides rq's own keys, per project: the live job of each kind (`segloop:{project}:retrain`,
`:prelabel`, `:reconcile`), the recipe of the retrain (`:recipe`), the tasks changed since the last full retrain's snapshot
(`:changes`) and since the last one of any recipe (`:recent`), those a running retrain has taken (`:taken`),
whether someone asked for one more full run (`:rerun`), which retrain is asked to stop (`:stop`), and which ended
last (`:last`); and for all of them when each is reconciled next (`segloop:reconcile-due`). Every decision
upon them is one transaction, so that a press and the end of a run never miss each other. Needs Redis 6.2 or any Valkey.
"""

from segloop.queue.adopted import Adopted, remember, route_reason, take_up
from segloop.queue.counters import Outcome, Tallies
from segloop.queue.jobs import Enqueued, Jobs
from segloop.queue.names import (
    MAX_RETRIES,
    OUTAGES,
    PRELABEL_QUEUE,
    QUEUES,
    RECONCILE_QUEUE,
    RETRAIN_QUEUE,
    JobTimeout,
    Parked,
)
from segloop.queue.worker_locks import WorkerLocks

__all__ = [
    "MAX_RETRIES",
    "OUTAGES",
    "PRELABEL_QUEUE",
    "QUEUES",
    "RECONCILE_QUEUE",
    "RETRAIN_QUEUE",
    "Adopted",
    "Enqueued",
    "JobTimeout",
    "Jobs",
    "Outcome",
    "Parked",
    "Tallies",
    "WorkerLocks",
    "remember",
    "route_reason",
    "take_up",
]
