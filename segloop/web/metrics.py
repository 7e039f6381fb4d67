"""What `/metrics` adds at scrape time to what processes noted: versions, readiness, the queue, retrains, caches."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from segloop import __version__
from segloop.errors import SegloopError
from segloop.serving import gpu_memory
from segloop.settings import metrics_folder
from segloop.telemetry.notes import keep_notes
from segloop.web.exporter import exporter
from segloop.web.metric_table import SCRAPED, TRAINING_S
from segloop.web.readiness import READY, Readiness

if TYPE_CHECKING:
    from prometheus_client.core import Metric as Family

    from segloop.backend import Backend
    from segloop.queue import Tallies
    from segloop.settings import Settings

logger = logging.getLogger(__name__)


class Metrics:
    """The metrics of a server."""

    def __init__(self, backend: Backend, settings: Settings, readiness: Readiness) -> None:
        keep_notes()
        self._backend = backend
        self._settings = settings
        self._readiness = readiness

    def text(self, accept: str) -> tuple[bytes, str]:
        """The metrics in the form that the header Accept asks for, and its content type."""
        from prometheus_client import CollectorRegistry
        from prometheus_client.exposition import choose_encoder

        exporter().take(lambda: process_gauges(self._backend))
        registry = CollectorRegistry()
        registry.register(self)
        encode, content_type = choose_encoder(accept)
        return encode(registry), content_type

    def collect(self) -> Iterable[Family]:
        """What was noted, and what is asked for at a scrape; Redis and the store are asked in bounded time."""
        yield from exporter().collect(metrics_folder())
        yield _family("build", [((__version__,), 1)])
        yield _family("served", [(pair, 1) for pair in self._backend.models.served().items()])
        state = self._readiness.state()
        yield _family("ready", [((part,), float(text == READY)) for part, text in state.items()])
        yield _family("image_cache", [((), self._image_cache())])
        if "free" in (gpu := gpu_memory()):
            yield _family("gpu_free", [((), gpu["free"])])
        if state["queue"] == READY:
            try:
                yield from self._queue()
            except SegloopError as error:
                logger.warning("no metrics of the queue: %s", error)

    def _queue(self) -> Iterable[Family]:
        queue = self._backend.jobs()
        depths = queue.counters.depths()
        yield _family("jobs", [((d.queue, state), n) for d in depths for state, n in d.jobs.items()])
        yield _family("workers", [((d.queue,), d.workers) for d in depths])
        tallies = queue.counters.tallies(TRAINING_S)
        yield _family("retrains", tallies.retrains.items())
        yield _family("prelabelled", [((outcome,), n) for outcome, n in tallies.prelabelled.items()])
        yield _trainings(tallies)

    def _image_cache(self) -> float:
        from segloop.images.cache import DiskCache

        return DiskCache(self._settings.data_dir / "cache" / "images", self._settings.image_cache_bytes).nbytes


def process_gauges(backend: Backend) -> Mapping[tuple[str, tuple[str, ...]], float]:
    """The gauges of this process: values by key (`metric_table.PROCESS`) and labels."""
    gpu = gpu_memory()
    return {
        ("prediction_cache", ()): backend.models.cache_nbytes,
        **{("gpu", (state,)): gpu[state] for state in ("allocated", "reserved") if state in gpu},
    }


def _family(key: str, samples: Iterable[tuple[tuple[str, ...], float]]) -> Family:
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily

    metric = SCRAPED[key]
    if metric.kind == "info":
        info = InfoMetricFamily(metric.name, metric.help)
        for labels, _ in samples:
            info.add_metric([], dict(zip(metric.labels, labels, strict=True)))
        return info
    family = (CounterMetricFamily if metric.kind == "counter" else GaugeMetricFamily)(
        metric.name, metric.help, labels=metric.labels
    )
    for labels, value in samples:
        family.add_metric(labels, value)
    return family


def _trainings(tallies: Tallies) -> Family:
    from prometheus_client.core import HistogramMetricFamily

    metric = SCRAPED["training"]
    family = HistogramMetricFamily(metric.name, metric.help, labels=metric.labels)
    for recipe, training in tallies.trainings.items():
        buckets = [(str(bound), float(n)) for bound, n in zip((*metric.buckets, "+Inf"), training.at_most, strict=True)]
        family.add_metric([recipe], buckets, training.seconds)
    return family
