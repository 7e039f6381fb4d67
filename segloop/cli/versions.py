"""Commands about versions: list, show, promote, roll back, repair, prune, reproduce."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import TYPE_CHECKING

import click

from segloop.cli.common import console, open_store, print_json, share, shared_options, tell
from segloop.errors import RegistryError
from segloop.settings import Settings, load_settings

if TYPE_CHECKING:
    from segloop.registry import Champion, Registry, VersionInfo
    from segloop.versions import GuidedFigures, Metrics


@dataclasses.dataclass(frozen=True)
class _Removed:
    """A version whose model goes, and how large it is."""

    project: str
    version: str
    bytes: int


@click.group()
def versions() -> None:
    """List, show, promote, roll back, repair and prune the versions of a project."""


@versions.command("list")
@shared_options
def list_versions(project: str | None, as_json: bool) -> None:
    """List the versions of a project, oldest first."""
    from rich.markup import escape
    from rich.table import Table

    settings = load_settings()
    registry, key = open_store(settings, project)
    champion = registry.champion(key)
    infos = registry.versions(key)
    removed = registry.removed(key)
    if as_json:
        print_json([_summary(info, champion) | {"model_removed": removed.get(info.version)} for info in infos])
        return
    table = Table(
        "", "version", "created", "mIoU", "champion's mIoU", "decision", title=f"project {registry.shown_id(key)}"
    )
    for info in infos:
        served = champion is not None and champion.version == info.version
        reason = info.decision.reason if info.decision else ""
        if when := removed.get(info.version):
            reason = f"Model removed on {when[:10]}. {reason}"
        cells = [info.created_at[:19], _miou(info.metrics, settings), _miou(info.champion_metrics, settings), reason]
        table.add_row("*" if served else "", f"[bold]{info.version}[/]", *(escape(str(cell)) for cell in cells))
    console().print(table)
    console().print(f"* is served since {champion.promoted_at[:19]}" if champion else "No version is served.")


@versions.command("show")
@click.argument("version", required=False)
@shared_options
def show_version(version: str | None, project: str | None, as_json: bool) -> None:
    """Show a version, or without one the version that is served."""
    from rich.markup import escape
    from rich.table import Table

    settings = load_settings()
    registry, key = open_store(settings, project)
    champion = registry.champion(key)
    if version is None:
        if champion is None:
            raise click.ClickException(
                f"project {registry.shown_id(key)} serves no version yet; see: segloop versions list"
            )
        version = champion.version
    info = registry.get(key, version)
    served = champion is not None and champion.version == version
    if as_json:
        print_json({**info.model_dump(by_alias=True), "champion": served})
        return
    facts = Table(title=f"{version} of project {registry.shown_id(key)}", show_header=False)
    for name, value in (
        ("served", f"since {champion.promoted_at[:19]}: {champion.reason}" if champion and served else "no"),
        ("created", info.created_at[:19]),
        ("network", f"{info.arch}, output stride {info.output_stride}, {info.input_size} px"),
        ("parent", info.parent or "none"),
        ("decision", info.decision.reason if info.decision else "none"),
        ("mIoU", _miou(info.metrics, settings)),
        ("pixel accuracy", share(info.metrics.pixel_accuracy)),
        ("predicted as absent classes", share(info.metrics.absent_share())),
        ("boundary F1", share(info.metrics.boundary_f1)),
        ("calibration error", share(info.metrics.calibration_error)),
        *(
            (f"engine {name}", engine.reason if engine.serves else f"does not serve. {engine.reason}")
            for name, engine in info.engines.figures().items()
            if engine.reason
        ),
        ("guided head", _guided(info.engines.guided)),
    ):
        facts.add_row(name, escape(str(value)))
    scores = Table("class", "IoU", "champion's IoU", "boundary F1", "false positives", "champion's")
    ours, theirs = info.metrics, info.champion_metrics
    for name in info.classes:
        figures = (
            ours.iou.get(name),
            theirs and theirs.iou.get(name),
            ours.boundary_f1_by_class.get(name),
            ours.absent_share(name),
            theirs and theirs.absent_share(name),
        )
        scores.add_row(escape(name), *map(share, figures))
    console().print(facts, scores)


@versions.command()
@click.argument("version")
@click.option("--reason", default="Promoted by hand.", show_default=True, help="Kept with the promotion.")
@shared_options
def promote(version: str, reason: str, project: str | None, as_json: bool) -> None:
    """Serve a version from now on."""
    registry, key = open_store(load_settings(), project)
    _report(registry, registry.promote(key, version, reason), key, as_json)


@versions.command()
@click.option("--reason", default="Rolled back by hand.", show_default=True, help="Kept with the rollback.")
@shared_options
def rollback(reason: str, project: str | None, as_json: bool) -> None:
    """Serve the version again that was served before; once more goes one further back."""
    registry, key = open_store(load_settings(), project)
    _report(registry, registry.rollback(key, reason), key, as_json)


@versions.command()
@shared_options
def repair(project: str | None, as_json: bool) -> None:
    """Make a damaged champion pointer again, from what is known of the versions.

    The version is served that the pointer still names, else the newest that won its comparison, once its files are verified. Promotions and
    rollbacks by hand are noted in the pointer alone: look at what is served afterwards.
    """
    registry, key = open_store(load_settings(), project)
    champion = registry.repair(key)
    if champion is not None:
        _report(registry, champion, key, as_json)
    elif as_json:
        print_json({"project": key, "repaired": False})
    else:
        click.echo(f"project {registry.shown_id(key)}: the pointer is whole; nothing is repaired.")


@versions.command()
@click.option(
    "--keep",
    type=click.IntRange(min=1),
    default=10,
    show_default=True,
    help="How many of the newest versions keep their models.",
)
@click.option("--all-projects", is_flag=True, help="Of every project in the store.")
@click.option("--dry-run", is_flag=True, help="Only say what would go.")
@shared_options
def prune(keep: int, all_projects: bool, dry_run: bool, project: str | None, as_json: bool) -> None:
    """Remove the models of old versions, to free space.

    The version that is served and the one before it stay, and so do the newest. Of the others weights and exported
    engines go, for good: they can no longer be served or compared with. Their figures, their snapshot's manifest and
    their held-out images stay.
    """
    from segloop.registry import open_registry

    settings = load_settings()
    if all_projects:
        if project is not None:
            raise click.UsageError("--project and --all-projects exclude each other")
        registry = open_registry(settings)
        keys = registry.projects()
    else:
        registry, key = open_store(settings, project)
        keys = [key]
    rows: list[_Removed] = []
    failed = False
    for key in keys:
        try:
            for row in _pruned(registry, key, keep, dry_run=dry_run):
                rows.append(row)  # noqa: PERF402 - those before an error count
        except RegistryError as error:
            failed = True
            click.echo(f"Error: {error}", err=True)
    _report_removed(registry, rows, dry_run=dry_run, as_json=as_json)
    if failed:
        raise SystemExit(1)


def _pruned(registry: Registry, key: str, keep: int, *, dry_run: bool) -> Iterator[_Removed]:
    """Remove the models of a project's old versions; each that goes."""
    from segloop.registry import model_bytes, prunable_versions

    gone = registry.removed(key)
    for info in prunable_versions(registry.versions(key), registry.champion(key), keep):
        if not dry_run:
            registry.remove(key, info.version)  # one that is gone too: what a removal that was killed left
        if info.version not in gone:
            yield _Removed(key, info.version, model_bytes(info))


def _report_removed(registry: Registry, rows: list[_Removed], *, dry_run: bool, as_json: bool) -> None:
    if as_json:
        print_json({"dry_run": dry_run, "removed": rows})
        return
    shown = {row.project: registry.shown_id(row.project) for row in rows}
    for row in rows:
        click.echo(f"project {shown[row.project]}: {row.version}, {row.bytes / 1e6:,.0f} MB")
    total = sum(row.bytes for row in rows) / 1e9
    done = "would be removed" if dry_run else "removed"
    click.echo(f"{len(rows)} models {done}, {total:,.2f} GB.")


@click.command()
@click.argument("version")
@click.option(
    "--tolerance",
    default=0.02,
    show_default=True,
    help="Largest difference of mIoU. Without a wall-clock budget, the same machine gives the very same metrics.",
)
@shared_options
def reproduce(version: str, tolerance: float, project: str | None, as_json: bool) -> None:
    """Train a version again, and compare.

    From the same snapshot; exit status 1 if the metrics differ.
    """
    from rich.markup import escape
    from rich.table import Table

    from worker.jobs.context import JobContext
    from worker.jobs.reproduce import run_reproduce

    settings = load_settings()
    _, key = open_store(settings, project)
    with JobContext.open(settings) as context:
        result = run_reproduce(context, key, version, tell)
    difference = result["difference"]
    same = difference is not None and abs(difference) <= tolerance
    if as_json:
        metrics = {name: result[name].model_dump() for name in ("metrics", "reproduced")}
        print_json({**result, **metrics, "tolerance": tolerance, "same": same})
    else:
        table = Table("", version, "again", title=f"{result['tasks']} tasks, snapshot {result['snapshot'][:12]}")
        then, now = result["metrics"], result["reproduced"]
        for label, name in (("mIoU", "miou"), ("pixel accuracy", "pixel_accuracy"), ("boundary F1", "boundary_f1")):
            table.add_row(label, share(getattr(then, name)), share(getattr(now, name)))
        table.add_row("predicted as absent classes", share(then.absent_share()), share(now.absent_share()))
        for name, iou in now.iou.items():
            table.add_row(escape(f"IoU {name}"), share(then.iou.get(name)), share(iou))
        console().print(table)
        click.echo(f"The same within {tolerance:g} mIoU." if same else f"Not the same within {tolerance:g} mIoU.")
    if not same:
        raise SystemExit(1)


def _report(registry: Registry, champion: Champion, project: str, as_json: bool) -> None:
    if as_json:
        print_json(champion)
    else:
        click.echo(f"project {registry.shown_id(project)} serves {champion.version} (generation {champion.generation})")


def _summary(info: VersionInfo, champion: Champion | None) -> dict[str, object]:
    told = info.model_dump(include={"version", "created_at", "parent", "metrics", "champion_metrics", "decision"})
    return {**told, "champion": champion is not None and champion.version == info.version}


def _guided(figures: GuidedFigures | None) -> str:
    """Whether a version answers clicks with a head of its own."""
    if figures is None:
        return "none"
    return figures.reason if figures.serves else f"left out. {figures.reason}"


def _miou(metrics: Metrics | None, settings: Settings) -> str:
    if metrics is None:
        return share(None)
    few = metrics.tasks is not None and metrics.tasks < settings.min_val_tasks
    return f"{share(metrics.miou)} (only {metrics.tasks} held-out tasks)" if few else share(metrics.miou)
