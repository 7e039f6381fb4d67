"""Predict image files, without Label Studio."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, NotRequired, TypedDict, Unpack

import click
import orjson

from segloop.cli.common import only, print_json
from segloop.errors import ImageError, SegloopError
from segloop.settings import Settings, load_settings

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from segloop.exchange.coco_results import CocoResults
    from segloop.images import Image
    from segloop.registry import Registry
    from segloop.serving import ServedModel

_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".avif"})
_WILDCARDS = frozenset("*?[")
#: The project's key where the store has none: the pretrained network alone answers.
_NO_PROJECT = "0"


class _Options(TypedDict):
    version: str | None
    project: str | None
    masks: bool
    coco: Path | None
    as_json: bool


class Row(TypedDict):
    """What was written for an image, and the share of each class on it."""

    image: str
    overlay: str
    width: int
    height: int
    mask: NotRequired[str]
    shares: dict[str, float]


@click.command()
@click.argument("images", nargs=-1, required=True, metavar="IMAGE...")
@click.option(
    "--out", "-o", type=click.Path(file_okay=False, path_type=Path), required=True, help="Folder to write to."
)
@click.option("--version", help="Version that predicts. [default: the one that is served]")
@click.option("--masks", is_flag=True, help="Write class maps too: PNG, a pixel's value is its class, 0 is background.")
@click.option(
    "--coco", type=click.Path(dir_okay=False, path_type=Path), help="Write all class maps to this COCO file too."
)
@click.option("--project", "-p", help="Id of the project; needed only where the store has several.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def predict(images: tuple[str, ...], out: Path, **options: Unpack[_Options]) -> None:
    """Predict image files, and write overlays.

    Takes files, folders, and patterns. Runs what the server runs, in this process; Label Studio is not asked. Prints
    the share of each class. An image that cannot be read costs one line and exit status 1; the others are written all
    the same. Without a trained version the pretrained network answers.

    \b
    Examples:
      segloop predict street.jpg --out overlays
      segloop predict photos 'more/*.png' --out overlays --masks --version v3-1a2b3c4d
      segloop predict photos --out overlays --coco predictions.json
    """
    from segloop.exchange.coco_results import CocoResults
    from segloop.images.decode import allow_pixels

    settings = load_settings()
    allow_pixels(settings.image_max_pixels)
    model, settings = _model(settings, options["project"], options["version"])
    as_json = options["as_json"]
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise click.ClickException(f"{out} cannot be made: {error.strerror}") from error
    results = CocoResults(model.classes) if options["coco"] else None
    overlays = _Overlays(model, settings, out, options["masks"], results)
    written: list[Row] = []
    failed = False
    if not as_json:
        click.echo(f"{model.version}: {', '.join(model.classes)}")
    for path in _files(images):
        try:
            row = overlays.write(path)
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
    if results is not None and options["coco"] is not None:
        _write_json(options["coco"], results.content())
    if as_json:
        print_json({"version": model.version, "classes": list(model.classes), "images": written})
    if failed:
        raise SystemExit(1)


def _write_json(file: Path, content: object) -> None:
    try:
        file.write_bytes(orjson.dumps(content))
    except OSError as error:
        raise click.ClickException(f"{file} cannot be written: {error.strerror}") from error


def _model(settings: Settings, project: str | None, version: str | None) -> tuple[ServedModel, Settings]:
    """The served model, as a server of these settings would have it, and the project's own settings.

    Raises:
        UnknownProject: there are several projects, or the one named is none of them.
        SegloopError: nothing is there to predict with.
    """
    from segloop.label_config import parse_label_config
    from segloop.network.weights import known_classes
    from segloop.projects import ProjectNotes, read_notes
    from segloop.registry import open_registry
    from segloop.serving import ServedModels, load_served_model
    from segloop.serving.predict import label_names

    registry = open_registry(settings)
    key = _key(registry, settings, project, version)
    notes = ProjectNotes() if key == _NO_PROJECT else read_notes(registry, key)
    settings = settings.for_project(notes.extra_params)
    if version is not None:
        return load_served_model(registry, key, version, settings), settings
    labels = (
        label_names(parse_label_config(notes.label_config))
        if notes.label_config
        else dict.fromkeys(known_classes(settings), ())
    )
    models = ServedModels(registry, settings)
    model = models.current(key, labels)
    if model is None:
        reason = models.problem(key) or (
            f"the weights (SEGLOOP_WEIGHTS={settings.weights}) know none of the classes; train first, or name a version "
            "with --version"
        )
        raise SegloopError(f"there is nothing to predict with: no version is served, and {reason}")
    return model, settings


def _key(registry: Registry, settings: Settings, project: str | None, version: str | None) -> str:
    if project is not None:
        return registry.resolve(project)
    known = registry.projects()
    trained = [key for key in known if registry.versions(key)]
    if version is None and not known:
        return _NO_PROJECT
    return only(trained or known, settings)


def _files(named: tuple[str, ...]) -> Iterator[Path]:
    """The files that the arguments name. An argument without a file stays as it is, for an error that names it."""
    for name in named:
        try:
            found = _named(name)
        except (OSError, ValueError):  # a name or a pattern that none can have, or a folder of somebody else's
            found = []
        yield from found or [Path(name)]


def _named(name: str) -> list[Path]:
    path = Path(name)
    if path.is_dir():
        return sorted(file for file in path.iterdir() if file.suffix.lower() in _SUFFIXES)
    if not path.exists() and _WILDCARDS & set(name):
        base = Path(path.anchor)
        return sorted(base.glob(str(path.relative_to(base))))
    return []


@dataclass(frozen=True)
class _Overlays:
    """Predicts image files, and writes their overlays and, if `masks`, their class maps to a folder."""

    model: ServedModel
    settings: Settings
    out: Path
    masks: bool
    results: CocoResults | None = None
    taken: set[str] = field(default_factory=set)

    def write(self, path: Path) -> Row:
        """Predict a file.

        Raises:
            ImageError: it cannot be read, or is no image.
            OSError: the folder cannot be written to.
        """
        from segloop.cli.drawing import class_colours, overlay, write_class_map, write_image
        from segloop.masks import remove_specks

        image = self._image(path)
        class_map = remove_specks(self.model.segment(image).class_map, self.settings.min_area_px)
        colours = class_colours(len(self.model.classes))
        stem = self._free(path.stem)
        target = self.out / f"{stem}.overlay.png"
        write_image(target, overlay(self.model.pixels(image), class_map, colours))
        row: Row = {
            "image": click.format_filename(path),
            "overlay": click.format_filename(target),
            "width": image.width,
            "height": image.height,
            "shares": _shares(class_map, self.model.classes),
        }
        if self.masks:
            mask = self.out / f"{stem}.mask.png"
            write_class_map(mask, class_map, colours)
            row["mask"] = click.format_filename(mask)
        if self.results is not None:
            self.results.add(click.format_filename(path), class_map)
        return row

    def _image(self, path: Path) -> Image:
        from segloop.images import Blob, Image

        settings = self.settings
        try:
            if path.is_dir():
                next(path.iterdir(), None)  # one that cannot be read is no empty one
                raise ImageError(f"{path} holds no image ({', '.join(sorted(_SUFFIXES))})")
            if path.stat().st_size > settings.image_max_bytes:
                raise ImageError(f"{path} is larger than SEGLOOP_IMAGE_MAX_BYTES={settings.image_max_bytes}")
            data = path.read_bytes()
        except OSError as error:
            raise ImageError(f"{path} cannot be read: {error.strerror or error}") from error
        blob = Blob(data, hashlib.sha256(data).hexdigest())
        return Image(blob, max_pixels=settings.image_max_pixels, name=str(path))

    def _free(self, stem: str) -> str:
        """A name for an image's files that no other image of this run has."""
        numbers = range(2, len(self.taken) + 2)
        name = next(name for name in (stem, *(f"{stem}-{number}" for number in numbers)) if name not in self.taken)
        self.taken.add(name)
        return name


def _shares(class_map: NDArray[np.uint8], classes: tuple[str, ...]) -> dict[str, float]:
    import numpy as np

    counts = np.bincount(class_map.ravel(), minlength=len(classes) + 1)
    total = class_map.size
    return {name: round(float(count) / total, 6) for name, count in zip(("background", *classes), counts, strict=False)}
