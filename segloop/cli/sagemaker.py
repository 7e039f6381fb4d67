"""Commands about Amazon SageMaker."""

from __future__ import annotations

from contextlib import closing
from typing import Any

import click

from segloop.cli.common import open_store, print_json, say, shared_options
from segloop.errors import QueueUnavailable, SettingsError
from segloop.settings import Settings, load_settings


@click.group()
def sagemaker() -> None:
    """Serve a version from a SageMaker endpoint."""


@sagemaker.command()
@click.argument("version")
@click.option("--endpoint", required=True, help="Name of the endpoint that is made, or updated.")
@click.option("--instance", default="ml.c6i.xlarge", show_default=True, help="Instance type.")
@click.option("--count", default=1, show_default=True, help="Instances.")
@click.option("--min", "least", type=int, help="Instances at the least, with --max.  [default: --count]")
@click.option("--max", "most", type=int, help="Instances at the most, by requests a minute.  [default: always --count]")
@click.option("--serverless", default=0, metavar="MEMORY_MB", help="No instances: pay by request (1024 to 6144 MB).")
@click.option("--concurrency", default=5, show_default=True, help="Requests at a time of a serverless endpoint.")
@click.option("--alarm", "alarms", multiple=True, metavar="NAME", help="CloudWatch alarm that rolls an update back.")
@click.option("--image", default="", help="Container image in place of AWS's own.")
@click.option("--dry-run", is_flag=True, help="Check and print the requests, and send nothing.")
@shared_options
def deploy(version: str, project: str | None, as_json: bool, dry_run: bool, serverless: int, **own: Any) -> None:
    """Have an endpoint serve a version, and wait until it does; where it does already, nothing changes."""
    from segloop.aws.clients import Clients
    from segloop.aws.endpoints import scaling
    from segloop.aws.endpoints.deployment import Deployment
    from segloop.aws.endpoints.requests import EndpointSpec

    settings = load_settings()
    registry, key = open_store(settings, project)
    least, most = own.pop("least"), own.pop("most")
    bounds = _bounds(least, most, own["count"], is_serverless=bool(serverless))
    if bounds is not None:
        own["count"] = bounds[0]
    spec = EndpointSpec(serverless_mb=serverless, **own)
    info = registry.get(key, version)
    result = Deployment(settings, registry).deploy(info, spec, say, dry_run=dry_run)
    if bounds is not None and not dry_run:
        scaling.scale(Clients(settings), spec.endpoint, *bounds)
    champion = registry.champion(key)
    serves_here = settings.endpoint == spec.endpoint and champion is not None and champion.version == version
    if result.done != "nothing" and serves_here:
        _refresh_predictions(settings, key, version)
    if as_json or dry_run:
        requests = result.requests
        print_json(
            {"done": result.done, "model": requests.model, "config": requests.config, "endpoint": requests.endpoint}
        )
    else:
        click.echo(f"endpoint {spec.endpoint}: {result.done}; it serves {version} of project {registry.shown_id(key)}")


@sagemaker.command()
@click.option("--endpoint", required=True, help="Name of the endpoint.")
@click.option(
    "--region", default="", help="AWS region.  [default: that of the settings, else of the AWS configuration]"
)
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def delete(endpoint: str, region: str, yes: bool, as_json: bool) -> None:
    """Delete an endpoint that segloop made, with its configuration and its model in SageMaker; it costs until then."""
    from segloop.aws.clients import Clients
    from segloop.aws.endpoints import scaling

    if not yes:
        click.confirm(f"Delete the endpoint {endpoint}?", abort=True, err=True)
    deleted = scaling.delete(Clients(load_settings(), region=region), endpoint)
    if as_json:
        print_json({"deleted": deleted})
    else:
        click.echo(f"deleted: {', '.join(deleted)}" if deleted else f"there is no endpoint {endpoint}")


def _bounds(least: int | None, most: int | None, count: int, *, is_serverless: bool) -> tuple[int, int] | None:
    """The least and the most instances of an endpoint that is scaled; None for one that is not."""
    if most is None:
        if least is not None:
            raise SettingsError("--min goes with --max; without both there are always --count instances")
        return None
    least = count if least is None else least
    if is_serverless or not 1 <= least <= most:
        raise SettingsError(f"--min {least} --max {most}: use 1 or more, the smaller first, and not with --serverless")
    return least, most


def _refresh_predictions(settings: Settings, project: str, version: str) -> None:
    """Predict what could not be predicted before the endpoint served the version."""
    from segloop.queue import Jobs

    try:
        with closing(Jobs.open(settings, timeout_s=5)) as jobs:
            jobs.enqueue_prelabel(project, version)
    except QueueUnavailable as error:
        click.echo(f"The predictions in Label Studio are not refreshed: {error}", err=True)
