"""The question to Label Studio what changed: webhooks are neither signed nor repeated, so they are not relied on."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator

from segloop.accept import read_accept
from segloop.errors import LabelStudioNotFound, SegloopError
from segloop.policy import Recipe, should_retrain
from segloop.projects import note_gone
from segloop.queue import OUTAGES
from worker.jobs.context import (
    JobContext,
    predicted_version,
    project_id_of,
    set_backend_title,
    thresholds,
    titled_version,
)
from worker.jobs.feedback import tell_outcome
from worker.jobs.ledger import keep_ledger
from worker.jobs.mirrors import SnapshotState, changed, open_mirror, sync_mirror
from worker.jobs.suspects import point_out_suspects

logger = logging.getLogger(__name__)


def run_reconcile(
    context: JobContext, project: str, step_aside: Callable[[], None] = lambda: None
) -> dict[str, list[str]]:
    """Ask Label Studio what changed in a project since its last snapshot, and queue what policy wants.

    Finds changes without a webhook, promotions and rollbacks whose version the backend's title does not name. What fails is
    logged: the project's next turn asks again.

    Args:
        step_aside: called between pages of annotations; it may raise `Parked`, and the job then begins anew later.
    """
    queued: list[str] = []
    try:
        if _is_there(context, project):
            queued += _reconcile(context, project, step_aside)
    except OUTAGES as error:
        logger.warning("project %s: not reconciled now: %s", project, error)
    except SegloopError as error:
        logger.error("project %s: cannot be reconciled: %s", project, error)
    return {"queued": queued}


def _is_there(context: JobContext, project: str) -> bool:
    """Whether Label Studio has the project. One that was deleted is asked about once, until it calls again."""
    if context.notes(project).gone:
        return False
    try:
        context.label_studio.projects.get(project_id_of(project))
    except LabelStudioNotFound as error:
        note_gone(context.registry, project)
        logger.warning(
            "project %s: Label Studio has no such project, or this key does not see it; it is not asked about it again "
            "before it calls segloop for it: %s",
            project,
            error,
        )
        return False
    return True


def _is_lost(context: JobContext, project: str, state: SnapshotState) -> bool:
    """Whether Redis lost the retrain that took the last snapshot: what changed before that counts no more by itself."""
    # an adopted one is found by `take_up_missed`, and goes on as the same job too
    return state.job.startswith("retrain-") and context.jobs.is_lost(project, state.job)


def _reconcile(context: JobContext, project: str, step_aside: Callable[[], None]) -> Iterator[str]:
    champion = context.registry.champion(project)
    if champion is not None and champion.version != titled_version(context, project):
        yield context.jobs.enqueue_prelabel(project, champion.version).job_id
    elif champion is not None:
        # Label Studio saves a backend's whole row when its page is opened, and may so undo a title set meanwhile.
        set_backend_title(context, project, champion.version)
        if champion.version != predicted_version(context, project) and context.jobs.has_no_prelabel(project):
            yield context.jobs.enqueue_prelabel(project, champion.version).job_id
    # what somebody called right meanwhile is shown no more
    point_out_suspects(context, project)
    # A live retrain's snapshot may cover what changed, and its end decides upon the rest.
    if context.jobs.live_retrain(project) is not None:
        return
    state = SnapshotState.read(context.registry, project)
    if _is_lost(context, project, state):
        reason = "Redis lost the retrain that was under way; it goes on."
        recipe: Recipe = "quick" if state.quick else "full"
        yield context.jobs.enqueue_retrain(project, reason, recipe, again=state.job).job_id
        return
    with open_mirror(context, project) as mirror:
        sync_mirror(context, mirror, project, lambda _: step_aside())
        state = SnapshotState.read(context.registry, project)
        tasks = changed(mirror, state.full)
        recent = None if state.quick is None else changed(mirror, state.quick)
        is_held = state.failed is not None and not changed(mirror, state.failed)
        ledger = keep_ledger(context, project, mirror)
    settings = context.settings_of(project)
    looks = settings.auto_accept and champion is not None
    if looks and ledger is not None and read_accept(context.registry, project).blind != ledger.blind:
        # for the audit, or with what was missing for a first test
        yield context.jobs.enqueue_accept(project).job_id
    if context.jobs.live_retrain(project) is not None:
        return
    changes = context.jobs.changes.record(project, tasks, recent=recent)
    tell_outcome(context, project)
    if is_held:
        # A retrain of these very changes failed: another one begins with the next change, or with Start Training.
        return
    decision = should_retrain(
        event="reconcile",
        changes=changes,
        thresholds=thresholds(settings),
        live=None,
        has_backbone=champion is not None or settings.weights != "none",
    )
    if decision.act:
        yield context.jobs.enqueue_retrain(project, decision.reason, decision.recipe).job_id
