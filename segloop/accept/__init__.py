"""Auto-accept: pre-labels that become annotations unseen, by a bound that blind labels prove, and what becomes of them."""

from segloop.accept.calibration import (
    Calibration,
    Rule,
    Scored,
    calibrate,
    grid_of,
    is_broken,
    labels_needed,
    upper_bound,
)
from segloop.accept.state import AcceptState, Audited, Suspension, read_accept, write_accept

__all__ = [
    "AcceptState",
    "Audited",
    "Calibration",
    "Rule",
    "Scored",
    "Suspension",
    "calibrate",
    "grid_of",
    "is_broken",
    "labels_needed",
    "read_accept",
    "upper_bound",
    "write_accept",
]
