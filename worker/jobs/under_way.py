"""What another host has to know of a retrain whose training goes on elsewhere, to go on with it: it has no run's folder."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Final

from pydantic import TypeAdapter, ValidationError

from segloop.registry import Registry
from worker.jobs.run_state import Beginning

_FILE: Final = "retrain.json"


@dataclass(frozen=True)
class UnderWay:
    """retrain.json of a project: the job of its latest retrain that trains elsewhere, how that began, and the hash of the
    snapshot that it learns from."""

    job: str
    beginning: Beginning
    snapshot: str

    def write(self, registry: Registry, project: str) -> None:
        """Put it into the store."""
        registry.write_json(project, _FILE, asdict(self))


def read_under_way(registry: Registry, project: str, job: str) -> UnderWay | None:
    """What the store has of a retrain's training elsewhere; None before its snapshot."""
    try:
        known = TypeAdapter(UnderWay | None).validate_python(registry.read_json(project, _FILE))
    except ValidationError:
        return None
    return known if known is not None and known.job == job else None
