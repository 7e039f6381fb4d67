"""Commands about the managed route in an AWS account."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from segloop.cli.common import console, print_json
from segloop.settings import load_settings

if TYPE_CHECKING:
    from segloop.aws.clients import Clients
    from segloop.aws.route import RouteStatus
    from segloop.aws.route.change_sets import Event
    from segloop.aws.route.deploy import StackResult

_MARKS = {"created": "green", "updated": "yellow", "planned": "yellow", "unchanged": "dim"}


@click.group()
def aws() -> None:
    """The managed route: S3, a webhook that counts, and a SageMaker pipeline, in an AWS account."""


def _route(command: Callable[..., None]) -> Callable[..., None]:
    """The options that all commands of the group have."""
    command = click.option("--json", "as_json", is_flag=True, help="Print JSON.")(command)
    region = "AWS region.  [default: that of SEGLOOP_SAGEMAKER_REGION, else of the AWS configuration]"
    command = click.option("--region", default="", help=region)(command)
    return click.option("--name", default="segloop", show_default=True, help="The route's name, and its stack's.")(
        command
    )


def _several(context: click.Context, parameter: click.Parameter, given: tuple[str, ...]) -> tuple[str, ...] | None:
    """The values of an option that may be repeated; None where it is not given, and none where it is '' alone."""
    return tuple(filter(None, given)) if given else None


@aws.command()
@click.option("--annotations", type=int, help="Annotations of a project that start a training.  [new route: 100]")
@click.option(
    "--count-updates/--no-count-updates", default=None, help="Whether a later save counts too.  [new route: no]"
)
@click.option("--target", type=click.Choice(["pipeline", "segloop"]), help="What is started.  [new route: pipeline]")
@click.option("--segloop-url", metavar="URL", help="With --target segloop: https:// address of segloop's server.")
@click.option("--endpoint", metavar="NAME", help="SageMaker endpoint that pre-labels new tasks; '' for none.")
@click.option("--label-studio-url", metavar="URL", help="Address of Label Studio; its pages may load the images.")
@click.option("--log-days", type=int, help="How long logs are kept.  [new route: 30]")
@click.option("--receiver-concurrency", type=int, help="Reserved for the webhook's function; 0: none.")
@click.option("--worker-concurrency", type=int, help="Reserved for the counting function; 0: none.")
@click.option("--alarm-topic", metavar="ARN", help="SNS topic that the alarms tell.")
@click.option("--instance", metavar="TYPE", help="Instance type of trainings.")
@click.option("--image", metavar="URI", help="Container image of trainings.  [default: AWS's own of PyTorch]")
@click.option(
    "--inference-image",
    metavar="URI",
    help="Container image that registered models are deployed with.  [default: AWS's own of PyTorch, for CPUs]",
)
@click.option("--max-runtime", "max_runtime_s", type=int, metavar="S", help="A training's longest time in seconds.")
@click.option("--spot/--no-spot", default=None, help="Whether trainings run on spot instances.")
@click.option("--minimum-miou", type=float, help="Least mIoU of a model that is registered.")
@click.option("--weights", type=click.Choice(["coco", "imagenet", "none"]), help="What a first training begins with.")
@click.option("--epochs", type=int, help="Passes over the training tasks.")
@click.option("--minutes", type=float, help="Wall-clock budget of a training; 0: none.")
@click.option("--wheels", metavar="S3URI", help="Folder of wheels, in place of PyPI.")
@click.option(
    "--store", metavar="S3URI", help="segloop's store (SEGLOOP_STORE), where it is not the artifacts bucket's."
)
@click.option("--model-days", type=int, help="How long what trainings leave is kept.  [new route: 90]")
@click.option("--volume-gb", type=int, help="Disk of a training's instance, in GB.  [new route: 50]")
@click.option("--source-bucket", metavar="NAME", help="A bucket of yours for images, in place of one that is made.")
@click.option("--target-bucket", metavar="NAME", help="A bucket of yours for annotations.")
@click.option("--artifacts-bucket", metavar="NAME", help="A bucket of yours for code, models and versions.")
@click.option("--permissions-boundary", "boundary", metavar="ARN", help="IAM policy that bounds the route's roles.")
@click.option(
    "--output-kms-key", "output_key", metavar="ARN", help="KMS key that models are encrypted with; '' for none."
)
@click.option("--volume-kms-key", "volume_key", metavar="ARN", help="KMS key of a training's disk; '' for none.")
@click.option(
    "--subnet",
    "subnets",
    multiple=True,
    callback=_several,
    metavar="ID",
    help="Subnet that trainings run in; '' for none.",
)
@click.option(
    "--security-group",
    "security_groups",
    multiple=True,
    callback=_several,
    metavar="ID",
    help="Security group of trainings.",
)
@click.option("--tag", "tags", multiple=True, metavar="NAME=VALUE", help="Tag of all that is made; give all of them.")
@click.option("--dry-run", is_flag=True, help="Check, print what would change, and change nothing.")
@click.option("--force", is_flag=True, help="Deploy in spite of what the account lacks, such as a quota.")
@_route
def deploy(name: str, region: str, as_json: bool, dry_run: bool, force: bool, **own: Any) -> None:
    """Make the route, or bring it up to date; an option that is not given stays as it is.

    First everything is checked that would be in the way: options, the region, the account's quotas.
    """
    from segloop.aws.route import Deployment, Options

    options = Options(name, is_checked=False, **own)
    with _Watch() as watch:
        result = Deployment(_account(region), options, watch).run(load_settings(), dry_run=dry_run, force=force)
    if as_json:
        print_json(result)
        return
    for stack in result.stacks:
        _print_changes(stack)
    for line in result.outputs.items():
        click.echo("{}: {}".format(*line))
    if not dry_run:
        click.echo(f"Next, for each project: segloop aws connect --name {name} --project ID")


@aws.command()
@_route
def status(name: str, region: str, as_json: bool) -> None:
    """Show the stacks, each project's count, launches, dead letters, pipeline executions and the last error."""
    from segloop.aws.route import route_status

    found = route_status(_account(region), name)
    if as_json:
        print_json(found)
    else:
        _print_status(found)
    if not found.stacks:
        raise SystemExit(1)


@aws.command()
@click.option("--delete-data", is_flag=True, help="Delete images, annotations and models too.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@_route
def destroy(name: str, region: str, as_json: bool, delete_data: bool, yes: bool) -> None:
    """Remove the route. Buckets with something in them stay, but with --delete-data."""
    from segloop.aws.route import Removal

    removal = Removal(_account(region), name, delete_data=delete_data)
    plan = removal.plan()
    if not plan.is_empty and not yes:
        for stack, state in plan.stacks.items():
            click.echo(f"deletes the stack {stack} ({state})", err=True)
        for bucket in plan.removed:
            click.echo(f"deletes the bucket {bucket} with all that is in it", err=True)
        for bucket in plan.kept:
            click.echo(f"keeps the bucket {bucket}", err=True)
        for bucket in plan.others:
            click.echo(f"keeps the bucket {bucket}, which the route did not make", err=True)
        click.confirm(f"Remove the route {name}?", abort=True, err=True)
    with _Watch() as watch:
        result = removal.run(watch.say, watch.event)
    if as_json:
        print_json(result)
    elif plan.is_empty:
        click.echo(f"there is no route {name}")
    else:
        click.echo(f"the route {name} is removed")
    for bucket in () if as_json else plan.kept:
        click.echo(f"kept: s3://{bucket}; to delete it with its data: segloop aws destroy --name {name} --delete-data")


@aws.command()
@click.option("--project", "-p", type=int, required=True, help="Id of the project in Label Studio.")
@click.option("--s3-endpoint", default="", metavar="URL", help="Address of an S3 that is not AWS's, for Label Studio.")
@click.option("--regex", help="Which keys become tasks.  [default: those of images]")
@click.option("--presign/--no-presign", default=True, show_default=True, help="Browsers load images from S3 itself.")
@click.option("--presign-minutes", default=60, show_default=True, help="How long an image's address is valid.")
@click.option("--webhook-url", default="", metavar="URL", help="A domain of your own in place of the route's address.")
@_route
def connect(name: str, region: str, as_json: bool, project: int, webhook_url: str, **own: Any) -> None:
    """Connect a Label Studio project: its S3 storages, synced, and the webhook with its secret; repeat it at will.

    Label Studio gets the access key of SEGLOOP_STORAGE_ACCESS_KEY_ID and SEGLOOP_STORAGE_SECRET_ACCESS_KEY, or none.
    """
    from segloop.aws.route import Connection
    from segloop.aws.route.connect import IMAGES, Storages, keys_of
    from segloop.labelstudio import LabelStudio

    settings = load_settings()
    storages = Storages(
        keys_of(settings), own["s3_endpoint"], own["regex"] or IMAGES, own["presign"], own["presign_minutes"]
    )
    with closing(LabelStudio.from_settings(settings)) as label_studio:
        done = Connection(_account(region), name, label_studio, project, storages).make(webhook_url)
    if as_json:
        print_json(done)
        return
    for item in done:
        changed = f" ({', '.join(item.changed)})" if item.changed else ""
        synced = f", {item.synced} synced" if item.synced is not None else ""
        click.echo(f"{item.what}: {item.done}{changed}, {item.place}{synced}")


@aws.command()
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--project", "-p", type=int, required=True, help="Id of the project in Label Studio.")
@_route
def upload(folder: Path, name: str, region: str, as_json: bool, project: int) -> None:
    """Send the images of a FOLDER to the source bucket; a repeat sends what is not there yet."""
    from rich.progress import Progress

    from segloop.aws.route import Upload

    out = console(stderr=True)
    with Progress(console=out, disable=not out.is_terminal) as progress:
        bar = progress.add_task("images")
        result = Upload(_account(region), name, project).run(
            folder, lambda done, whole: progress.update(bar, completed=done, total=whole)
        )
    if as_json:
        print_json(result)
        return
    others = f", {result.others} other files are left alone" if result.others else ""
    click.echo(f"{result.place}: {result.sent} images sent, {result.there} were there{others}")
    click.echo(f"Next, so that they become tasks: segloop aws connect --name {name} --project {project}")


@aws.command()
@click.option("--project", "-p", type=int, help="Id of the project in Label Studio.  [default: all]")
@_route
def backfill(name: str, region: str, as_json: bool, project: int | None) -> None:
    """Have each annotation of the target bucket counted that was not: what was there before the route, or was missed."""
    from segloop.aws.route import Backfill

    with console(stderr=True).status("told to the counter: 0 annotations") as status:
        told = Backfill(_account(region), name, project).run(
            lambda so_far: status.update(f"told to the counter: {so_far} annotations")
        )
    if as_json:
        print_json({"told": told})
    else:
        click.echo(f"told to the counter: {told} annotations; it counts those that it has not counted before")


def _account(region: str) -> Clients:
    from segloop.aws.clients import Clients

    return Clients(load_settings(), region=region)


class _Watch:
    """Progress on stderr: a bar for each stack on a terminal, a line for each event elsewhere."""

    def __init__(self) -> None:
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

        self._out = console(stderr=True)
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        self._progress = Progress(*columns, console=self._out, disable=not self._out.is_terminal)
        self._ended: set[str] = set()

    def __enter__(self) -> _Watch:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def say(self, text: str) -> None:
        self._out.print(text, markup=False, soft_wrap=True)

    def begin(self, stack: str, changes: int) -> None:
        self._ended = set()
        self._progress.add_task(stack, total=changes)
        if not self._out.is_terminal:
            self.say(f"{stack}: {changes} changes")

    def event(self, event: Event) -> None:
        if event.is_failure or not (self._out.is_terminal or event.status.endswith("_IN_PROGRESS")):
            self.say(f"{event.status} {event.resource} {event.reason}".rstrip())
        if event.type != "AWS::CloudFormation::Stack" and event.status.endswith("_COMPLETE"):
            self._ended.add(event.resource)
            for task in self._progress.task_ids[-1:]:
                self._progress.update(task, completed=len(self._ended))


def _print_changes(stack: StackResult) -> None:
    from rich.markup import escape

    out = console()
    nothing = "nothing to change" if stack.done == "unchanged" else stack.done
    out.print(f"[{_MARKS[stack.done]}]{escape(stack.stack)}: {nothing}[/]")
    for change in stack.changes:
        replaced = {"True": ", replaced", "Conditional": ", perhaps replaced"}.get(change.replacement, "")
        out.print(f"  {change.action.lower()} {change.resource} ({change.type}{replaced})", markup=False)


def _print_status(found: RouteStatus) -> None:
    from rich.markup import escape
    from rich.table import Table

    if not found.stacks:
        click.echo(f"there is no route {found.name} in {found.region}")
        return
    out = console()
    for stack in found.stacks:
        out.print(f"{stack.name}: {stack.status} since {stack.changed_at}", markup=False)
    projects = Table(
        "project", "pending", f"of {found.annotations_per_training}", "counted", "trainings", title="counts"
    )
    for project in found.projects:
        left = max(found.annotations_per_training - project.pending, 0)
        numbers = (project.pending, f"{left} left", project.counted, project.generation)
        projects.add_row(escape(project.project), *map(str, numbers))
    launches = Table("project", "number", "due", "started", "as", "outcome", title="launches")
    for launch in found.launches:
        moments = (launch.claimed_at, launch.started_at or "not yet", launch.started_as)
        failed = f"failed {launch.tries} times: {launch.problem}" if launch.problem else ""
        outcome = ", ".join(filter(None, (launch.outcome, failed)))
        launches.add_row(*map(escape, (launch.project, str(launch.generation), *moments, outcome)))
    executions = Table("execution", "status", "started", "failure", title="pipeline")
    for one in found.executions:
        executions.add_row(*map(escape, (one.execution, one.status, one.started_at, one.failure)))
    for table in (projects, launches, executions):
        if table.row_count:
            out.print(table)
    if found.queue:
        waiting, dead = sum(found.queue.values()), found.dead_letters["waiting"]
        out.print(f"{waiting} events wait to be counted, {dead} could not be handled")
    out.print(f"last error: {found.last_error or 'none'}", markup=False)
