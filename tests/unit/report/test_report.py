"""The report's sentences and figures, from facts made by hand."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from segloop.accept import AcceptState, Audited, Calibration, Rule
from segloop.ledger import TimeSaved
from segloop.policy import Changes, Thresholds
from segloop.registry import Champion, FileInfo, VersionInfo
from segloop.report import Counts, NextTask, Report, ReportFacts, report_of, thresholds_of
from segloop.settings import Settings
from segloop.versions import HeldOutBias, PromotionDecision
from segloop.web.ui.report_page import report_html
from tests.ledgers import entry, ledger

KEY = "29.1795383040"


def version(number: int, iou: dict[str, float | None], *, act: bool = True) -> VersionInfo:
    known = [value for value in iou.values() if value is not None]
    return VersionInfo(
        format=1,
        version=f"v{number}-0000000{number}",
        project=KEY,
        created_at="2026-11-22T12:00:00+00:00",
        arch="fpn_resnet50",
        output_stride=4,
        input_size=512,
        classes=tuple(iou),
        parent=None,
        snapshot="0" * 64,
        metrics={"miou": sum(known) / len(known), "iou": iou, "tasks": 4, "boundary_f1": 0.5},
        decision={"act": act, "reason": "It wins." if act else "The candidate does not win."},
        files={"model.safetensors": FileInfo(sha256="0" * 64, bytes=1)},
    )


FACTS = ReportFacts(
    KEY, "http://ls", counts=Counts("Streets", 10, 4), changes=Changes(30, 3), thresholds=Thresholds(100, 10)
)


def report(**changes: Any) -> Report:
    return report_of(replace(FACTS, **changes))


def champion(name: str) -> Champion:
    return Champion(name, 1, "2026-11-22T12:00:00+00:00", "It wins.", ())


def test_a_new_project_says_what_it_waits_for() -> None:
    empty = report(counts=Counts("Streets", 10, 0))
    assert (empty.project, empty.title, empty.may_train) == ("29", "Streets", False)
    assert empty.next_training.startswith("No task is labelled yet")
    assert report(counts=Counts("Streets", 10, 1)).next_training.startswith("Only one task is labelled")
    assert report().next_training == "A quick adaptation in 7 more changed tasks, a full retrain in 70 more."
    assert report(changes=Changes(120, 12)).next_training == "A quick adaptation is due, a full retrain is due."
    assert report(thresholds=Thresholds(0)).next_training == "No number of changes begins one: press Start training."
    assert report(is_training=True).next_training == "A training is queued or under way."
    assert report(changes=None).next_training == "Unknown: the queue cannot be asked."


def test_figures_are_those_of_the_served_version_once_people_worked_with_it() -> None:
    entries = [entry(1, 0, version="v1-00000001"), entry(2, 30, version="v2-00000002")]
    served = report(ledger=ledger(entries), champion=champion("v1-00000001"))
    assert served.now is not None
    assert (served.now.version, served.now.unchanged) == ("v1-00000001", 1.0)
    new = report(ledger=ledger(entries), champion=champion("v3-00000003"))
    assert new.now is not None
    assert new.now.version == "v2-00000002"
    assert report().now is None


@pytest.mark.parametrize(
    ("saved", "sentence"),
    [
        (TimeSaved(), "Unknown: set blind_share"),
        (TimeSaved(blind=7, needed=13), "Unknown yet: 13 more blind tasks are needed (7 are labelled)."),
        (
            TimeSaved(seconds=40, low=30.4, high=51, share=0.5, blind=20, needed=0),
            "A pre-label saves 40 s a task, 50 % of the time without one (95 % interval 30 to 51 s, 20 blind tasks).",
        ),
        (
            TimeSaved(seconds=-8, low=-12, high=-4, share=-0.2, blind=20, needed=0),
            "A pre-label costs 8 s a task, 20 % of the time without one (95 % interval -12 to -4 s, 20 blind tasks).",
        ),
        (
            TimeSaved(seconds=3, low=-2, high=8, share=0.1, blind=20, needed=0),
            "No difference is proven: 3 s a task (95 % interval -2 to 8 s, 20 blind tasks).",
        ),
    ],
)
def test_time_is_stated_with_its_interval_or_not_at_all(saved: TimeSaved, sentence: str) -> None:
    assert report(ledger=ledger([], saved=saved)).time.startswith(sentence)


def test_the_weakest_class_and_how_often_it_is_labelled() -> None:
    versions = [version(1, {"Sky": 0.9, "Road": 0.8, "Pole": 0.3, "Tree": None})]
    labels = {"Sky": 90, "Road": 80, "Pole": 12, "Tree": 85}
    found = report(versions=versions, champion=champion("v1-00000001"), ledger=ledger([], labels)).weakest
    assert found is not None
    assert (found.name, found.labels, found.fewer) == ("Pole", 12, 73)
    assert "12 annotations show it, 73 fewer" in found.sentence
    often = report(
        versions=versions, champion=champion("v1-00000001"), ledger=ledger([], {**labels, "Pole": 99})
    ).weakest
    assert often is not None
    assert "14 more than" in often.sentence
    without = report(versions=versions, champion=champion("v1-00000001")).weakest
    assert without is not None
    assert (without.labels, without.fewer) == (None, None)
    assert report(versions=versions).weakest is None


def test_why_the_newest_version_is_not_served() -> None:
    versions = [version(1, {"Sky": 0.9}), version(2, {"Sky": 0.8}, act=False)]
    made = report(versions=versions, champion=champion("v1-00000001"))
    assert made.rejected == "v2-00000002 was not promoted. The candidate does not win."
    assert [(one.version, one.miou, one.promoted) for one in made.scores] == [
        ("v1-00000001", 0.9, True),
        ("v2-00000002", 0.8, False),
    ]
    assert report(versions=versions[:1], champion=champion("v1-00000001")).rejected is None


def test_tasks_to_label_next_have_their_address_in_label_studio() -> None:
    [task] = report(next_tasks=[NextTask(812, 0.25)]).label_next
    assert (task.task, task.link) == (812, "http://ls/projects/29/data?task=812")


def test_the_page_is_one_file_that_loads_nothing_and_escapes_names() -> None:
    entries = [entry(1, 0, lead_time_s=30.0), entry(2, 30, lead_time_s=50.0)]
    made = report(
        counts=Counts("<script>alert(1)</script>", 10, 4),
        ledger=ledger(entries, {"Sky": 2, "Road": 1}),
        versions=[version(1, {"Sky": 0.9, "Road": 0.5}), version(2, {"Sky": 0.95, "Road": 0.7})],
        champion=champion("v2-00000002"),
        next_tasks=[NextTask(812, 0.25)],
    )
    page = report_html(made)
    assert "Did this help?" in page
    assert "<script" not in page
    assert "src=" not in page
    assert "50 %" in page
    assert "polyline" in page
    assert report_html(report(counts=None, changes=None))


def test_what_is_accepted_unseen_and_the_bias_of_held_out_labels_are_said() -> None:
    assert report().accepting is None, "it is off"
    made = ledger([entry(1, 0)]).model_copy(update={"accepted": 3})
    state = AcceptState(
        version="v7-00000007",
        groups={"": Calibration(threshold=0.9, labels=80, above=60, wrong=0, bound=0.0487)},
        audits={5: Audited(version="v7-00000007", since=""), 6: Audited(version="v7-00000007", since="", wrong=False)},
    )
    decided = {"act": True, "reason": "It wins.", "bias": HeldOutBias(blind=3, shown=9)}
    versions = [version(7, {"Sky": 0.5}).model_copy(update={"decision": PromotionDecision.model_validate(decided)})]
    found = report(ledger=made, accept=state, rule=Rule(0.05, 0.05, 0.95), versions=versions)
    assert found.accepting is not None
    promised = (
        "0 of 60 blind pre-labels were wrong, so that up to 4.87 % may be (5 % with 95 % confidence is promised)."
    )
    assert found.accepting.sentences == (
        f"v7-00000007 is accepted from a score of 0.900 on: {promised}",
        "Audit: 0 of 1 were wrong; 1 are to be labelled.",
        "Annotations that were accepted unseen, and are so still: 3.",
    )
    assert [one.link for one in found.accepting.to_audit] == ["http://ls/projects/29/data?task=5"]
    assert found.bias == (
        "By how much held-out labels favour the champion is unknown: 3 blind tasks, 9 drawn over its pre-labels."
    )
    page = report_html(found)
    assert "<b>Auto-accept:</b> v7-00000007 is accepted" in page
    assert "By how much held-out labels favour" in page
    off = report(ledger=made, accept=state)
    assert off.accepting is not None
    assert off.accepting.sentences[0] == "It is off.", "what was accepted is still there"


@pytest.mark.parametrize(
    ("weights", "served", "sentence"),
    [
        ("none", None, "A full retrain in 88 more."),
        ("none", "v1-00000001", "A quick adaptation is due, a full retrain in 88 more."),
        ("coco", None, "A quick adaptation is due, a full retrain in 88 more."),
    ],
)
def test_a_quick_adaptation_without_a_backbone_is_not_due(weights: str, served: str | None, sentence: str) -> None:
    thresholds = thresholds_of(Settings(weights=weights), champion(served) if served else None)
    assert report_of(ReportFacts(KEY, "", changes=Changes(12, 12), thresholds=thresholds)).next_training == sentence
