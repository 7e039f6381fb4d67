"""Train now, and follow it."""

from __future__ import annotations

import time
from contextlib import closing, suppress
from typing import TYPE_CHECKING, Final

import click

from segloop.cli.common import connected_project, console, print_json, shared_options, shown_id, tell
from segloop.settings import load_settings

if TYPE_CHECKING:
    from segloop.progress import Progress
    from segloop.queue import Jobs
    from segloop.queue.status import JobStatus

_POLL_S: Final = 0.5
_ENDED: Final = ("finished", "failed", "stopped", "canceled")
#: The queue may be away for a moment while a training goes on.
_PATIENCE: Final = 20


@click.command()
@click.option("--follow", "-f", is_flag=True, help="Show the progress, and end as the training does.")
@shared_options
def train(project: str | None, follow: bool, as_json: bool) -> None:
    """Train a project now, as Start Training in Label Studio does.

    Joins the training that is queued or under way, if there is one. With --follow the exit status says how it ended;
    Ctrl-C stops the following, and never the training.

    \b
    Examples:
      segloop train --project 7 --follow
      segloop train --json
    """
    from segloop.queue import RETRAIN_QUEUE, Jobs
    from segloop.queue.state import queue_state

    settings = load_settings()
    key = connected_project(settings, project)
    with closing(Jobs.open(settings, timeout_s=5)) as jobs:
        queued = jobs.enqueue_retrain(key, "segloop train")
        if not as_json:
            joined = "it is under way already, and is joined" if queued.joined else "it is queued"
            click.echo(f"project {shown_id(settings, key)}: job {queued.job_id}; {joined}")
        if not queue_state(jobs).workers[RETRAIN_QUEUE]:
            click.echo("No worker listens now: it begins when one does (segloop up, or segloop worker).", err=True)
        if not follow:
            if as_json:
                print_json({"project": key, "job": queued.job_id, "joined": queued.joined})
            return
        status = _follow(jobs, shown_id(settings, key), queued.job_id)
    _report(status, as_json)


def _follow(jobs: Jobs, project: str, job_id: str) -> JobStatus:
    """The status of a job at its end; what it does meanwhile is shown."""
    try:
        return _bar(jobs, job_id) if console(stderr=True).is_terminal else _lines(jobs, job_id)
    except KeyboardInterrupt:
        click.echo(f"\nThe training goes on as job {job_id}.", err=True)
        click.echo(f"Follow it again: segloop train --follow --project {project}", err=True)
        click.echo(f"Stop it: segloop stop --project {project}", err=True)
        raise SystemExit(130) from None


def _lines(jobs: Jobs, job_id: str) -> JobStatus:
    """A line for each phase, for logs and pipes."""
    shown = None
    while True:
        status = _status(jobs, job_id)
        if status["job_status"] in _ENDED:
            return status
        progress = status.get("progress") or {"phase": status["job_status"]}
        phase = progress.get("message") or progress.get("phase")
        if phase != shown:
            shown = phase
            tell(progress)
        time.sleep(_POLL_S)


def _bar(jobs: Jobs, job_id: str) -> JobStatus:
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (
        TextColumn("[bold]{task.description:<12}"),
        BarColumn(),
        TextColumn("{task.fields[facts]}"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console(stderr=True)) as bar:
        row = bar.add_task("queued", total=None, facts="")
        while True:
            status = _status(jobs, job_id)
            progress = status.get("progress") or {}
            bar.update(
                row,
                description=progress.get("phase", status["job_status"]),
                total=progress.get("steps"),
                completed=progress.get("step", 0),
                facts=_facts(progress),
            )
            if status["job_status"] in _ENDED:
                return status
            time.sleep(_POLL_S)


def _status(jobs: Jobs, job_id: str) -> JobStatus:
    from segloop.errors import QueueUnavailable

    for _ in range(_PATIENCE):
        with suppress(QueueUnavailable):
            return jobs.job_status(job_id)
        time.sleep(_POLL_S)
    return jobs.job_status(job_id)


def _facts(progress: Progress) -> str:
    figures = {"loss": progress.get("loss"), "miou": progress.get("miou")}
    facts = [f"{name} {value:.3f}" for name, value in figures.items() if value is not None]
    if eta_s := progress.get("eta_s"):
        facts.append(f"{eta_s:.0f} s left")
    return ", ".join(facts)


def _report(status: JobStatus, as_json: bool) -> None:
    result = status.get("result") or {}
    if as_json:
        print_json(status)
    elif status["job_status"] == "finished":
        promoted = "promoted" if result.get("promoted") else "not promoted"
        version = result.get("version")
        click.echo(f"{f'{version} is {promoted}: ' if version else ''}{result.get('reason', 'done')}")
    else:
        click.echo(
            f"The training {status['job_status']}: {status.get('error') or 'see the log of the worker'}", err=True
        )
    if status["job_status"] != "finished":
        raise SystemExit(1)
