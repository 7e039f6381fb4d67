"""`segloop doctor`: finds why nothing happens. Checks ask, and change nothing but a small file in the store."""

from segloop.doctor.examination import Examination
from segloop.doctor.findings import Finding, all_is_well, report

__all__ = ["Examination", "Finding", "all_is_well", "report"]
