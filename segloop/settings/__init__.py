"""Settings, and this process's own environment, which nothing else reads."""

from segloop.settings.process import (
    Place,
    environment,
    forget_metrics,
    metrics_folder,
    prefer_stable_span_names,
    share_cores,
    share_metrics,
    torchrun_place,
    trace_exporter,
    update_environ,
)
from segloop.settings.settings import PROJECT_SETTINGS, Settings, is_loopback, load_settings, misspelt_settings

__all__ = [
    "PROJECT_SETTINGS",
    "Place",
    "Settings",
    "environment",
    "forget_metrics",
    "is_loopback",
    "load_settings",
    "metrics_folder",
    "misspelt_settings",
    "prefer_stable_span_names",
    "share_cores",
    "share_metrics",
    "torchrun_place",
    "trace_exporter",
    "update_environ",
]
