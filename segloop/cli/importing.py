"""Bring data that is annotated already."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict, Unpack

import click

from segloop.cli.common import print_json, say
from segloop.errors import SegloopError
from segloop.settings import Settings, load_settings

if TYPE_CHECKING:
    from segloop.exchange.datasets import Dataset
    from segloop.exchange.importing import Place
    from segloop.labelstudio import LabelStudio

_PATH = click.Path(path_type=Path)


class _Options(TypedDict):
    project: int
    images: Path | None
    names: Path | None
    split: str
    address: str | None
    local_files: str | None
    set_config: bool
    dry_run: bool
    as_json: bool


@click.command("import")
@click.argument("layout", type=click.Choice(["coco", "masks", "voc", "cityscapes"]))
@click.argument("source", type=_PATH)
@click.option("--project", "-p", type=int, required=True, help="Id of the project in Label Studio.")
@click.option("--images", type=_PATH, help="Folder of the images (coco, masks). [default: the source's folder]")
@click.option(
    "--names", type=_PATH, help="File that names the classes of masks: `7 Road`, `128 64 128 Road` or `Road`."
)
@click.option("--split", default="", help="Import this split alone (voc, cityscapes), such as train.")
@click.option("--address", help="The images are below this address already (https://, s3://), and are not uploaded.")
@click.option(
    "--local-files", help="The images are in this folder of Label Studio's local files, and are not uploaded."
)
@click.option(
    "--set-config", is_flag=True, help="Replace the project's label config by one with the data set's classes."
)
@click.option("--dry-run", is_flag=True, help="Read everything, and change nothing.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def import_command(layout: str, source: Path, **options: Unpack[_Options]) -> None:
    """Bring annotated images into a project.

    SOURCE is COCO's file of instances, a folder of PNG masks, or the folder of a Pascal VOC or Cityscapes data set. Each image
    becomes a task with an annotation, which counts for training at once. A run that was stopped goes on where it was: what the
    project has is not imported again. docs/your-data.md has examples.

    \b
    Examples:
      segloop import coco instances_train.json --images train --project 7 --set-config
      segloop import masks masks --images photos --names classes.txt --project 7 --dry-run
      segloop import cityscapes cityscapes --split train --project 7 --local-files cityscapes
    """
    from segloop.exchange.importing import import_dataset, label_config_of, target_of
    from segloop.images.decode import allow_pixels
    from segloop.labelstudio import LabelStudio

    if options["address"] and options["local_files"]:
        raise click.UsageError("--address and --local-files exclude each other")
    settings = load_settings()
    allow_pixels(settings.image_max_pixels)
    dataset = _dataset(layout, source, options, settings)
    if not dataset.examples:
        raise click.ClickException(f"nothing to import: {'; '.join(dataset.problems[:3]) or f'{source} has no images'}")
    project_id = options["project"]
    with contextlib.closing(LabelStudio.from_settings(settings)) as studio:
        label_config = str(studio.projects.get(project_id)["label_config"])
        if options["set_config"]:
            label_config = label_config_of(dataset.classes)
        target = target_of(project_id, label_config, dataset.classes)
        is_dry = options["dry_run"]
        if options["set_config"] and not is_dry:
            studio.projects.change(project_id, label_config=label_config)
        place = None if is_dry else _place(options, studio, project_id)
        done = import_dataset(dataset, target, studio, place, _tell(len(dataset.examples), is_dry=is_dry))
        if not is_dry:
            _count(settings, project_id)
    if options["as_json"]:
        print_json({"project": project_id, "dry_run": is_dry, **vars(done)})
    else:
        for problem in done.problems:
            click.echo(f"Left out: {problem}", err=True)
        what = "would be imported" if is_dry else "imported"
        click.echo(
            f"project {project_id}: {done.tasks} tasks {what}, {done.known} were there, {len(done.problems)} left out"
        )


def _dataset(layout: str, source: Path, options: _Options, settings: Settings) -> Dataset:
    from segloop.exchange.datasets import read_cityscapes, read_coco, read_masks, read_voc

    if layout == "voc":
        return read_voc(source, options["split"])
    if layout == "cityscapes":
        return read_cityscapes(source, options["split"])
    if layout == "coco":
        return read_coco(source, options["images"] or source.parent, settings.image_max_pixels)
    if options["names"] is None:
        raise click.UsageError("masks need --names, a file that names their classes")
    return read_masks(source, options["images"] or source, options["names"])


def _place(options: _Options, studio: LabelStudio, project_id: int) -> Place:
    from segloop.exchange.importing import addresses, local_files, uploads

    if options["address"]:
        return addresses(options["address"])
    return local_files(options["local_files"]) if options["local_files"] else uploads(studio, project_id)


def _tell(total: int, *, is_dry: bool) -> Callable[[int, int], None]:
    what = "Read" if is_dry else "Imported"
    return lambda done, new: say(
        f"{what}: {done} of {new} images{f' ({total - new} were there)' if new < total else ''}"
    )


def _count(settings: Settings, project_id: int) -> None:
    """Have a worker ask Label Studio for what is new: imports send no event. Without a queue, or a project that segloop
    knows, the next look finds it."""
    from segloop.queue import Jobs
    from segloop.registry import open_registry

    with contextlib.suppress(SegloopError), contextlib.closing(Jobs.open(settings)) as jobs:
        jobs.enqueue_reconcile(open_registry(settings).resolve(str(project_id)))
