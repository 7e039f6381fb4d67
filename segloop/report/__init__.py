"""Reports: whether segloop helps, for the status page and `segloop report`."""

from segloop.report.report import (
    LEAST_LABELLED,
    Report,
    ReportFacts,
    cannot_train,
    latest_names,
    report_of,
    thresholds_of,
)
from segloop.report.studio import STUDIO_KEPT_S, STUDIO_TIMEOUT_S, Counts, NextTask, Studio

__all__ = [
    "LEAST_LABELLED",
    "STUDIO_KEPT_S",
    "STUDIO_TIMEOUT_S",
    "Counts",
    "NextTask",
    "Report",
    "ReportFacts",
    "Studio",
    "cannot_train",
    "latest_names",
    "report_of",
    "thresholds_of",
]
