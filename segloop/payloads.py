"""What Label Studio posts: request bodies turned into checked values. Every form it has used is accepted."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from segloop.accepted import is_accepted
from segloop.errors import BadRequest, TooLarge, UnknownProject

Json = Mapping[str, Any]

START_TRAINING = "START_TRAINING"
ANNOTATION_ACTIONS = frozenset({"ANNOTATION_CREATED", "ANNOTATION_UPDATED", "ANNOTATION_DELETED"})

#: Tasks of one `/predict`, at most.
MAX_TASKS = 20_000

_PROJECT_KEY = re.compile(r"[0-9]{1,18}(\.[0-9]{1,18})?")


@dataclass(frozen=True)
class Setup:
    """Body of `/setup`. `extra_params` is null, a string or an object, as Label Studio sends it."""

    project: str
    label_config: str
    extra_params: object


@dataclass(frozen=True)
class Predict:
    """Body of `/predict`. `context` is a smart tool's, else None."""

    project: str
    label_config: str
    tasks: tuple[dict[str, Any], ...]
    context: dict[str, Any] | None


@dataclass(frozen=True)
class Event:
    """Body of `/webhook` or `/train`.

    `action` is in the singular (ANNOTATIONS_CREATED reads ANNOTATION_CREATED). `changed` names what changed:
    the task ids, or `annotation:ID` where Label Studio tells no task (deletions); skipped annotations don't count.
    """

    action: str
    project: str
    label_config: str | None
    changed: tuple[int | str, ...] = ()


def project_key(value: object) -> str:
    """The key `"{id}.{created_ts}"` of a project, or `"{id}"` where nothing tells when it was created.

    Accepts the key itself, an id (int or digits), or Label Studio's project object, whose `created_at` is
    the key's second half (whole seconds since 1970).

    Raises:
        UnknownProject: the value names no project.
    """
    if isinstance(value, Mapping):
        ident, created_at = value.get("id"), value.get("created_at")
        if isinstance(ident, Mapping):
            raise UnknownProject(f"project.id is {_short(ident)}; expected an id such as 29.")
        key = project_key(ident)
        if "." in key or not isinstance(created_at, str):
            return key
        try:
            return f"{key}.{int(datetime.fromisoformat(created_at).timestamp())}"
        except ValueError as error:
            raise UnknownProject(f"project.created_at is {created_at!r}; expected a time in ISO 8601.") from error
    if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
        return str(value)
    if isinstance(value, str) and _PROJECT_KEY.fullmatch(value):
        return value
    raise UnknownProject(f"project is {_short(value)}; expected an id such as 29, or '29.1795383040'.")


def parse_setup(body: object) -> Setup:
    """Read the body of `/setup`.

    Raises:
        BadRequest: a field is missing or of the wrong type.
    """
    fields = _object(body, "the body of /setup")
    return Setup(
        project=project_key(fields.get("project")),
        label_config=_label_config(fields, "schema"),
        extra_params=fields.get("extra_params"),
    )


def parse_predict(body: object) -> Predict:
    """Read the body of `/predict`.

    Raises:
        BadRequest: a field is missing or of the wrong type. A task without an id is accepted (Test Request).
        TooLarge: it has more than MAX_TASKS tasks.
    """
    fields = _object(body, "the body of /predict")
    tasks = fields.get("tasks")
    if not isinstance(tasks, list):
        raise BadRequest(f"tasks is {_short(tasks)}; expected a list of tasks.")
    if len(tasks) > MAX_TASKS:
        raise TooLarge(f"tasks has {len(tasks)} tasks; at most {MAX_TASKS} can be predicted at a time: select fewer.")
    for position, task in enumerate(tasks):
        if not isinstance(task, dict) or not isinstance(task.get("data"), dict):
            raise BadRequest(f"tasks[{position}] is {_short(task)}; expected an object with an object 'data'.")
    params = fields.get("params") or {}
    context = _object(params, "params").get("context") or None
    return Predict(
        project=project_key(fields.get("project")),
        label_config=_label_config(fields, "label_config"),
        tasks=tuple(tasks),
        context=None if context is None else dict(_object(context, "params.context")),
    )


def parse_event(body: object) -> Event:
    """Read the body of `/webhook`.

    Raises:
        BadRequest: a field is missing or of the wrong type.
    """
    fields = _object(body, "the body of /webhook")
    action = fields.get("action")
    if not isinstance(action, str) or not action:
        raise BadRequest(f"action is {_short(action)}; expected the name of an event, such as ANNOTATION_CREATED.")
    project = fields.get("project")
    label_config = project.get("label_config") if isinstance(project, Mapping) else fields.get("label_config")
    singular = re.sub(r"^(ANNOTATION|TASK)S_", r"\1_", action.upper())
    return Event(
        action=singular,
        project=project_key(project),
        label_config=label_config if isinstance(label_config, str) and label_config.strip() else None,
        changed=_changed(fields) if singular in ANNOTATION_ACTIONS else (),
    )


def parse_train(body: object) -> Event:
    """Read the body of `/train`, the form that Label Studio used before its webhooks (release 1.4.1).

    Raises:
        BadRequest: a field is missing or of the wrong type.
    """
    fields = _object(body, "the body of /train")
    label_config = fields.get("label_config")
    return Event(
        action=START_TRAINING,
        project=project_key(fields.get("project")),
        label_config=label_config if isinstance(label_config, str) and label_config.strip() else None,
    )


def _changed(fields: Json) -> tuple[int | str, ...]:
    annotations = _objects(fields, "annotation")
    tasks = [task.get("id") for task in _objects(fields, "task")]
    changed: dict[int | str, None] = {}
    for position, annotation in enumerate(annotations):
        if annotation.get("was_cancelled") or is_accepted(annotation):
            continue
        task = annotation.get("task")
        if isinstance(task, Mapping):
            task = task.get("id")
        if not isinstance(task, int) and position < len(tasks):
            task = tasks[position]
        if isinstance(task, int):
            changed[task] = None
        elif isinstance(annotation.get("id"), int):
            changed[f"annotation:{annotation['id']}"] = None
    if not annotations:
        changed.update((task, None) for task in tasks if isinstance(task, int))
    return tuple(changed)


def _objects(fields: Json, name: str) -> list[Json]:
    """The objects under `name` or its plural, in either of which Label Studio puts one object or a list."""
    value = fields.get(name, fields.get(f"{name}s"))
    if value is None:
        return []
    items = value if isinstance(value, list) else [value]
    return [_object(item, name) for item in items]


def _label_config(fields: Json, name: str) -> str:
    value = fields.get(name)
    if not isinstance(value, str) or not value.strip():
        raise BadRequest(f"{name} is {_short(value)}; expected the project's label config (XML).")
    return value


def _object(value: object, name: str) -> Json:
    if not isinstance(value, Mapping):
        raise BadRequest(f"{name} is {_short(value)}; expected a JSON object.")
    return value


def _short(value: object) -> str:
    if value is None:
        return "missing"
    if isinstance(value, (Mapping, list)):  # named, not quoted: Label Studio's objects carry tokens and passwords
        return "a JSON array" if isinstance(value, list) else "a JSON object"
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
