"""The command line, `segloop`."""

from __future__ import annotations

import click

from segloop import __version__
from segloop.cli.common import Group
from segloop.cli.running import serve, stop, up, worker
from segloop.cli.sagemaker import sagemaker
from segloop.cli.settings_page import settings, settings_page
from segloop.cli.versions import reproduce, versions

__all__ = ["main", "settings_page"]


@click.group(cls=Group)
@click.version_option(__version__, prog_name="segloop")
def main() -> None:
    """A Label Studio ML backend for semantic segmentation that learns while people label."""


for command in (up, serve, worker, stop, versions, reproduce, sagemaker, settings):
    main.add_command(command)
