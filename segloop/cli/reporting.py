"""Whether segloop helps a project."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from segloop.cli.common import connected_project, print_json
from segloop.errors import LabelStudioError, QueueUnavailable
from segloop.project_ids import project_id
from segloop.settings import Settings, load_settings

if TYPE_CHECKING:
    from segloop.ledger import Ledger
    from segloop.policy import Changes
    from segloop.registry import Champion, Registry, VersionInfo
    from segloop.report import Report

#: For how long annotations are looked at before the report is given as it is, in seconds.
_LOOK_S: Final = 3600.0
_STUDIO_TIMEOUT_S: Final = 30.0


@click.command()
@click.option("--html", type=click.Path(dir_okay=False, path_type=Path), help="Write a page to this file instead.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option("--project", "-p", help="Id of the project; needed only where the store has several.")
def report(project: str | None, html: Path | None, as_json: bool) -> None:
    """Say whether segloop helps a project.

    Of the pre-labels: how many were accepted unchanged, how much was corrected, what they save; the weakest class, what to
    label next, and when the next training comes. Asks Label Studio for what is new, where LABEL_STUDIO_API_KEY is set;
    otherwise it is what a worker stored last. docs/does-it-help.md says what each figure means.

    \b
    Examples:
      segloop report --project 1
      segloop report --project 1 --json
      segloop report --project 1 --html report.html
    """
    settings = load_settings()
    key = connected_project(settings, project)
    made = _report(settings, key)
    for problem in made.problems:
        click.echo(f"Warning: {problem}", err=True)
    if html is not None:
        from segloop.web.ui.report_page import report_html

        try:
            html.write_text(report_html(made), encoding="utf-8")
        except OSError as error:
            raise click.ClickException(f"{html} cannot be written: {error.strerror}") from error
    if as_json:
        print_json(made.model_dump(mode="json"))
    elif html is None:
        for line in _lines(made):
            click.echo(line)
    else:
        click.echo(html)


def _report(settings: Settings, key: str) -> Report:
    from segloop.accept import Rule, read_accept
    from segloop.projects import own_settings, read_notes
    from segloop.registry import open_registry
    from segloop.report import ReportFacts, Studio, report_of, thresholds_of

    registry = open_registry(settings)
    own, _ = own_settings(settings, key, read_notes(registry, key))
    problems: list[str] = []
    ledger = _ledger(settings, registry, key, problems)
    champion = registry.champion(key)
    studio, ident = Studio(settings, _STUDIO_TIMEOUT_S), project_id(key)
    counts = studio.counts(ident)
    following = studio.next_tasks(ident, champion.version) if champion else []
    problems += [counts] if isinstance(counts, str) else []
    changes, is_training = _queue(settings, key, problems)
    return report_of(
        ReportFacts(
            key=key,
            label_studio_url=settings.label_studio_public_url or settings.label_studio_url,
            ledger=ledger,
            versions=_versions(registry, key, champion),
            champion=champion,
            counts=None if isinstance(counts, str) else counts,
            changes=changes,
            thresholds=thresholds_of(own, champion),
            is_training=is_training,
            next_tasks=() if isinstance(following, str) else following,
            accept=read_accept(registry, key),
            rule=Rule.of(own),
            problems=tuple(dict.fromkeys(problems)),
        )
    )


def _versions(registry: Registry, key: str, champion: Champion | None) -> list[VersionInfo]:
    """The latest versions and the one that is served, oldest first."""
    from segloop.report import latest_names

    known = registry.versions(key)
    wanted = latest_names([info.version for info in known], [champion.version] if champion else [])
    return [info for info in known if info.version in wanted]


def _ledger(settings: Settings, registry: Registry, key: str, problems: list[str]) -> Ledger | None:
    """The ledger as it is now, or, where Label Studio cannot be asked, as it was stored last."""
    from segloop.ledger import read_ledger

    if settings.label_studio_api_key.get_secret_value():
        from worker.jobs.context import JobContext
        from worker.jobs.ledger import make_ledger

        try:
            with JobContext.open(settings) as context:
                made = make_ledger(context, key, _LOOK_S)
            if made is not None:
                return made
        except LabelStudioError as error:
            problems.append(f"{error}.")
    return read_ledger(registry, key)


def _queue(settings: Settings, key: str, problems: list[str]) -> tuple[Changes | None, bool]:
    """The changes toward the next training, and whether one is queued or under way."""
    from segloop.queue import Jobs

    try:
        with contextlib.closing(Jobs.open(settings)) as jobs:
            return jobs.changes.count(key), jobs.live_retrain(key) is not None
    except QueueUnavailable as error:
        problems.append(str(error))
        return None, False


def _lines(report: Report) -> list[str]:
    now, ledger = report.now, report.ledger
    lines = [f"{report.title} (project {report.project}): {report.served or 'no version of its own yet'}"]
    if report.tasks is not None:
        lines.append(f"Labelled             {report.labelled} of {report.tasks} tasks")
    if ledger is not None:
        lines.append(f"Began with pre-label {ledger.pre_labelled} of {ledger.annotations} annotations")
    if now is not None:
        lines += [
            f"Accepted unchanged   {_percent(now.unchanged)} of {now.annotations} pre-labels of {now.version}",
            f"Pixels corrected     {_percent(now.changed_share)}",
            f"Boundary moved       {now.moved_px} of {now.boundary_px} px",
            f"Regions              {now.regions_added} added, {now.regions_removed} removed",
        ]
        if now.median_s is not None:
            lines.append(f"Median time          {now.median_s:.0f} s")
    lines += [f"Time saved           {report.time}"]
    if report.weakest is not None:
        lines.append(f"Weakest class        {report.weakest.sentence}")
    lines.append(f"Next training        {report.next_training}")
    if report.rejected:
        lines.append(f"Last version         {report.rejected}")
    if report.bias:
        lines.append(f"Held-out labels      {report.bias}")
    if report.accepting is not None:
        lines += [f"Auto-accept          {sentence}" for sentence in report.accepting.sentences]
        lines += [f"To audit             task {one.task}  {one.link}" for one in report.accepting.to_audit]
    lines += [f"Label next           task {one.task}  {one.link}" for one in report.label_next]
    return lines


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"
