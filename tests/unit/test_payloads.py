"""Request bodies of Label Studio, in every form it has used."""

from __future__ import annotations

import pytest

from segloop.errors import BadRequest, UnknownProject
from segloop.payloads import parse_event, parse_predict, parse_setup, parse_train, project_key

CONFIG = "<View/>"


@pytest.mark.parametrize(
    ("value", "key"),
    [
        ("29.1795383040", "29.1795383040"),
        ("29", "29"),
        (29, "29"),
        ({"id": 29}, "29"),
        ({"id": 29, "created_at": "2026-11-22T21:30:40.804663Z"}, "29.1795383040"),
        ({"id": 29, "created_at": "2026-11-22T22:30:40.804663+01:00"}, "29.1795383040"),
        ({"id": "29.1795383040", "created_at": "2020-01-01T00:00:00Z"}, "29.1795383040"),
    ],
)
def test_project_key(value, key):
    assert project_key(value) == key


@pytest.mark.parametrize(
    "value",
    [None, "", "banana", "../29", "29.", "29.1/2", -1, True, 1.5, [], {}, {"id": None}, {"id": {"id": 29}}, "9" * 40],
)
def test_what_names_no_project(value):
    with pytest.raises(UnknownProject, match=r"project(\.id)? is"):
        project_key(value)


def test_a_project_nested_a_thousand_deep():
    project = {"id": 29}
    for _ in range(1000):
        project = {"id": project}
    with pytest.raises(UnknownProject, match="a JSON object"):
        project_key(project)


def test_a_project_with_an_unreadable_time():
    with pytest.raises(UnknownProject, match="'yesterday'"):
        project_key({"id": 1, "created_at": "yesterday"})


@pytest.mark.parametrize(
    ("body", "sentence"),
    [
        (None, "the body of /predict is missing"),
        ([], "the body of /predict"),
        ({"project": 1, "label_config": CONFIG}, "tasks is missing"),
        ({"tasks": {}, "project": 1, "label_config": CONFIG}, "tasks is a JSON object"),
        ({"tasks": [1], "project": 1, "label_config": CONFIG}, r"tasks\[0\] is 1"),
        ({"tasks": [{"id": 1}], "project": 1, "label_config": CONFIG}, r"tasks\[0\]"),
        ({"tasks": [], "project": 1}, "label_config is missing"),
        ({"tasks": [], "project": 1, "label_config": 5}, "label_config is 5"),
        ({"tasks": [], "label_config": CONFIG}, "project is missing"),
        ({"tasks": [], "project": 1, "label_config": CONFIG, "params": [1]}, "params is"),
        ({"tasks": [], "project": 1, "label_config": CONFIG, "params": {"context": "x"}}, "params.context is 'x'"),
    ],
)
def test_a_bad_predict_is_named(body, sentence):
    with pytest.raises(BadRequest, match=sentence):
        parse_predict(body)


def test_predict_without_params():
    request = parse_predict({"tasks": [{"data": {"image": "a"}}], "project": "1.2", "label_config": CONFIG})
    assert request.context is None
    assert request.tasks[0]["data"] == {"image": "a"}


def test_setup_needs_a_label_config():
    with pytest.raises(BadRequest, match="schema is ''"):
        parse_setup({"project": 1, "schema": ""})


@pytest.mark.parametrize(
    ("body", "action", "changed"),
    [
        (
            {"action": "ANNOTATION_CREATED", "annotation": {"id": 5, "task": 7}, "task": {"id": 7}},
            "ANNOTATION_CREATED",
            (7,),
        ),
        ({"action": "ANNOTATION_UPDATED", "annotation": {"id": 5}, "task": {"id": 7}}, "ANNOTATION_UPDATED", (7,)),
        (
            {
                "action": "ANNOTATIONS_CREATED",
                "annotation": [{"id": 5, "task": 7}, {"id": 6, "task": 8}],
                "task": [{"id": 7}, {"id": 8}],
            },
            "ANNOTATION_CREATED",
            (7, 8),
        ),
        (
            {"action": "ANNOTATIONS_CREATED", "annotations": [{"id": 5}, {"id": 6}], "tasks": [{"id": 7}, {"id": 8}]},
            "ANNOTATION_CREATED",
            (7, 8),
        ),
        (
            {"action": "ANNOTATIONS_DELETED", "annotations": [{"id": 1}, {"id": 2}]},
            "ANNOTATION_DELETED",
            ("annotation:1", "annotation:2"),
        ),
        ({"action": "ANNOTATION_DELETED", "annotation": {"id": 1, "task": 9}}, "ANNOTATION_DELETED", (9,)),
        (
            {"action": "ANNOTATION_CREATED", "annotation": {"id": 5, "task": 7, "was_cancelled": True}},
            "ANNOTATION_CREATED",
            (),
        ),
        (
            {"action": "ANNOTATIONS_CREATED", "annotation": [{"id": 5, "task": 7}, {"id": 6, "task": 7}]},
            "ANNOTATION_CREATED",
            (7,),
        ),
        ({"action": "START_TRAINING"}, "START_TRAINING", ()),
        ({"action": "TASKS_CREATED", "tasks": [{"id": 3}]}, "TASK_CREATED", ()),
        ({"action": "PROJECT_UPDATED"}, "PROJECT_UPDATED", ()),
    ],
)
def test_events(body, action, changed):
    event = parse_event({**body, "project": {"id": 1, "label_config": CONFIG}})
    assert (event.action, event.changed, event.project, event.label_config) == (action, changed, "1", CONFIG)


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"action": 3, "project": 1},
        {"action": "START_TRAINING"},
        "START_TRAINING",
        {"action": "ANNOTATION_CREATED", "project": 1, "annotation": [3]},
    ],
)
def test_a_bad_event_is_named(body):
    with pytest.raises(BadRequest):
        parse_event(body)


def test_the_old_train_route():
    event = parse_train({"annotations": [{"id": 1}], "project": "1.1795382829", "label_config": CONFIG, "params": {}})
    assert (event.action, event.project, event.label_config) == ("START_TRAINING", "1.1795382829", CONFIG)
