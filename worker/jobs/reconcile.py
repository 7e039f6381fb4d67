"""The question to Label Studio what changed: webhooks are neither signed nor repeated, so they are not relied on."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

from segloop.errors import SegloopError
from segloop.policy import should_retrain
from segloop.queue import OUTAGES
from worker.jobs.adopt import take_up_missed
from worker.jobs.context import Workshop, tell, thresholds
from worker.jobs.mirrors import changed, open_mirror, sync_mirror

logger = logging.getLogger(__name__)


def run_reconcile(shop: Workshop) -> dict[str, Any]:
    """For each project: ask Label Studio what changed since the last snapshot, and queue what policy wants.

    Finds what no webhook told of, promotions and rollbacks that Label Studio was not told of, and trainings of the
    managed route that no event told of. A project that fails is logged; the others are still served.
    """
    queued: list[str] = []
    for project in shop.registry.projects():
        try:
            queued += _reconcile(shop, project)
        except OUTAGES as error:
            logger.warning("project %s: not reconciled now: %s", project, error)
        except SegloopError as error:
            logger.error("project %s: cannot be reconciled: %s", project, error)
    return {"queued": queued + take_up_missed(shop)}


def _reconcile(shop: Workshop, project: str) -> Iterator[str]:
    champion = shop.registry.champion(project)
    told = shop.registry.read_json(project, "told.json") or {}
    if champion is not None and champion.version != told.get("version"):
        yield shop.jobs.enqueue_prelabel(project, champion.version).job_id
    elif champion is not None:
        # Label Studio saves a backend's whole row when its page is opened, and may so undo a title set meanwhile.
        tell(shop, project, champion.version)
    # A live retrain's snapshot may cover what changed, and its end decides upon the rest.
    if shop.jobs.live_retrain(project) is not None:
        return
    with open_mirror(shop, project) as mirror:
        sync_mirror(shop, mirror, project)
        state = shop.registry.read_json(project, "snapshot.json") or {}
        tasks = changed(mirror, state)
        recent = changed(mirror, state, "quick_") if "quick_since" in state else None
    if shop.jobs.live_retrain(project) is not None:
        return
    settings = shop.settings_of(project)
    decision = should_retrain(
        event="reconcile",
        changes=shop.jobs.record_changes(project, tasks, recent=recent),
        thresholds=thresholds(settings),
        live=None,
        has_backbone=champion is not None or settings.weights != "none",
    )
    if decision.act:
        yield shop.jobs.enqueue_retrain(project, decision.reason, decision.recipe).job_id
