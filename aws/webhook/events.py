"""Events of Label Studio: which annotations of one count, and which tasks it created.

What Label Studio saves in the target bucket tells of annotations too, by the same names: an event may be lost, as Label
Studio sends each once and API Gateway takes none of more than 10 MB.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

Json = Mapping[str, Any]

_CREATED = ("ANNOTATION_CREATED", "ANNOTATIONS_CREATED")
_UPDATED = ("ANNOTATION_UPDATED", "ANNOTATIONS_UPDATED")
_TASKS = ("TASK_CREATED", "TASKS_CREATED")
_MOST_DIGITS = 18
#: Keys of the target bucket that hold annotations: the id of one or of its task, with .json by a setting of Label Studio's.
_SAVED = re.compile(r"projects/(\d{1,18})/\d{1,18}(?:\.json)?")
#: Label Studio stamps an annotation's creation twice; a save that is later than this, in seconds, is another one.
_CREATION_S = 1.0
_MARK_BIT = 52


class BadEvent(Exception):
    """The body is no event; the text names the value and what was expected."""


@dataclass(frozen=True)
class Event:
    """What is to be done about an event.

    `project` is `"{id}.{created_ts}"`, or `"{id}"` where nothing tells when it was created: ids begin anew with a new
    database of Label Studio. `annotations` names what counts, each name once: an annotation's id, or `id@updated_at` for
    one save of it. `tasks` are the ids of new tasks.
    """

    action: str
    project: str
    annotations: tuple[str, ...] = ()
    tasks: tuple[int, ...] = ()


def parse_event(body: bytes, *, count_updates: bool) -> Event:
    """Read the body of a webhook of Label Studio.

    What trains counts: an annotation that was skipped (`was_cancelled`) doesn't, nor one that segloop made, an empty one
    does. A skip that is annotated later is an update, and counts where updates do; so is a person's change of what segloop
    made.

    Raises:
        BadEvent: it is not JSON, or a field is missing or of the wrong type.
    """
    fields = _loaded(body)
    action = fields.get("action")
    if not isinstance(action, str) or not re.fullmatch(r"[A-Z_]{1,60}", action):
        raise BadEvent(f"action is {_short(action)}; expected the name of an event, such as ANNOTATION_CREATED")
    project = project_key(fields.get("project"))
    if action in _CREATED or (count_updates and action in _UPDATED):
        found = _objects(fields, "annotation")
        created = action in _CREATED
        names = [_change(one, action) for one in found if not (one.get("was_cancelled") or (created and _is_made(one)))]
        return Event(action, project, tuple(dict.fromkeys(names)))
    if action in _TASKS:
        tasks = [_id(task, "task.id") for task in _objects(fields, "task")]
        return Event(action, project, tasks=tuple(dict.fromkeys(tasks)))
    return Event(action, project)


def saved_project(key: str) -> int | None:
    """The id of the project of an object in the target bucket; None for one that is no annotation's."""
    found = _SAVED.fullmatch(key)
    return None if found is None else int(found[1])


def parse_saved(body: bytes, project: int, *, count_updates: bool) -> tuple[str, ...]:
    """The names of what counts in an object of the target bucket, as `parse_event` gives them.

    It holds an annotation, or a task with all of its annotations.

    Raises:
        BadEvent: it holds neither, or another project's.
    """
    fields = _loaded(body)
    found = _objects(fields, "annotation") if "annotations" in fields else [fields]
    inside = fields.get("task")
    owners = [fields.get("project"), inside.get("project") if isinstance(inside, dict) else None]
    if any(owner not in (None, project) for owner in owners):
        raise BadEvent(f"it is of project {_short(next(filter(None, owners)))}, below that of project {project}")
    names: list[str] = []
    for one in found:
        if not (one.get("was_cancelled") or (_is_made(one) and not _is_later_save(one))):
            names.append(str(_id(one, "annotation.id")))
            names += [_save(one)] if count_updates and _is_later_save(one) else []
    return tuple(dict.fromkeys(names))


def project_key(project: object) -> str:
    """The key of Label Studio's project object.

    Raises:
        BadEvent: it names no project.
    """
    if not isinstance(project, Mapping):
        raise BadEvent(f"project is {_short(project)}; expected Label Studio's project object")
    ident, created_at = _id(project, "project.id"), project.get("created_at")
    if created_at is None:
        return str(ident)
    try:
        return f"{ident}.{int(datetime.fromisoformat(created_at).timestamp())}"
    except (TypeError, ValueError, OverflowError) as error:
        raise BadEvent(f"project.created_at is {_short(created_at)}; expected a time in ISO 8601") from error


def project_id(key: str) -> str:
    """The id in Label Studio of the project with a key."""
    return key.partition(".")[0]


def _loaded(body: bytes) -> Json:
    try:
        fields = json.loads(body)
    except ValueError as error:
        raise BadEvent(f"the body is not JSON: {error}") from error
    except RecursionError as error:
        raise BadEvent("the body is nested too deeply") from error
    if not isinstance(fields, dict):
        raise BadEvent(f"the body is {_short(fields)}; expected an object")
    return fields


def _change(annotation: Json, action: str) -> str:
    return str(_id(annotation, "annotation.id")) if action in _CREATED else _save(annotation)


def _save(annotation: Json) -> str:
    """The name of one save: event and object write its time alike, whatever their time zone."""
    saved_at = _moment(annotation, "updated_at").astimezone(UTC)
    return f"{_id(annotation, 'annotation.id')}@{saved_at:%Y-%m-%dT%H:%M:%S.%fZ}"


def _is_made(annotation: Json) -> bool:
    """Whether segloop accepted a pre-label so: by the mark of `segloop.accepted`, which this function's code is without."""
    mark = annotation.get("import_id")
    return isinstance(mark, int) and mark >> _MARK_BIT == 1


def _is_later_save(annotation: Json) -> bool:
    if annotation.get("created_at") is None:
        return False
    age = _moment(annotation, "updated_at") - _moment(annotation, "created_at")
    return age.total_seconds() > _CREATION_S


def _moment(annotation: Json, name: str) -> datetime:
    value = annotation.get(name)
    try:
        moment = datetime.fromisoformat(value if isinstance(value, str) else "")
    except ValueError as error:
        raise BadEvent(f"annotation.{name} is {_short(value)}; expected a time in ISO 8601") from error
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def _objects(fields: Json, name: str) -> list[Json]:
    """The objects under a name or its plural, in either of which Label Studio puts one object or a list."""
    value = fields.get(name, fields.get(f"{name}s"))
    items = value if isinstance(value, list) else [value]
    for item in items:
        if not isinstance(item, dict):
            raise BadEvent(f"{name} is {_short(item)}; expected an object or a list of objects")
    return items


def _id(fields: Json, name: str) -> int:
    value = fields.get("id")
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 10**_MOST_DIGITS:
        raise BadEvent(f"{name} is {_short(value)}; expected an id such as 29")
    return value


def _short(value: object) -> str:
    if value is None:
        return "missing"
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
