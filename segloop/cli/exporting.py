"""Take a version with you."""

from __future__ import annotations

from pathlib import Path

import click

from segloop.cli.common import open_store, print_json, shared_options
from segloop.settings import load_settings

_FOLDER = click.Path(file_okay=False, path_type=Path)


@click.command("export")
@click.argument("version")
@click.option("--onnx", type=_FOLDER, help="Write it for ONNX Runtime into this folder.")
@click.option("--openvino", type=_FOLDER, help="Write it for OpenVINO into this folder.")
@click.option("--torch", type=_FOLDER, help="Write it for torch into this folder.")
@shared_options
def export_command(version: str, project: str | None, as_json: bool, **folders: Path | None) -> None:
    """Write a version as a model that needs no segloop.

    The folder gets the network, model.json with its classes and all that is done before and after it, a README.md, and a
    predict.py that makes class maps without segloop. VERSION is a version's name, or `served`.

    \b
    Examples:
      segloop export served --onnx model
      segloop export v3-1a2b3c4d --openvino model --project 7
    """
    from segloop.exchange.exporting import export_version
    from segloop.exchange.script import PACKAGES
    from segloop.projects import own_settings, read_notes

    wanted = [(kind, folder) for kind in PACKAGES if (folder := folders[kind]) is not None]
    if not wanted:
        raise click.UsageError("name a folder with --onnx, --openvino or --torch")
    settings = load_settings()
    registry, key = open_store(settings, project)
    if version == "served":
        champion = registry.champion(key)
        if champion is None:
            raise click.ClickException("no version is served yet; name one")
        version = champion.version
    info = registry.get(key, version)
    settings, _ = own_settings(settings, key, read_notes(registry, key))
    rows = []
    for kind, folder in wanted:
        try:
            written = export_version(registry, info, kind, folder, settings)
        except OSError as error:
            raise click.ClickException(f"{error.filename or folder} cannot be written: {error.strerror}") from error
        rows.append({"format": kind, "folder": str(folder), "files": list(written.files), "engine": written.engine})
        if not as_json:
            click.echo(f"{folder}: {version} for {kind}; class maps are those of SEGLOOP_ENGINE={written.engine}")
    if as_json:
        print_json({"version": version, "exports": rows})
