"""Every metric of `/metrics`: its name, kind, labels and what it says. docs/operations.md has this table."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

Kind = Literal["counter", "gauge", "histogram", "info"]


@dataclass(frozen=True)
class Metric:
    """A metric as Prometheus sees it; a counter's samples end in `_total`, an info's in `_info`."""

    name: str
    kind: Kind
    labels: tuple[str, ...]
    help: str
    buckets: tuple[float, ...] = ()

    @property
    def series(self) -> str:
        """The name that a query asks for; a histogram's has `_bucket`, `_sum` or `_count` at its end."""
        return self.name + {"counter": "_total", "info": "_info"}.get(self.kind, "")


_REQUEST_S = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 100.0)
_STAGE_S = (0.0001, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0)
#: Of trainings, in seconds: from a quick adaptation to a day.
TRAINING_S: Final = (30.0, 60.0, 120.0, 300.0, 600.0, 1800.0, 3600.0, 2 * 3600.0, 4 * 3600.0, 8 * 3600.0, 24 * 3600.0)

#: What processes note (`segloop.telemetry.notes.note`), by the note's key. Summed over the processes of this server.
NOTED: Final[dict[str, Metric]] = {
    "request": Metric(
        "segloop_http_request_duration_seconds",
        "histogram",
        ("method", "route", "status"),
        "Requests by route and status, and how long they took.",
        _REQUEST_S,
    ),
    "stage": Metric(
        "segloop_stage_duration_seconds",
        "histogram",
        ("stage",),
        "Stages of a prediction: download, decode, network (waiting for its turn included), inference (one pass of the "
        "engine), encode.",
        _STAGE_S,
    ),
    "prediction": Metric("segloop_predictions", "counter", ("kind",), "Tasks that were asked for: batch or interactive."),
    "failure": Metric(
        "segloop_prediction_failures", "counter", ("reason",), "Tasks that got no prediction, by the kind of error."
    ),
    "cache": Metric(
        "segloop_cache_requests", "counter", ("cache", "result"), "Look-ups in the caches prediction and image: hit or miss."
    ),
    "swap": Metric("segloop_swaps", "counter", ("project",), "Served versions that were replaced while requests ran."),
    "swap_failure": Metric(
        "segloop_swap_failures", "counter", ("project",), "Promoted versions that could not be loaded; the old one went on."
    ),
}  # fmt: skip

#: Gauges of each process, taken every second. Summed over the processes of this server.
PROCESS: Final[dict[str, Metric]] = {
    "prediction_cache": Metric(
        "segloop_prediction_cache_bytes", "gauge", (), "Memory that the prediction caches hold, in bytes."
    ),
    "gpu": Metric(
        "segloop_gpu_memory_bytes", "gauge", ("state",), "GPU memory of the server's processes: allocated or reserved."
    ),
}

#: What is asked for at scrape time. Queue and retrains are the same from every host of one Redis: don't add them up.
SCRAPED: Final[dict[str, Metric]] = {
    "build": Metric("segloop_build", "info", ("version",), "The release of segloop."),
    "served": Metric("segloop_served_version", "info", ("project", "version"), "The version that answers for a project."),
    "ready": Metric("segloop_ready", "gauge", ("part",), "1 where a part (model, store, queue) is ready, else 0."),
    "image_cache": Metric("segloop_image_cache_bytes", "gauge", (), "Disk that the image cache holds, in bytes."),
    "gpu_free": Metric("segloop_gpu_free_bytes", "gauge", (), "Memory of the GPU that nobody uses, in bytes."),
    "jobs": Metric(
        "segloop_queue_jobs",
        "gauge",
        ("queue", "state"),
        "Jobs by state: queued, started, scheduled (waiting to be tried again, or for SageMaker), finished and failed (of a week).",
    ),
    "workers": Metric("segloop_queue_workers", "gauge", ("queue",), "Workers that listen to a queue."),
    "retrains": Metric(
        "segloop_retrains",
        "counter",
        ("recipe", "outcome"),
        "Retrains that ended: promoted, kept (the champion went on serving), skipped, stopped (by somebody), failed.",
    ),
    "training": Metric(
        "segloop_training_duration_seconds", "histogram", ("recipe",), "How long trainings took, without evaluation.", TRAINING_S
    ),
    "prelabelled": Metric(
        "segloop_prelabelled_tasks", "counter", ("outcome",), "Tasks that a refresh of predictions predicted, or failed to."
    ),
}  # fmt: skip

#: All of them.
METRICS: Final = (*NOTED.values(), *PROCESS.values(), *SCRAPED.values())
