"""Predict image files, without Label Studio."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from segloop.cli.common import only, print_json
from segloop.errors import ImageError, SegloopError
from segloop.settings import Settings, load_settings

if TYPE_CHECKING:
    from segloop.registry import Registry
    from segloop.serving import Segmentation, ServedModel

_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".avif"})
_WILDCARDS = frozenset("*?[")
#: Stands for a project where the store has none: the pretrained network alone answers.
_NO_PROJECT = "0"


@click.command()
@click.argument("images", nargs=-1, required=True, metavar="IMAGE...")
@click.option(
    "--out", "-o", type=click.Path(file_okay=False, path_type=Path), required=True, help="Folder to write to."
)
@click.option("--version", help="Version that predicts. [default: the one that is served]")
@click.option("--masks", is_flag=True, help="Write class maps too: PNG, a pixel's value is its class, 0 is background.")
@click.option("--project", "-p", help="Id of the project; needed only where the store has several.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def predict(
    images: tuple[str, ...], out: Path, version: str | None, masks: bool, project: str | None, as_json: bool
) -> None:
    """Predict image files, and write overlays.

    Takes files, folders, and patterns. Runs what the server runs, in this process; Label Studio is not asked. Prints
    the share of each class. An image that cannot be read costs one line and exit status 1; the others are written all
    the same. Without a trained version the pretrained network answers.

    \b
    Examples:
      segloop predict street.jpg --out overlays
      segloop predict photos 'more/*.png' --out overlays --masks --version v3-1a2b3c4d
    """
    from segloop.images.decode import allow_pixels

    settings = load_settings()
    allow_pixels(settings.image_max_pixels)
    model = _model(settings, project, version)
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise click.ClickException(f"{out} cannot be made: {error.strerror}") from error
    written: list[dict[str, Any]] = []
    taken: set[str] = set()
    failed = False
    if not as_json:
        click.echo(f"{model.version}: {', '.join(model.classes)}")
    for path in _files(images):
        try:
            row = _predict(path, model, settings, out, masks, taken)
        except ImageError as error:
            failed = True
            click.echo(f"Error: {error}", err=True)
            continue
        except OSError as error:
            raise click.ClickException(f"{error.filename or out} cannot be written: {error.strerror}") from error
        written.append(row)
        if not as_json:
            shares = ", ".join(f"{name} {share:.1%}" for name, share in row["shares"].items() if share)
            click.echo(f"{row['overlay']}  {row['width']} x {row['height']}  {shares}")
    if as_json:
        print_json({"version": model.version, "classes": list(model.classes), "images": written})
    if failed:
        raise SystemExit(1)


def _model(settings: Settings, project: str | None, version: str | None) -> ServedModel:
    """The served model, as a server of these settings would have it.

    Raises:
        UnknownProject: there are several projects, or the one named is none of them.
        SegloopError: nothing is there to predict with.
    """
    from segloop.label_config import parse_label_config
    from segloop.network.voc_classes import VOC_CLASSES
    from segloop.projects import ProjectNotes, read_notes
    from segloop.registry import open_registry
    from segloop.serving import ServedModels, load_served_model
    from segloop.serving.predict import label_names

    registry = open_registry(settings)
    key = _key(registry, settings, project, version)
    notes = ProjectNotes() if key == _NO_PROJECT else read_notes(registry, key)
    settings = settings.for_project(notes.extra_params)
    if version is not None:
        return load_served_model(registry, key, version, settings)
    labels = (
        label_names(parse_label_config(notes.label_config)) if notes.label_config else dict.fromkeys(VOC_CLASSES, ())
    )
    model = ServedModels(registry, settings).current(key, labels)
    if model is None:
        raise SegloopError(
            "there is nothing to predict with: no version is served, and no pretrained weights "
            f"(SEGLOOP_WEIGHTS={settings.weights}) know the classes; train first, or name one with --version"
        )
    return model


def _key(registry: Registry, settings: Settings, project: str | None, version: str | None) -> str:
    if project is not None:
        return registry.resolve(project)
    known = registry.projects()
    trained = [key for key in known if registry.versions(key)]
    if version is None and not known:
        return _NO_PROJECT
    return only(trained or known, settings)


def _files(named: tuple[str, ...]) -> Iterator[Path]:
    """The files that are named; what names none stands for itself, and is an image that cannot be read."""
    for name in named:
        path = Path(name)
        found = [path]
        if path.is_dir():
            found = sorted(file for file in path.iterdir() if file.suffix.lower() in _SUFFIXES)
        elif not path.exists() and _WILDCARDS & set(name):
            base = Path(path.anchor)
            found = sorted(base.glob(str(path.relative_to(base))))
        yield from found or [path]


def _predict(
    path: Path, model: ServedModel, settings: Settings, out: Path, masks: bool, taken: set[str]
) -> dict[str, Any]:
    """Predict a file, write what is asked for, and say what is on it.

    Raises:
        ImageError: it cannot be read, or is no image.
    """
    from segloop.cli.drawing import class_colours, overlay, write_class_map, write_image
    from segloop.images import Blob, Image

    if path.is_dir():
        raise ImageError(f"{path} holds no image ({', '.join(sorted(_SUFFIXES))})")
    try:
        if path.stat().st_size > settings.image_max_bytes:
            raise ImageError(f"{path} is larger than SEGLOOP_IMAGE_MAX_BYTES={settings.image_max_bytes}")
        data = path.read_bytes()
    except OSError as error:
        raise ImageError(f"{path} cannot be read: {error.strerror or error}") from error
    image = Image(Blob(data, hashlib.sha256(data).hexdigest()), max_pixels=settings.image_max_pixels, name=str(path))
    segmentation = model.segment(image)
    colours = class_colours(len(model.classes))
    stem = _free(path.stem, taken)
    target = out / f"{stem}.overlay.png"
    write_image(target, overlay(model.pixels(image), segmentation.class_map, colours))
    row: dict[str, Any] = {"image": str(path), "overlay": str(target), "width": image.width, "height": image.height}
    if masks:
        row["mask"] = str(out / f"{stem}.mask.png")
        write_class_map(Path(row["mask"]), segmentation.class_map, colours)
    return {**row, "shares": _shares(segmentation, model.classes)}


def _free(stem: str, taken: set[str]) -> str:
    """A name for an image's files that no other image of this run has."""
    name = next(
        name
        for number in range(1, len(taken) + 2)
        if (name := stem if number == 1 else f"{stem}-{number}") not in taken
    )
    taken.add(name)
    return name


def _shares(segmentation: Segmentation, classes: tuple[str, ...]) -> dict[str, float]:
    import numpy as np

    counts = np.bincount(segmentation.class_map.ravel(), minlength=len(classes) + 1)
    total = segmentation.class_map.size
    return {name: round(float(count) / total, 6) for name, count in zip(("background", *classes), counts, strict=False)}
