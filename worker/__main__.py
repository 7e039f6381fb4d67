"""`python -m worker [retrain] [prelabel]`: a worker for the queues named, or for both."""

from __future__ import annotations

import contextlib
import logging
import signal
import sys
import time
from collections.abc import Sequence

from redis.exceptions import RedisError
from rq.exceptions import StopRequested

from segloop.errors import QueueUnavailable, SegloopError, SettingsError
from segloop.processes import data_folder
from segloop.queue import PRELABEL_QUEUE, RETRAIN_QUEUE, Jobs
from segloop.settings import Settings, environment, load_settings, misspelt_settings, share_cores, update_environ
from segloop.telemetry.logs import configure_logging
from worker.worker import Worker

logger = logging.getLogger("worker")

#: The queues that a worker is started for; each listens to that of reconciliation besides.
QUEUES = (RETRAIN_QUEUE, PRELABEL_QUEUE)
#: How long a worker waits for Redis when it starts, in seconds.
REDIS_PATIENCE_S = 60.0


def run(settings: Settings, queues: Sequence[str] = QUEUES, warnings: Sequence[str] = ()) -> None:
    """Work until SIGINT or SIGTERM. `warnings` are logged first.

    Raises:
        QueueUnavailable: Redis stays away for a minute.
        SettingsError: data_dir cannot be used.
    """
    data_folder(settings.data_dir.absolute())
    share_cores()
    configure_logging(settings.log_level, settings.log_format, settings.secrets)
    for warning in warnings:
        logger.warning("%s", warning)
    # what an env file sets counts for the processes of jobs and trainings too; a progress bar is no JSON
    update_environ(environment(settings) | ({"TQDM_DISABLE": "1"} if settings.log_format == "json" else {}))
    jobs = Jobs.open(settings, timeout_s=None)
    try:
        while True:
            # until a worker handles them: while it starts, and while Redis is away
            for signum in (signal.SIGINT, signal.SIGTERM):
                signal.signal(signum, signal.default_int_handler)
            if _work(_worker(settings, queues, jobs)):
                return
            time.sleep(1)
    except KeyboardInterrupt:
        logger.info("stopped before there was a worker")


def _work(worker: Worker) -> bool:
    """Let a worker work; whether it was to stop, or else lost Redis."""
    try:
        worker.work()
    except (KeyboardInterrupt, StopRequested):
        logger.info("worker %s: stopped while it started", worker.name)
        worker.is_stopping = True
        with contextlib.suppress(RedisError):
            worker.teardown()
    except RedisError as error:
        logger.warning("worker %s: Redis went away: %s", worker.name, error)
    finally:
        worker.close()
    return worker.is_stopping


def _worker(settings: Settings, queues: Sequence[str], jobs: Jobs) -> Worker:
    deadline = time.monotonic() + REDIS_PATIENCE_S
    while True:
        try:
            return Worker(settings, queues, jobs)
        except (RedisError, QueueUnavailable) as error:
            if time.monotonic() > deadline:
                raise QueueUnavailable(f"Redis stays away: {error}") from error
            time.sleep(0.5)


def main(arguments: Sequence[str]) -> int:
    """Exit status of `python -m worker`."""
    try:
        run(load_settings(), [_queue(name) for name in arguments] or QUEUES, misspelt_settings())
    except SegloopError as error:
        sys.stderr.write(f"worker: {error}\n")
        return 1
    return 0


def _queue(name: str) -> str:
    full = name if name.startswith("segloop-") else f"segloop-{name}"
    if full not in QUEUES:
        raise SettingsError(f"There is no queue {name!r}; the queues are retrain and prelabel.")
    return full


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
