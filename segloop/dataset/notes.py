"""Regions of annotations that do not count as they were meant: noted for each task, told once for each kind."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Final, Literal

from pydantic import BaseModel, ConfigDict

from segloop.results import Problem

#: Tasks and regions that a warning names; the others it counts.
_NAMED: Final = 3


class Note(BaseModel):
    """A problem with a region of a task's annotation, as `segloop.results.Problem` has it."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    task: int
    kind: Literal["label", "target", "region", "size"]
    region: str
    name: str
    text: str

    @classmethod
    def of(cls, task: int, problem: Problem) -> Note:
        """The note of a problem."""
        return cls(task=task, kind=problem.kind, region=problem.region, name=problem.name, text=problem.text)


def warnings_of(notes: Iterable[Note]) -> tuple[str, ...]:
    """A sentence for each unknown label and each unknown tag, and one for each other kind, with counts."""
    told: dict[str, list[Note]] = {}
    for note in notes:
        told.setdefault(_TOGETHER[note.kind](note), []).append(note)
    return tuple(_sentence(told[key]) for key in sorted(told))


#: Notes with the same text here make one warning.
_TOGETHER: Final[dict[str, Callable[[Note], str]]] = {
    "label": lambda note: f"0 {note.name}",
    "target": lambda note: f"1 {note.name}",
    "region": lambda note: "2",
    "size": lambda note: "3",
}


def _sentence(notes: Sequence[Note]) -> str:
    first = notes[0]
    tasks = sorted({note.task for note in notes})
    more = ", ..." if len(tasks) > _NAMED else ""
    where = f"(task{'' if len(tasks) == 1 else 's'} {', '.join(map(str, tasks[:_NAMED]))}{more})"
    count = f"{len(notes)} region{'' if len(notes) == 1 else 's'} in {len(tasks)} task{'' if len(tasks) == 1 else 's'}"
    if first.kind == "label":
        return f"the label {first.name!r} {first.text}: the pixels of {count} are ignored {where}"
    if first.kind == "target":
        return f"{first.name!r} {first.text}: {count} that point at it count for nothing {where}"
    examples = "; ".join(f"task {note.task}, region {note.region!r}: {note.text}" for note in notes[:_NAMED])
    if first.kind == "size":
        return f"{count} were drawn on another size than their image has: {examples}"
    return f"{count} cannot be used: {examples}"
