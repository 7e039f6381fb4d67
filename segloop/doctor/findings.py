"""What a check finds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

Status = Literal["ok", "warning", "failure", "skipped"]

#: The format of a `Report` in JSON. It rises when a name in it changes its meaning or goes.
FORMAT: Final = 1


@dataclass(frozen=True)
class Finding:
    """What one check found.

    `check` is its stable name, `project` the id of the project it looked at. A failure means that something does not
    work; a warning, that it works worse than it could; skipped, that there was nothing to check, or that an earlier
    problem has to be solved first. `text` says what was found, `fix` what to do about it.
    """

    check: str
    status: Status
    text: str
    fix: str = ""
    project: int | None = None


def ok(check: str, text: str) -> Finding:
    """A check without a problem; `text` says what it found."""
    return Finding(check, "ok", text)


def warning(check: str, text: str, fix: str) -> Finding:
    """Something works worse than it could."""
    return Finding(check, "warning", text, fix)


def failure(check: str, text: str, fix: str) -> Finding:
    """Something does not work."""
    return Finding(check, "failure", text, fix)


def skipped(check: str, text: str) -> Finding:
    """A check that had nothing to check, or that needs another problem solved first."""
    return Finding(check, "skipped", text)


def all_is_well(findings: list[Finding]) -> bool:
    """Whether nothing failed and nothing is worth a warning."""
    return all(finding.status in ("ok", "skipped") for finding in findings)


@dataclass(frozen=True)
class Report:
    """What `segloop doctor --json` prints."""

    format: int
    ok: bool
    findings: list[Finding]


def report(findings: list[Finding]) -> Report:
    """The findings as a report."""
    return Report(FORMAT, all_is_well(findings), findings)
