"""The ledger: what people did with pre-labels, so that it can be said whether they help."""

from segloop.ledger.effort import MOVED_PX, ClassEffort, Effort, effort_of
from segloop.ledger.figures import AnnotatorTime, ClassFigures, Entry, VersionFigures, version_figures, winsorised
from segloop.ledger.ledger import BlindLabel, Ledger, LedgerInputs, Origins, blind_labels, origins, update_ledger
from segloop.ledger.stored import BlindShares, read_ledger, write_ledger
from segloop.ledger.time_saved import LEAST_BLIND, TimeSaved, time_saved

__all__ = [
    "LEAST_BLIND",
    "MOVED_PX",
    "AnnotatorTime",
    "BlindLabel",
    "BlindShares",
    "ClassEffort",
    "ClassFigures",
    "Effort",
    "Entry",
    "Ledger",
    "LedgerInputs",
    "Origins",
    "TimeSaved",
    "VersionFigures",
    "blind_labels",
    "effort_of",
    "origins",
    "read_ledger",
    "time_saved",
    "update_ledger",
    "version_figures",
    "winsorised",
    "write_ledger",
]
