"""What this process noted, given to prometheus-client: at every scrape, and every second in a server process.

A server's processes share it by files in the folder PROMETHEUS_MULTIPROC_DIR (prometheus-client's multiprocess mode),
which the server sets. The library is imported with the first object here: a start does without it.
"""

from __future__ import annotations

import contextlib
import logging
import os
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from segloop.settings import metrics_folder
from segloop.telemetry.notes import keep_notes
from segloop.web.metric_table import NOTED, PROCESS

if TYPE_CHECKING:
    from prometheus_client.core import Metric as Family

logger = logging.getLogger(__name__)

#: How often notes are taken, and when for the first time: after a start, requests go first.
_TICK_S: Final = 1.0
#: Notes that are taken at a go; in between, threads that answer requests get their turn.
_SLICE: Final = 50
_PAUSE_S: Final = 0.0005

#: Values of the metrics in PROCESS, by key and label.
Gauges = Callable[[], Mapping[tuple[str, tuple[str, ...]], float]]


class Exporter:
    """This process's metrics. Thread-safe."""

    def __init__(self) -> None:
        import prometheus_client

        prometheus_client.disable_created_metrics()  # type: ignore[no-untyped-call]
        if folder := metrics_folder():
            _forget_the_dead(Path(folder))
        self._notes = keep_notes()
        self._registry = prometheus_client.CollectorRegistry()
        self._families: dict[str, Any] = {}
        for key, metric in (NOTED | PROCESS).items():
            own: dict[str, Any] = {"registry": self._registry}
            if metric.kind == "histogram":
                own["buckets"] = metric.buckets
            elif metric.kind == "gauge":
                own["multiprocess_mode"] = "livesum"
            make = getattr(prometheus_client, metric.kind.capitalize())
            self._families[key] = make(metric.name, metric.help, metric.labels, **own)
        self._series: dict[tuple[str, tuple[str, ...]], Any] = {}
        self._taking = threading.Lock()

    def take(self, gauges: Gauges | None = None) -> None:
        """Give prometheus-client what was noted until now, and this process's gauges."""
        with self._taking:
            for taken in range(len(self._notes)):
                if taken % _SLICE == _SLICE - 1:
                    time.sleep(_PAUSE_S)
                try:
                    key, labels, value = self._notes.popleft()
                except IndexError:
                    break
                series = self._of(key, labels)
                if NOTED[key].kind == "histogram":
                    series.observe(value)
                else:
                    series.inc(value)
            for (key, labels), value in (gauges() if gauges else {}).items():
                self._of(key, labels).set(value)

    def collect(self, folder: str | None) -> Iterable[Family]:
        """What was noted by this process, or by all that share a folder."""
        if folder is None:
            return self._registry.collect()
        from prometheus_client import CollectorRegistry
        from prometheus_client.multiprocess import MultiProcessCollector

        return MultiProcessCollector(CollectorRegistry(), folder).collect()  # type: ignore[no-untyped-call, no-any-return]

    def _of(self, key: str, labels: tuple[str, ...]) -> Any:
        series = self._series.get((key, labels))
        if series is None:
            family = self._families[key]
            series = self._series[key, labels] = family.labels(*labels) if labels else family
        return series


@cache
def exporter() -> Exporter:
    """The exporter of this process: notes are the process's, whichever application makes them."""
    return Exporter()


def start_exporting(gauges: Gauges) -> None:
    """Take notes every second from now on, in a thread."""
    keep_notes()

    def go_on() -> None:
        while True:
            time.sleep(_TICK_S)
            try:
                exporter().take(gauges)
            except Exception:
                logger.exception("metrics were lost; the next are taken again")

    threading.Thread(target=go_on, name="metrics", daemon=True).start()


def _forget_the_dead(folder: Path) -> None:
    """Remove the gauges of processes that ended without a trace; what they counted stays.

    A process that starts does so: it may stand for one that was killed.
    """
    from prometheus_client.multiprocess import mark_process_dead

    for pid in {int(path.stem.rpartition("_")[2]) for path in folder.glob("gauge_live*.db")}:
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            with contextlib.suppress(FileNotFoundError):  # another process removed it at the same time
                mark_process_dead(pid, str(folder))  # type: ignore[no-untyped-call]
