"""The ledger of a mirror: annotations joined to what their annotators saw, each looked at once."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from segloop.blind import is_blind
from segloop.dataset import Mirror
from segloop.formats import SUSPECT_MODEL
from segloop.ledger import Ledger, LedgerInputs, update_ledger
from tests.labelling import CONFIG, EARLIER, PROJECT, annotation, half, task

SKY, ROAD = half("Sky"), half("Road", right=True)


@pytest.fixture
def mirror(tmp_path: Path) -> Iterator[Mirror]:
    with Mirror(tmp_path / "mirror") as mirror:
        yield mirror


def put(mirror: Mirror, *tasks: dict[str, Any]) -> None:
    with mirror.writing():
        mirror.put(tasks, mirror.revision + 1)


def labelled(
    number: int, seen: list[dict[str, Any]] | None, drawn: list[dict[str, Any]], **fields: Any
) -> dict[str, Any]:
    """A task with an annotation that began as a prediction of these regions; None: from scratch."""
    parent = None if seen is None else 1000 + number
    known = {"completed_by": 7, "lead_time": 10.0, "created_at": EARLIER, "parent_prediction": parent, **fields}
    predictions = [] if seen is None else [{"id": parent, "model_version": "v1", "created_at": EARLIER, "result": seen}]
    return {**task(number, annotation(100 + number, *drawn, **known)), "predictions": predictions}


def ledger(mirror: Mirror, share: float = 0.0, limit_s: float = 60.0, config: str = CONFIG) -> Ledger:
    return update_ledger(mirror, LedgerInputs(PROJECT, config, 10**6, lambda moment: share, limit_s))


def test_annotations_are_joined_to_what_their_annotators_saw(mirror: Mirror) -> None:
    put(
        mirror,
        labelled(1, [SKY, ROAD], [SKY, ROAD]),
        labelled(2, [SKY], [SKY, ROAD]),
        labelled(3, None, [SKY]),
        labelled(4, [SKY], [], was_cancelled=True),
    )
    found = ledger(mirror)
    assert (found.annotations, found.pre_labelled, found.scratch, found.blind, found.pending) == (3, 2, 1, 0, 0)
    assert found.labels == {"Sky": 3, "Road": 2}
    (version,) = found.versions
    assert (version.version, version.annotations, version.unchanged, version.regions_added) == ("v1", 2, 0.5, 1)
    assert version.changed_share == 0.25, "half of one of two images"
    assert Ledger.model_validate_json(found.model_dump_json()) == found


def test_each_annotation_is_looked_at_once(mirror: Mirror, monkeypatch: pytest.MonkeyPatch) -> None:
    put(mirror, *(labelled(number, [SKY], [SKY]) for number in range(1, 6)))
    assert ledger(mirror, limit_s=-1).pending == 5
    before = ledger(mirror)
    assert (before.pending, before.pre_labelled) == (0, 5)
    seen: list[int] = []
    get = mirror.get
    monkeypatch.setattr(mirror, "get", lambda number: (seen.append(number), get(number))[1])
    put(mirror, labelled(2, [SKY], [ROAD]))
    after = ledger(mirror)
    assert seen == [2]
    assert after.versions[0].unchanged == 0.8
    ledger(mirror, config=CONFIG.replace("Road", "Street"))
    assert seen == [2, 1, 2, 3, 4, 5], "other classes, another look"


def test_hidden_pre_labels_are_told_from_predictions_of_nothing(mirror: Mirror) -> None:
    tasks = range(1, 41)
    put(mirror, *(labelled(number, [], [SKY]) for number in tasks))
    blind = sum(is_blind(PROJECT, number, 0.5) for number in tasks)
    assert 0 < blind < len(tasks)
    found = ledger(mirror, share=0.5)
    assert (found.blind, found.pre_labelled) == (blind, len(tasks) - blind)


def test_a_prediction_that_is_gone_is_no_work_from_scratch(mirror: Mirror) -> None:
    put(mirror, {**labelled(1, [SKY], [SKY]), "predictions": []})
    found = ledger(mirror)
    assert (found.annotations, found.pre_labelled, found.scratch, found.unreadable) == (1, 0, 0, 1)
    with mirror.writing():
        mirror.records.keep_prediction(1, {"id": 1001, "model_version": "v1", "result": [SKY]})
    found = ledger(mirror)
    assert (found.pre_labelled, found.unreadable) == (1, 0), "it was fetched later"


def test_a_copy_of_a_prediction_that_shows_suspected_labels_did_not_begin_with_a_pre_label(mirror: Mirror) -> None:
    shown = labelled(1, [SKY], [SKY, ROAD])
    shown["predictions"][0]["model_version"] = SUSPECT_MODEL
    put(mirror, shown, labelled(2, [SKY], [SKY]))
    found = ledger(mirror)
    assert (found.annotations, found.pre_labelled, found.scratch, found.unreadable) == (2, 1, 1, 0)
    assert [version.version for version in found.versions] == ["v1"]


@pytest.mark.parametrize(
    "result", [[7], [{"type": "brushlabels"}], [{**SKY, "value": None}], [{**SKY, "to_name": "x"}]]
)
def test_one_annotation_that_makes_no_sense_costs_no_other(mirror: Mirror, result: list[Any]) -> None:
    put(mirror, labelled(1, [SKY], result), labelled(2, result, [SKY]), labelled(3, [SKY], [SKY]))
    found = ledger(mirror)
    assert found.annotations == 3
    assert found.versions[0].annotations >= 1
    assert found.pre_labelled + found.unreadable == 3
