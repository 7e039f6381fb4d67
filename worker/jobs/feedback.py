"""Feedback in Label Studio: after Start Training it shows nothing by itself, so its project's description says how far it is."""

from __future__ import annotations

import logging

from segloop.errors import LabelStudioError, QueueUnavailable, RegistryError
from segloop.ledger import read_ledger
from segloop.progress import Progress
from segloop.report import ReportFacts, report_of, thresholds_of
from segloop.report.feedback import outcome_line, progress_line, with_line
from worker.jobs.context import JobContext, project_id_of

logger = logging.getLogger(__name__)


class Feedback:
    """What a project of Label Studio is told of its live retrain, once each."""

    def __init__(self, context: JobContext, project: str) -> None:
        self._context, self._project = context, project
        self._told = ""

    def tell(self, progress: Progress) -> None:
        """Say how far it is. Never raises: it is a convenience."""
        if not self._context.settings.tells_studio:
            return
        try:
            line = progress_line(progress, _page(self._context, self._project))
        except RegistryError as error:
            logger.warning("project %s: Label Studio is not told of its training: %s", self._project, error)
            return
        if line != self._told:
            self._told = line
            _tell(self._context, self._project, line)


def tell_outcome(context: JobContext, project: str) -> None:
    """Say what became of the last training and when the next one comes; of a live one, how far it is. Never raises."""
    if not context.settings.tells_studio:
        return
    try:
        live, page = context.jobs.live_retrain(project), _page(context, project)
        line = _outcome(context, project, page) if live is None else progress_line(live["progress"], page)
    except (QueueUnavailable, RegistryError) as error:
        logger.warning("project %s: Label Studio is not told of its training: %s", project, error)
        return
    if line:
        _tell(context, project, line)


def _outcome(context: JobContext, project: str, page: str) -> str:
    registry, settings = context.registry, context.settings_of(project)
    champion, names, last = (
        registry.champion(project),
        registry.version_names(project),
        context.jobs.last_retrain(project),
    )
    if last is None and champion is None:
        return ""  # nobody asked for a training yet, so that there is nothing to say
    facts = ReportFacts(
        key=project,
        label_studio_url="",
        ledger=read_ledger(registry, project),
        versions=[registry.get(project, names[-1])] if names else [],
        champion=champion,
        changes=context.jobs.changes.count(project),
        thresholds=thresholds_of(settings, champion),
    )
    progress: Progress = (last["progress"] if last else None) or {}
    failed = progress.get("phase") in ("failed", "stopped")
    return outcome_line(report_of(facts), str(progress.get("message") or "see the page.") if failed else None, page)


def _tell(context: JobContext, project: str, line: str) -> None:
    try:
        projects, project_id = context.label_studio.projects, project_id_of(project)
        before = str(projects.get(project_id).get("description") or "")
        after = with_line(before, line)
        if after != before:
            projects.change(project_id, description=after)
    except LabelStudioError as error:
        logger.warning("project %s: its description cannot say how far the training is: %s", project, error)


def _page(context: JobContext, project: str) -> str:
    """The address of the project's page: as people reach it, else as Label Studio does."""
    settings = context.settings
    address = settings.page_url or settings.public_url or context.notes(project).backend_url
    return f"{address.rstrip('/')}/ui/projects/{project_id_of(project)}" if address else ""
