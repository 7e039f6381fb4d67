"""Accepted annotations: those that segloop made of its own pre-labels, how they are marked in Label Studio, and how they
are known again. Pure.

The mark is the annotation's `import_id`, a number that Label Studio 1.23 keeps, gives back and uses for nothing else once
an annotation is there: a bit that no counted id reaches, and a digest of the result. So whoever changes the annotation
makes it his own, and no list of ids is needed that could be lost.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any, Final
from uuid import UUID, uuid5

import orjson

#: The largest bit of a number that JavaScript holds exactly.
_MARK: Final = 1 << 52
_NAMES: Final = UUID("5e6100b0-ac4e-4d15-9f0a-7d3c1f2b8a64")


def mark_of(result: object) -> int:
    """The `import_id` of an accepted annotation with these result items."""
    digest = hashlib.sha256(orjson.dumps(result, option=orjson.OPT_SORT_KEYS)).digest()
    return _MARK | (int.from_bytes(digest[:8], "big") % _MARK)


def was_made(annotation: Mapping[str, Any]) -> bool:
    """Whether segloop made an annotation, whatever people did to it since."""
    number = annotation.get("import_id")
    return isinstance(number, int) and number // _MARK == 1


def is_accepted(annotation: Mapping[str, Any]) -> bool:
    """Whether segloop made an annotation and nobody changed it since: its result, or that it is a ground truth."""
    if not was_made(annotation) or annotation.get("ground_truth") or annotation.get("was_cancelled"):
        return False
    return bool(annotation["import_id"] == mark_of(annotation.get("result")))


def by_people(annotations: Sequence[Any]) -> list[Any]:
    """The annotations that people made or changed."""
    return [annotation for annotation in annotations if not is_accepted(annotation)]


def accepted_annotation(project: str, task: int, prediction: Mapping[str, Any]) -> dict[str, Any]:
    """The body of the annotation that accepts a prediction `{"id", "result", "model_version"}` of a task.

    Each region says so to people, under *meta*. Label Studio takes an annotation of the same `unique_id` once.
    """
    text = f"Accepted by segloop, unseen: {prediction['model_version']}"
    result = [{**region, "meta": {**(region.get("meta") or {}), "text": [text]}} for region in prediction["result"]]
    return {
        "result": result,
        "parent_prediction": prediction["id"],
        "import_id": mark_of(result),
        "unique_id": str(uuid5(_NAMES, f"{project}/{task}")),
    }
