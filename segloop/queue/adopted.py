"""Trainings that somebody else started (the managed route's pipeline) become retrain jobs, each once."""

from __future__ import annotations

import logging
from typing import Final, TypedDict

from segloop.errors import UnknownProject
from segloop.queue.jobs import Enqueued, Jobs
from segloop.registry import Registry

logger = logging.getLogger(__name__)

#: What became of a project's adopted trainings, in its store; so many of them, the latest.
ADOPTED: Final = "adopted.json"
_REMEMBERED: Final = 200


class Adopted(TypedDict, total=False):
    """What became of a training that was taken up by a job: its version, or why there is none."""

    job: str
    version: str | None
    promoted: bool
    error: str
    ended_at: str


def route_reason(generation: str) -> str:
    """Why a training of the managed route is taken up, in a sentence."""
    return f"The managed route trained generation {generation}." if generation else "The managed route trained."


def take_up(jobs: Jobs, registry: Registry, project_id: int, training: str, reason: str) -> Enqueued | None:
    """Queue the job that follows a training to its end, or have it look now; None where that is not ours to do.

    Nothing happens for a training that was adopted to its end before, nor for one of a project that this segloop does
    not know.

    Raises:
        QueueUnavailable, RegistryError: try again later.
    """
    try:
        project = registry.resolve(str(project_id))
    except UnknownProject:
        logger.info("training job %s is of project %d, which is not connected here: ignored", training, project_id)
        return None
    if training in _adopted(registry, project):
        return None
    enqueued = jobs.enqueue_adoption(project, training, reason)
    if enqueued.joined:
        jobs.hasten(enqueued.job_id)
    else:
        logger.info("project %s: job %s takes up training job %s", project, enqueued.job_id, training)
    return enqueued


def remember(registry: Registry, project: str, training: str, outcome: Adopted) -> None:
    """Note in the store what became of an adopted training, so that nothing takes it up again.

    Raises:
        RegistryError: try again later.
    """
    known = {**_adopted(registry, project), training: outcome}
    latest = dict(list(known.items())[-_REMEMBERED:])
    registry.write_json(project, ADOPTED, {"format": 1, "trainings": latest})


def _adopted(registry: Registry, project: str) -> dict[str, Adopted]:
    kept = registry.read_json(project, ADOPTED) or {}
    return dict(kept.get("trainings") or {})
