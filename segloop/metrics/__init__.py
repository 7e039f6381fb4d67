"""Metrics: streaming counts over class maps, and the numbers a version is judged by."""

from segloop.metrics.bootstrap import Interval, PairedBootstrap, miou_of, paired_bootstrap, unpaired_bootstrap
from segloop.metrics.boundary import BoundaryScore, moved_boundary
from segloop.metrics.calibration import CalibrationError, fit_temperature
from segloop.metrics.confusion import ConfusionMatrix

__all__ = [
    "BoundaryScore",
    "CalibrationError",
    "ConfusionMatrix",
    "Interval",
    "PairedBootstrap",
    "fit_temperature",
    "miou_of",
    "moved_boundary",
    "paired_bootstrap",
    "unpaired_bootstrap",
]
