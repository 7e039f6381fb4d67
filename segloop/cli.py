"""The command line: `segloop up`, `segloop versions`, and what they need."""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args, get_origin

import click
from pydantic import AliasChoices, SecretStr
from pydantic.fields import FieldInfo

from segloop import __version__
from segloop.errors import QueueUnavailable, SegloopError, UnknownProject
from segloop.settings import PROJECT_SETTINGS, Settings, load_settings

# What only some commands need is imported by them: `segloop serve` has to answer soon.
if TYPE_CHECKING:
    from rich.console import Console

    from segloop.registry import Champion, Registry, VersionInfo


class _Group(click.Group):
    """A group where a mistake of the user is one line on stderr and exit status 1, not a traceback."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except SegloopError as error:
            raise click.ClickException(str(error)) from error


@click.group(cls=_Group)
@click.version_option(__version__, prog_name="segloop")
def main() -> None:
    """A Label Studio ML backend for semantic segmentation that learns while people label."""


@main.command()
def up() -> None:
    """Start everything on this machine: server, workers and, unless REDIS_URL is set, the queue's own Valkey."""
    import segloop.supervisor

    segloop.supervisor.up(load_settings())


@main.command()
def serve() -> None:
    """Start the server alone."""
    import segloop.supervisor

    segloop.supervisor.serve(load_settings())


@main.command()
def worker() -> None:
    """Start one worker alone."""
    import segloop.supervisor

    segloop.supervisor.work(load_settings())


@main.command(hidden=True)
def settings() -> None:
    """Print the page docs/settings.md."""
    click.echo(settings_page(), nl=False)


# -- versions


@main.group()
def versions() -> None:
    """List, show, promote and roll back the versions of a project."""


def _shared_options(command: Callable[..., None]) -> Callable[..., None]:
    command = click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")(command)
    return click.option("--project", "-p", help="Id of the project; needed only where the store has several.")(command)


@versions.command("list")
@_shared_options
def list_versions(project: str | None, as_json: bool) -> None:
    """List the versions of a project, oldest first."""
    from rich.markup import escape
    from rich.table import Table

    settings = load_settings()
    registry, key = _open(settings, project)
    champion = registry.champion(key)
    infos = registry.versions(key)
    if as_json:
        _print_json([_summary(info, champion) for info in infos])
        return
    table = Table("", "version", "created", "mIoU", "champion's mIoU", "decision", title=f"project {key}")
    for info in infos:
        served = champion is not None and champion.version == info.version
        reason = (info.decision or {}).get("reason", "")
        cells = [info.created_at[:19], _miou(info.metrics, settings), _miou(info.champion_metrics, settings), reason]
        table.add_row("*" if served else "", f"[bold]{info.version}[/]", *(escape(str(cell)) for cell in cells))
    _console().print(table)
    _console().print(f"* is served since {champion.promoted_at[:19]}" if champion else "No version is served.")


@versions.command("show")
@click.argument("version", required=False)
@_shared_options
def show_version(version: str | None, project: str | None, as_json: bool) -> None:
    """Show a version, or without one the version that is served."""
    from rich.markup import escape
    from rich.table import Table

    settings = load_settings()
    registry, key = _open(settings, project)
    champion = registry.champion(key)
    if version is None:
        if champion is None:
            raise click.ClickException(f"project {key} serves no version yet; see: segloop versions list")
        version = champion.version
    info = registry.get(key, version)
    served = champion is not None and champion.version == version
    if as_json:
        _print_json({**dataclasses.asdict(info), "champion": served})
        return
    facts = Table(title=f"{version} of project {key}", show_header=False)
    for name, value in (
        ("served", f"since {champion.promoted_at[:19]}: {champion.reason}" if champion and served else "no"),
        ("created", info.created_at[:19]),
        ("network", f"{info.arch}, output stride {info.output_stride}, {info.input_size} px"),
        ("parent", info.parent or "none"),
        ("decision", (info.decision or {}).get("reason", "none")),
        ("mIoU", _miou(info.metrics, settings)),
        ("pixel accuracy", _share(info.metrics.get("pixel_accuracy"))),
        ("boundary F1", _share(info.metrics.get("boundary_f1"))),
        ("calibration error", _share(info.metrics.get("calibration_error"))),
        *(
            (f"engine {name}", engine["reason"] if engine["serves"] else f"does not serve. {engine['reason']}")
            for name, engine in info.engines.items()
            if isinstance(engine, dict) and "reason" in engine
        ),
    ):
        facts.add_row(name, escape(str(value)))
    scores = Table("class", "IoU", "champion's IoU", "boundary F1")
    theirs = (info.champion_metrics or {}).get("iou") or {}
    boundary = info.metrics.get("boundary_f1_by_class") or {}
    for name in info.classes:
        own = (info.metrics.get("iou") or {}).get(name)
        scores.add_row(escape(name), _share(own), _share(theirs.get(name)), _share(boundary.get(name)))
    _console().print(facts, scores)


@versions.command()
@click.argument("version")
@click.option("--reason", default="Promoted by hand.", show_default=True, help="Kept with the promotion.")
@_shared_options
def promote(version: str, reason: str, project: str | None, as_json: bool) -> None:
    """Serve a version from now on."""
    registry, key = _open(load_settings(), project)
    _report(registry.promote(key, version, reason), key, as_json)


@versions.command()
@click.option("--reason", default="Rolled back by hand.", show_default=True, help="Kept with the rollback.")
@_shared_options
def rollback(reason: str, project: str | None, as_json: bool) -> None:
    """Serve the version again that was served before; once more goes one further back."""
    registry, key = _open(load_settings(), project)
    _report(registry.rollback(key, reason), key, as_json)


@main.command()
@click.argument("version")
@click.option(
    "--tolerance",
    default=0.02,
    show_default=True,
    help="Largest difference of mIoU. Without a wall-clock budget, the same machine gives the very same metrics.",
)
@_shared_options
def reproduce(version: str, tolerance: float, project: str | None, as_json: bool) -> None:
    """Train a version again from the same snapshot, and compare its metrics; exit status 1 if they differ."""
    from rich.markup import escape
    from rich.table import Table

    from worker.jobs import Workshop
    from worker.jobs.reproduction import run_reproduce

    settings = load_settings()
    _, key = _open(settings, project)
    with Workshop.open(settings) as shop:
        result = run_reproduce(shop, key, version, _tell)
    difference = result["difference"]
    same = difference is not None and abs(difference) <= tolerance
    if as_json:
        _print_json({**result, "tolerance": tolerance, "same": same})
    else:
        table = Table("", version, "again", title=f"{result['tasks']} tasks, snapshot {result['snapshot'][:12]}")
        then, now = result["metrics"], result["reproduced"]
        for label, name in (("mIoU", "miou"), ("pixel accuracy", "pixel_accuracy"), ("boundary F1", "boundary_f1")):
            table.add_row(label, _share(then.get(name)), _share(now.get(name)))
        for name, iou in (now.get("iou") or {}).items():
            table.add_row(escape(f"IoU {name}"), _share((then.get("iou") or {}).get(name)), _share(iou))
        _console().print(table)
        click.echo(f"The same within {tolerance:g} mIoU." if same else f"Not the same within {tolerance:g} mIoU.")
    if not same:
        raise SystemExit(1)


@main.command()
@_shared_options
def stop(project: str | None, as_json: bool) -> None:
    """Stop the training of a project that is queued or under way; what is served stays as it is."""
    from segloop.registry import open_registry
    from worker.queue import Jobs

    settings = load_settings()
    registry = open_registry(settings)
    key = registry.resolve(project) if project is not None else _only(registry.projects(), settings)
    jobs = Jobs.open(settings, timeout_s=5)
    try:
        job_id = jobs.ask_stop(key) if jobs.live_retrain(key) is not None else None
    finally:
        jobs.close()
    if as_json:
        _print_json({"project": key, "job": job_id})
    elif job_id is None:
        click.echo(f"project {key} has no training under way")
    else:
        click.echo(f"project {key}: job {job_id} is asked to stop; it ends within seconds, in SageMaker within minutes")


@main.group()
def sagemaker() -> None:
    """Serve a version from a SageMaker endpoint."""


@sagemaker.command()
@click.argument("version")
@click.option("--endpoint", required=True, help="Name of the endpoint that is made, or updated.")
@click.option("--instance", default="ml.c6i.xlarge", show_default=True, help="Instance type.")
@click.option("--count", default=1, show_default=True, help="Instances.")
@click.option("--serverless", default=0, metavar="MEMORY_MB", help="No instances: pay by request (1024 to 6144 MB).")
@click.option("--concurrency", default=5, show_default=True, help="Requests at a time of a serverless endpoint.")
@click.option("--alarm", "alarms", multiple=True, metavar="NAME", help="CloudWatch alarm that rolls an update back.")
@click.option("--image", default="", help="Container image in place of AWS's own.")
@click.option("--dry-run", is_flag=True, help="Check and print the requests, and send nothing.")
@_shared_options
def deploy(version: str, project: str | None, as_json: bool, dry_run: bool, serverless: int, **own: Any) -> None:
    """Have an endpoint serve a version, and wait until it does; where it does already, nothing changes."""
    from worker.endpoints import Deployment, Wish

    settings = load_settings()
    registry, key = _open(settings, project)
    wish = Wish(serverless_mb=serverless, **own)
    result = Deployment(settings, registry).deploy(key, version, wish, _tell, dry_run=dry_run)
    champion = registry.champion(key)
    serves_here = settings.endpoint == wish.endpoint and champion is not None and champion.version == version
    if result["done"] != "nothing" and serves_here:
        _refresh_predictions(settings, key, version)
    if as_json or dry_run:
        _print_json(result)
    else:
        click.echo(f"endpoint {wish.endpoint}: {result['done']}; it serves {version} of project {key}")


def _refresh_predictions(settings: Settings, project: str, version: str) -> None:
    """Predict what could not be predicted before the endpoint served the version."""
    from worker.queue import Jobs

    jobs = Jobs.open(settings, timeout_s=5)
    try:
        jobs.enqueue_prelabel(project, version)
    except QueueUnavailable as error:
        click.echo(f"The predictions in Label Studio are not refreshed: {error}", err=True)
    finally:
        jobs.close()


def _tell(progress: dict[str, Any]) -> None:
    """A line of progress on stderr, rewritten in place on a terminal."""
    step = f" {progress['step']} of {progress['steps']}" if "step" in progress and "steps" in progress else ""
    text = progress.get("message") or f"{progress.get('phase', '')}{step}"
    click.echo(f"\r\x1b[K{text}" if sys.stderr.isatty() else text, err=True, nl=not sys.stderr.isatty())


def _open(settings: Settings, project: str | None) -> tuple[Registry, str]:
    from segloop.registry import open_registry

    registry = open_registry(settings)
    if project is not None:
        return registry, registry.resolve(project)
    return registry, _only([key for key in registry.projects() if registry.versions(key)], settings)


def _only(projects: list[str], settings: Settings) -> str:
    if len(projects) == 1:
        return projects[0]
    if projects:
        raise UnknownProject(f"the store has several projects ({', '.join(projects)}); name one with --project")
    raise UnknownProject(f"the store {settings.store_url} has no version yet; press Start Training in Label Studio")


def _report(champion: Champion, project: str, as_json: bool) -> None:
    if as_json:
        _print_json(dataclasses.asdict(champion))
    else:
        click.echo(f"project {project} serves {champion.version} (generation {champion.generation})")


def _summary(info: VersionInfo, champion: Champion | None) -> dict[str, Any]:
    return {
        "version": info.version,
        "created_at": info.created_at,
        "parent": info.parent,
        "metrics": info.metrics,
        "champion_metrics": info.champion_metrics,
        "decision": info.decision,
        "champion": champion is not None and champion.version == info.version,
    }


def _miou(metrics: dict[str, Any] | None, settings: Settings) -> str:
    share = _share((metrics or {}).get("miou"))
    tasks = (metrics or {}).get("tasks")
    few = isinstance(tasks, int) and tasks < settings.min_val_tasks
    return f"{share} (only {tasks} held-out tasks)" if few else share


def _share(value: Any) -> str:
    return f"{value:.4f}" if isinstance(value, int | float) else "-"


def _print_json(value: Any) -> None:
    click.echo(json.dumps(value, indent=1, ensure_ascii=False))


def _console() -> Console:
    from rich.console import Console

    return Console(highlight=False)


# -- settings


def settings_page() -> str:
    """docs/settings.md: every setting with its variable, its default and its help."""
    lines = [
        "# Settings",
        "",
        "Each is an environment variable, or a line in the file `.env` of the folder segloop starts in. An empty value",
        "counts as unset. Those marked *per project* can also be given to one project: as a JSON object in the *extra params*",
        'of its ML backend in Label Studio, by the name in brackets, such as `{"retrain_threshold": 20}`.',
        "",
        "This page is printed by `segloop settings`.",
        "",
        "| Variable | Default | What it does |",
        "|---|---|---|",
    ]
    for name, field in Settings.model_fields.items():
        own = f"<br>*per project* (`{name}`)" if name in PROJECT_SETTINGS else ""
        text = f"{field.description}{_choices(field)}".replace("|", "\\|")
        lines.append(f"| `{_variable(name, field)}`{own} | {_default(field)} | {text} |")
    return "\n".join(lines) + "\n"


def _variable(name: str, field: FieldInfo) -> str:
    alias = field.validation_alias
    return str(alias.choices[-1]) if isinstance(alias, AliasChoices) else f"SEGLOOP_{name.upper()}"


def _choices(field: FieldInfo) -> str:
    if get_origin(field.annotation) is not Literal:
        return ""
    return f" One of {', '.join(f'`{choice}`' for choice in get_args(field.annotation))}."


def _default(field: FieldInfo) -> str:
    default = field.default
    if isinstance(default, Path):
        return "the user's data folder (on Linux `~/.local/share/segloop`)"
    if isinstance(default, SecretStr):
        default = default.get_secret_value()
    return "empty" if default in ("", (), None) else f"`{default}`"


if __name__ == "__main__":
    main()
