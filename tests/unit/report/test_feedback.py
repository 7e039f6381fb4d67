"""The line that Label Studio shows of a training."""

from __future__ import annotations

from dataclasses import replace

import pytest

from segloop.policy import Changes, Thresholds
from segloop.progress import Progress
from segloop.registry import Champion, VersionInfo
from segloop.report import ReportFacts, report_of
from segloop.report.feedback import outcome_line, progress_line, with_line
from tests.ledgers import entry, ledger
from tests.toys import toy_info

PAGE = "http://segloop/ui/projects/29"
FACTS = ReportFacts("29.1795383040", "", changes=Changes(88, 88), thresholds=Thresholds(100))


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("", "segloop: new"),
        ("Streets of Bonn.", "Streets of Bonn.\nsegloop: new"),
        ("Streets.\nsegloop: old", "Streets.\nsegloop: new"),
        ("Streets.\nsegloop: old\nAsk Ann.", "Streets.\nAsk Ann.\nsegloop: new"),
        ("segloop: old", "segloop: new"),
    ],
)
def test_people_keep_their_own_description(before: str, after: str) -> None:
    assert with_line(before, "new") == after
    assert with_line(after, "new") == after


@pytest.mark.parametrize(
    ("progress", "line"),
    [
        (None, "Training is queued."),
        ({"phase": "snapshot"}, "Training collects annotations."),
        ({"phase": "training"}, "Training runs."),
        ({"phase": "training", "step": 49, "steps": 100}, "Training runs (40 %)."),
        ({"phase": "evaluating", "step": 3, "steps": 4}, "Training compares."),
    ],
)
def test_a_live_training_says_how_far_it_is(progress: Progress | None, line: str) -> None:
    assert progress_line(progress, PAGE) == f"{line} {PAGE}"


def version(number: int, *, act: bool = True) -> VersionInfo:
    decision = {"act": act, "reason": "It wins." if act else "The candidate does not win."}
    return toy_info(version=f"v{number}-0000000{number}", decision=decision)


def test_what_became_of_a_training() -> None:
    entries = [entry(number, 0 if number < 3 else 9) for number in range(5)]
    promoted = replace(FACTS, versions=[version(7)], champion=Champion("v7-00000007", 1, "", "It wins.", ()))
    promoted = replace(promoted, ledger=ledger(entries))
    assert outcome_line(report_of(promoted), None, PAGE) == (
        f"v7-00000007 was promoted. {PAGE} Accepted unchanged: 60 % of 5 pre-labels of v1. "
        "Next: A full retrain in 12 more."
    )
    lost = replace(promoted, versions=[version(8, act=False)], ledger=None)
    assert outcome_line(report_of(lost), None, PAGE).startswith(
        f"v8-00000008 was not promoted. The candidate does not win. {PAGE} Next: "
    )
    failed = outcome_line(report_of(FACTS), "Too little is labelled.\nLabel more.", "")
    assert failed.startswith("The last training ended without a version: Too little is labelled. Label more. Next: ")
