"""What the functions of aws/webhook read of Label Studio's events, and of what it saves in the target bucket."""

from __future__ import annotations

import io
import json
from typing import Any

import pytest

from events import BadEvent, Event, parse_event, parse_saved, project_id, saved_project
from saved import NotConnected, Saved
from segloop.accepted import mark_of
from tests.aws.managed import PROJECT, bulk, created, recorded

Json = dict[str, Any]


def parse(event: Any, *, count_updates: bool = False) -> Event:
    return parse_event(json.dumps(event).encode(), count_updates=count_updates)


# -- events


def test_annotations_count_by_their_ids() -> None:
    assert parse(created(7)) == Event("ANNOTATION_CREATED", PROJECT, ("7",))
    assert parse(bulk([3, 1, 3])).annotations == ("3", "1")
    assert project_id(PROJECT) == "29"


def test_a_skip_does_not_count() -> None:
    assert parse(recorded("13_webhook_skip.json")).annotations == ()
    assert parse(bulk([3, 1], was_cancelled=True)).annotations == ()


def test_each_save_counts_where_updates_do() -> None:
    update = recorded("11_webhook_ANNOTATION_UPDATED.json")
    assert parse(update).annotations == ()
    assert parse(update, count_updates=True).annotations == ("1@2026-11-22T21:30:42.680770Z",)
    # a skip that was annotated after all
    update["annotation"]["was_cancelled"] = True
    assert parse(update, count_updates=True).annotations == ()


def test_new_tasks_are_named_and_others_change_nothing() -> None:
    assert parse(recorded("16_webhook_TASKS_CREATED.json")).tasks == (79,)
    for name in ("12_webhook_ANNOTATIONS_DELETED", "15_webhook_PROJECT_UPDATED", "17_webhook_TASKS_DELETED"):
        event = parse(recorded(f"{name}.json"), count_updates=True)
        assert (event.annotations, event.tasks) == ((), ())


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"action": None}, "action is missing"),
        ({"action": "annotation created"}, "expected the name of an event"),
        ({"project": 29}, "project is 29"),
        ({"project": {"id": True}}, "project.id is True"),
        ({"project": {"id": 10**18}}, "project.id is 1000000000000000000"),
        ({"project": {"id": 29, "created_at": "yesterday"}}, "expected a time in ISO 8601"),
        ({"project": {"id": 29, "created_at": 5}}, "expected a time in ISO 8601"),
        ({"annotation": None}, "annotation is missing"),
        ({"annotation": [None]}, "annotation is missing"),
        ({"annotation": {"id": -1}}, "annotation.id is -1"),
    ],
)
def test_a_bad_field_is_named(change: Json, reason: str) -> None:
    with pytest.raises(BadEvent, match=reason):
        parse({**created(1), **change})


@pytest.mark.parametrize("body", [b"", b"\xff", b"null", b"[" * 100_000])
def test_what_is_not_json_is_refused(body: bytes) -> None:
    with pytest.raises(BadEvent):
        parse_event(body, count_updates=False)


def test_an_update_needs_its_time() -> None:
    update = recorded("11_webhook_ANNOTATION_UPDATED.json")
    update["annotation"]["updated_at"] = "x" * 100
    with pytest.raises(BadEvent, match=r"annotation\.updated_at"):
        parse(update, count_updates=True)


def test_what_segloop_accepted_counts_once_a_person_changes_it() -> None:
    result = [{"id": "a"}]
    made = created(7)
    made["annotation"] |= {"result": result, "import_id": mark_of(result)}
    assert parse(made).annotations == ()
    made["annotation"]["created_at"] = made["annotation"]["updated_at"] = "2026-11-22T20:00:00Z"
    assert parse_saved(json.dumps(made["annotation"]).encode(), 29, count_updates=True) == ()
    made["annotation"]["updated_at"] = "2026-11-22T21:00:00Z"
    assert parse({**made, "action": "ANNOTATION_UPDATED"}, count_updates=True).annotations != ()
    assert parse_saved(json.dumps(made["annotation"]).encode(), 29, count_updates=True) != ()


# -- what Label Studio saved


def saved(event: Json, **own: Any) -> Json:
    """An event's annotation as the target bucket has it."""
    return {**event["annotation"], "task": {"id": 76, "data": {}, "project": 29}, **own}


def names(value: Any, *, count_updates: bool = False) -> tuple[str, ...]:
    return parse_saved(json.dumps(value).encode(), 29, count_updates=count_updates)


@pytest.mark.parametrize("count_updates", [False, True])
@pytest.mark.parametrize("recording", ["10_webhook_ANNOTATION_CREATED.json", "13_webhook_skip.json"])
def test_an_event_and_what_was_saved_name_an_annotation_alike(recording: str, count_updates: bool) -> None:
    event = recorded(recording)
    assert names(saved(event), count_updates=count_updates) == parse(event, count_updates=count_updates).annotations


def test_a_later_save_is_named_as_its_event_names_it() -> None:
    update = recorded("11_webhook_ANNOTATION_UPDATED.json")
    update["annotation"]["created_at"] = "2026-11-22T20:00:00Z"
    (name,) = parse(update, count_updates=True).annotations
    number = str(update["annotation"]["id"])
    assert names(saved(update), count_updates=True) == (number, name)
    assert names(saved(update)) == (number,)
    # the same moment, as another time zone writes it
    elsewhere = saved(update, updated_at="2026-11-22T22:30:42.680770+01:00")
    assert names(elsewhere, count_updates=True) == (number, name)


def test_a_task_with_its_annotations_names_each() -> None:
    one, two, skipped = created(1), created(2), created(3, was_cancelled=True)
    whole = {"id": 76, "project": 29, "data": {}, "annotations": [one["annotation"], two["annotation"]]}
    whole["annotations"].append(skipped["annotation"])
    assert names(whole) == ("1", "2")


def test_keys_of_annotations_name_their_project() -> None:
    assert [saved_project(key) for key in ("projects/29/1", "projects/29/1.json")] == [29, 29]
    for key in ("projects/29/", "projects/29/notes.txt", "projects/29/1/2", "projects/x/1", "other/29/1", "29/1"):
        assert saved_project(key) is None


class Objects:
    """Stands for S3."""

    class exceptions:  # noqa: N801 - the name of boto3
        class NoSuchKey(Exception):
            pass

    def __init__(self, **objects: bytes) -> None:
        self.objects = {name.replace("__", "/"): body for name, body in objects.items()}

    def get_object(self, *, Bucket: str, Key: str) -> Json:  # noqa: N803
        try:
            return {"Body": io.BytesIO(self.objects[f"{Bucket}/{Key}"])}
        except KeyError:
            raise self.exceptions.NoSuchKey from None


def told_by(objects: Objects, key: str, bucket: str = "target") -> tuple[str, tuple[str, ...]]:
    event = {"detail": {"bucket": {"name": bucket}, "object": {"key": key}}}
    return Saved(objects, "target", "artifacts", count_updates=False).annotations(event)


def test_what_was_saved_is_counted_for_the_project_that_is_connected() -> None:
    objects = Objects(target__projects__29__7=json.dumps(saved(created(7))).encode())
    with pytest.raises(NotConnected, match="segloop aws connect --project 29"):
        told_by(objects, "projects/29/7")
    description = "artifacts/projects/29/project.json"
    objects.objects[description] = json.dumps({"key": PROJECT}).encode()
    assert told_by(objects, "projects/29/7") == (PROJECT, ("7",))
    objects.objects[description] = json.dumps(
        {"created_at": recorded("13_webhook_skip.json")["project"]["created_at"]}
    ).encode()
    assert told_by(objects, "projects/29/7") == (PROJECT, ("7",))


@pytest.mark.parametrize("body", [b"", b"[]", b"{}", b'{"id": "x"}', b'{"id": 1, "project": 30}'])
def test_what_is_no_annotation_counts_nothing(body: bytes) -> None:
    objects = Objects(target__projects__29__7=body)
    assert told_by(objects, "projects/29/7") == ("", ())
    assert told_by(objects, "projects/29/8") == ("", ())
    assert told_by(objects, "projects/29/7", bucket="another") == ("", ())
