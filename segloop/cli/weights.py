"""Fetch the published weights, for this machine or for one without internet."""

from __future__ import annotations

from pathlib import Path

import click

from segloop.cli.common import Group
from segloop.errors import SettingsError
from segloop.settings import load_settings


@click.group(cls=Group)
def weights() -> None:
    """The weights that trainings begin with, and that pre-label before the first one."""


@weights.command()
@click.option(
    "--to",
    "target",
    type=click.Path(path_type=Path),
    help="File or folder to write to, for another machine. [default: where this machine's segloop looks for it]",
)
def fetch(target: Path | None) -> None:
    """Fetch the published weights, and check their hash.

    SEGLOOP_WEIGHTS says which (coco or imagenet), SEGLOOP_ARCH for which network, SEGLOOP_WEIGHTS_URL from where. For a
    machine without internet: fetch to a file, copy the file there, and set SEGLOOP_WEIGHTS to its path.

    \b
    Examples:
      segloop weights fetch
      segloop weights fetch --to coco.pth
    """
    from segloop.network import weights as published

    settings = load_settings()
    if settings.weights not in published.PUBLISHED:
        raise SettingsError(f"SEGLOOP_WEIGHTS is {settings.weights!r}, which is not published: use coco or imagenet")
    kept = published.published_path(settings)
    if target is None:
        path = published.weights_file(settings) or kept
        click.echo(f"{path}: segloop takes the weights {settings.weights} from here")
        return
    if target.is_dir():
        target /= kept.name
    published.fetch(settings, target)
    click.echo(f"{target}: copy it to the other machine, and set SEGLOOP_WEIGHTS there to its path")
