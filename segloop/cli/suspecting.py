"""The labels that are suspected to be wrong."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from segloop.cli.common import connected_project, console, print_json, shared_options
from segloop.project_ids import project_id
from segloop.settings import load_settings

if TYPE_CHECKING:
    from segloop.suspects import FoundSuspects, Judgements


@click.command()
@shared_options
@click.option("--judged", is_flag=True, help="Those too that somebody judged already.")
def suspects(project: str | None, as_json: bool, judged: bool) -> None:
    """List the labels that disagree with a network that never saw them, the most suspected first.

    The newest full training looked for them. The status page shows each on its image, and takes a verdict.
    docs/suspects.md says how they are found.

    \b
    Examples:
      segloop suspects --project 1
      segloop suspects --project 1 --json
    """
    from segloop.registry import open_registry
    from segloop.suspects import found_suspects, read_judgements

    settings = load_settings()
    key = connected_project(settings, project)
    registry = open_registry(settings)
    found = found_suspects(registry, key)
    judgements = read_judgements(registry, key)
    url = settings.label_studio_public_url or settings.label_studio_url
    rows = _rows(found, judgements, f"{url}/projects/{project_id(key)}/data?task=", judged=judged)
    if as_json:
        print_json(
            {
                "version": None if found is None else found.version,
                "looked_at": None if found is None else found.suspects.judged.model_dump(),
                "judged": len(judgements.judgements),
                "wrong": judgements.wrong,
                "precision": judgements.precision,
                "suspects": rows,
            }
        )
    elif found is None:
        click.echo("No training has looked for suspected labels yet: the next full one does.")
    else:
        _show(found, judgements, rows)


def _rows(found: FoundSuspects | None, judgements: Judgements, tasks_url: str, *, judged: bool) -> list[dict[str, Any]]:
    if found is None:
        return []
    rows = []
    for suspect, verdict in zip(found.suspects.suspects, judgements.of(found.suspects), strict=True):
        image = found.suspects.image_of(suspect)
        if judged or verdict is None:
            rows.append(
                {
                    **suspect.model_dump(include={"labelled", "seen", "area", "margin", "score", "box"}),
                    **image.model_dump(include={"task", "image_tag", "item_index", "annotations", "held_out"}),
                    "verdict": verdict,
                    "link": f"{tasks_url}{image.task}",
                }
            )
    return rows


def _show(found: FoundSuspects, judgements: Judgements, rows: list[dict[str, Any]]) -> None:
    from rich.markup import escape
    from rich.table import Table

    table = Table(box=None)
    for name in ("task", "labelled", "seen", "area", "margin", "verdict", "link"):
        table.add_column(name, justify="right" if name in ("area", "margin") else "left", no_wrap=name == "link")
    for row in rows:
        figures = f"{100 * row['area']:.1f} %", f"{row['margin']:.2f}"
        cells = (str(row["task"]), row["labelled"], row["seen"], *figures, row["verdict"] or "-", row["link"])
        table.add_row(*map(escape, cells))
    console().print(table)
    looked_at = found.suspects.judged
    click.echo(
        f"{found.version} looked at {looked_at.held_out} of {looked_at.held_out_of} held-out images and at "
        f"{looked_at.training} of {looked_at.training_of} training images."
    )
    if judgements.judgements:
        click.echo(f"Of {len(judgements.judgements)} judged labels {judgements.wrong} were wrong.")
