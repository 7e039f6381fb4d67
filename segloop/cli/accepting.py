"""Pre-labels that become annotations unseen: what is accepted, going on, and taking all of it back."""

from __future__ import annotations

from contextlib import closing

import click

from segloop.cli.common import connected_project, print_json, shared_options, shown_id
from segloop.errors import SettingsError
from segloop.settings import Settings, load_settings

_PROJECT = click.option("--project", "-p", help="Id of the project; needed only where the store has several.")


@click.group()
def accept() -> None:
    """Accept pre-labels unseen, as far as blind labels prove it, or take that back.

    It is off until SEGLOOP_AUTO_ACCEPT=true. docs/does-it-help.md says what is proven, and what is not.
    """


@accept.command("status")
@shared_options
def accept_status(project: str | None, as_json: bool) -> None:
    """Say from which score on pre-labels are accepted, or why none is.

    \b
    Examples:
      segloop accept status --project 1
      segloop accept status --json
    """
    from segloop.accept import Rule, read_accept
    from segloop.ledger import read_ledger
    from segloop.registry import open_registry

    settings = load_settings()
    key = connected_project(settings, project)
    registry, rule = open_registry(settings), Rule.of(_own(settings, key))
    state, ledger = read_accept(registry, key), read_ledger(registry, key)
    accepted = ledger.accepted if ledger else 0
    if as_json:
        print_json({"project": key, "is_on": rule is not None, "accepted": accepted, **state.model_dump(mode="json")})
        return
    for sentence in ["Auto-accept is off." if rule is None else "", *(state.sentences(rule) if rule else ())]:
        if sentence:
            click.echo(sentence)
    click.echo(f"{accepted} annotations were accepted unseen, and are so still.")


@accept.command("run")
@_PROJECT
def accept_run(project: str | None) -> None:
    """Look at blind labels now, and accept what they allow; also after a suspension.

    A version that was tested is not tested again: the next one is.

    \b
    Examples:
      segloop accept run --project 1
    """
    from segloop.queue import Jobs
    from segloop.registry import open_registry
    from worker.jobs.accept import resume_accept

    settings = load_settings()
    key = connected_project(settings, project)
    if not _own(settings, key).auto_accept:
        raise SettingsError(
            f"auto-accept is off for project {shown_id(settings, key)}: set SEGLOOP_AUTO_ACCEPT=true first."
        )
    with closing(Jobs.open(settings, timeout_s=5)) as jobs:
        job = resume_accept(open_registry(settings), jobs, key)
    click.echo(
        f"project {shown_id(settings, key)}: job {job} is queued; `segloop accept status` says what becomes of it"
    )


@accept.command("undo")
@_PROJECT
def accept_undo(project: str | None) -> None:
    """Delete all annotations that segloop accepted and that nobody changed since.

    What a person changed stays. Nothing more is accepted until `segloop accept run`.

    \b
    Examples:
      segloop accept undo --project 1
    """
    from worker.jobs.accept import undo_accept
    from worker.jobs.context import JobContext

    settings = load_settings()
    key = connected_project(settings, project)
    with JobContext.open(settings) as context:
        deleted = undo_accept(context, key)
    click.echo(
        f"project {shown_id(settings, key)}: {deleted} annotations deleted; nothing is accepted until `segloop accept run`"
    )


def _own(settings: Settings, key: str) -> Settings:
    """The project's own settings."""
    from segloop.projects import own_settings, read_notes
    from segloop.registry import open_registry

    return own_settings(settings, key, read_notes(open_registry(settings), key))[0]
