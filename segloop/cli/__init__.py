"""The command line, `segloop`."""

from __future__ import annotations

import click

from segloop import __version__
from segloop.cli.accepting import accept
from segloop.cli.aws import aws
from segloop.cli.common import Group
from segloop.cli.completion import completion
from segloop.cli.connecting import connect, doctor
from segloop.cli.exporting import export_command
from segloop.cli.importing import import_command
from segloop.cli.predicting import predict
from segloop.cli.reference import cli_page, reference
from segloop.cli.reporting import report
from segloop.cli.running import serve, stop, up, worker
from segloop.cli.sagemaker import sagemaker
from segloop.cli.settings_page import settings, settings_page
from segloop.cli.suspecting import suspects
from segloop.cli.training import train
from segloop.cli.versions import reproduce, versions
from segloop.cli.weights import weights
from segloop.settings import misspelt_settings

__all__ = ["cli_page", "main", "settings_page"]


@click.group(cls=Group)
@click.version_option(__version__, prog_name="segloop")
def main() -> None:
    """A Label Studio ML backend for semantic segmentation that learns while people label.

    Settings are environment variables, or lines of a file .env in this folder: docs/settings.md lists them.

    \b
    Examples:
      segloop up                       run everything on this machine
      segloop connect --project 7      connect a project of Label Studio
      segloop doctor --project 7       find out why nothing happens
    """
    for sentence in misspelt_settings():
        click.echo(f"Warning: {sentence}", err=True)


for command in (
    *(up, serve, worker),
    *(connect, doctor, report, suspects, import_command),
    *(train, stop, predict, weights, accept),
    *(versions, reproduce, export_command),
    *(sagemaker, aws, completion, settings, reference),
):
    main.add_command(command)
