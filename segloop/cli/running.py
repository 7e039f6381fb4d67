"""Commands that start segloop, and that stop a training."""

from __future__ import annotations

from contextlib import closing

import click

from segloop.cli.common import connected_project, print_json, shared_options, shown_id
from segloop.installation import require_extra
from segloop.settings import load_settings


@click.command()
def up() -> None:
    """Start everything on this machine.

    That is the server, its workers and, unless REDIS_URL is set, the queue's own Valkey. Ctrl-C stops it all.
    """
    import segloop.supervisor

    segloop.supervisor.up(load_settings())


@click.command()
def serve() -> None:
    """Start the server alone."""
    import segloop.server

    segloop.server.serve(load_settings())


@click.command()
def worker() -> None:
    """Start one worker alone."""
    require_extra("worker")
    from worker.__main__ import run

    run(load_settings())


@click.command()
@shared_options
def stop(project: str | None, as_json: bool) -> None:
    """Stop the training of a project.

    Whether it is queued or under way; what is served stays as it is.
    """
    from segloop.queue import Jobs

    settings = load_settings()
    key = connected_project(settings, project)
    with closing(Jobs.open(settings, timeout_s=5)) as jobs:
        job_id = jobs.ask_stop(key) if jobs.live_retrain(key) is not None else None
    if as_json:
        print_json({"project": key, "job": job_id})
    elif job_id is None:
        click.echo(f"project {shown_id(settings, key)} has no training under way")
    else:
        ends = "it ends within seconds, in SageMaker within minutes"
        click.echo(f"project {shown_id(settings, key)}: job {job_id} is asked to stop; {ends}")
