"""What the mirror keeps of the labelling itself."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from segloop.dataset import Mirror, sync
from segloop.dataset.records import LabellingRecord
from tests.labelling import EARLIER, Studio, annotation, half, task

PROJECT_ID = 29
REGIONS = [half("Sky")]
WHEN = "2026-11-22T11:00:00+00:00"


@pytest.fixture
def mirror(tmp_path: Path) -> Iterator[Mirror]:
    with Mirror(tmp_path / "mirror") as mirror:
        yield mirror


def prediction(number: int, version: str = "v1") -> dict[str, Any]:
    return {"id": number, "model_version": version, "created_at": EARLIER, "result": REGIONS, "score": 0.5}


def put(mirror: Mirror, *tasks: dict[str, Any]) -> int:
    with mirror.writing():
        return mirror.put(tasks, mirror.revision + 1)


def told(number: int, **fields: Any) -> dict[str, Any]:
    """An annotation with all that Label Studio says of it."""
    known = {
        "completed_by": 7,
        "lead_time": 12.5,
        "created_at": WHEN,
        "draft_created_at": None,
        "parent_prediction": None,
    }
    return annotation(number, *REGIONS, **{**known, **fields})


def test_the_prediction_that_an_annotation_began_as_is_kept(mirror: Mirror) -> None:
    one = {
        **task(1, told(11, parent_prediction=5, draft_created_at=WHEN)),
        "predictions": [prediction(5), prediction(6)],
    }
    assert put(mirror, one) == 1
    assert mirror.records.of(1) == [LabellingRecord(11, 1, 7, 12.5, WHEN, WHEN, 5)]
    seen = mirror.records.prediction(5)
    assert seen is not None
    assert (seen.version, seen.result, seen.task) == ("v1", REGIONS, 1)
    assert mirror.records.prediction(6) is None, "nobody began with it"
    assert mirror.records.missing() == []


def test_it_is_kept_after_label_studio_deleted_it(mirror: Mirror) -> None:
    put(mirror, {**task(1, told(11, parent_prediction=5)), "predictions": [prediction(5)]})
    assert put(mirror, {**task(1, told(11, lead_time=20.0)), "predictions": []}) == 0, "no change of the training set"
    assert mirror.records.of(1) == [LabellingRecord(11, 1, 7, 20.0, WHEN, None, 5)]
    assert mirror.records.prediction(5) is not None


def test_a_person_is_an_id_and_nothing_else(mirror: Mirror) -> None:
    who = {"id": 7, "email": "ann@example.org", "first_name": "Ann"}
    put(mirror, task(1, told(11, completed_by=who, created_username="Ann, 7")))
    assert mirror.records.of(1)[0].annotator == 7
    mirror.db.execute("VACUUM")
    assert b"Ann" not in (mirror.folder / "tasks.sqlite").read_bytes().replace(b"CREATE", b"")
    assert b"ann@" not in (mirror.folder / "tasks.sqlite").read_bytes()


def test_what_makes_no_sense_is_not_kept(mirror: Mirror) -> None:
    put(mirror, task(1, told(11, lead_time=-1, created_at="yesterday", completed_by=None, parent_prediction=True)))
    assert mirror.records.of(1) == [LabellingRecord(11, 1, None, None, None, None, None)]


def test_records_go_with_their_annotations_and_tasks(mirror: Mirror) -> None:
    both = {**task(1, told(11, parent_prediction=5), told(12)), "predictions": [prediction(5)]}
    put(mirror, both, task(2, told(21)))
    put(mirror, task(1, told(12)))
    assert [one.annotation for one in mirror.records.of(1)] == [12]
    assert mirror.records.prediction(5) is None
    with mirror.writing():
        mirror.drop([2], 9)
    assert mirror.records.of(2) == []


def test_a_copy_from_the_mirror_itself_loses_nothing(mirror: Mirror) -> None:
    put(mirror, task(1, told(11, parent_prediction=5)))
    assert mirror.records.missing() == [(1, 5)]
    known = mirror.get(1)
    assert known is not None
    put(mirror, {"id": 1, "data": known["data"], "annotations": [*known["annotations"], told(12)]})
    assert [(one.annotation, one.prediction) for one in mirror.records.of(1)] == [(11, 5), (12, None)]


def test_a_mirror_of_an_earlier_release_is_read_once_more(tmp_path: Path) -> None:
    studio = Studio()
    studio.submit(1, half("Sky"), completed_by=7, lead_time=3.0)
    with Mirror(tmp_path / "mirror") as mirror:
        sync(mirror, studio, PROJECT_ID)  # type: ignore[arg-type]
        for table in ("records", "predictions"):
            mirror.db.execute(f"DROP TABLE {table}")
    with Mirror(tmp_path / "mirror") as mirror:
        assert sync(mirror, studio, PROJECT_ID).read == 1  # type: ignore[arg-type]
        assert mirror.records.of(1)[0].lead_time_s == 3.0
        assert mirror.changed_after(1) == [], "no annotation changed"
