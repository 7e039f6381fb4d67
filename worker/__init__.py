"""The rq worker: queue, jobs, and where training runs."""
