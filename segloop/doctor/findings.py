"""What a check finds."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from functools import partial
from typing import Final, Literal

Status = Literal["ok", "warning", "failure", "skipped"]

#: The format of `report`. It rises when a name in it changes its meaning or goes.
FORMAT: Final = 1


@dataclass(frozen=True)
class Finding:
    """What one check found.

    A failure means that something does not work; a warning, that it works worse than it could; skipped, that there was
    nothing to check, or that an earlier problem has to be solved first. `text` says what was found, `fix` what to do
    about it. The examination adds `check`, the check's stable name, and `project`, the id of the project it looked at.
    """

    status: Status
    text: str
    fix: str = ""
    check: str = ""
    project: int | None = None


#: Each is called with a text; the second and the third with a fix too.
ok = partial(Finding, "ok")
warning = partial(Finding, "warning")
failure = partial(Finding, "failure")
skipped = partial(Finding, "skipped")


def all_is_well(findings: list[Finding]) -> bool:
    """Whether nothing failed and nothing is worth a warning."""
    return all(finding.status in ("ok", "skipped") for finding in findings)


def report(findings: list[Finding]) -> dict[str, object]:
    """What `segloop doctor --json` prints."""
    return {"format": FORMAT, "ok": all_is_well(findings), "findings": list(map(asdict, findings))}
