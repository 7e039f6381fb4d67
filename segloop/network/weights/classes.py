"""What the channels of a head mean: their names, as they are written down beside a file of weights or in it."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from segloop.errors import RegistryError, WeightsError
from segloop.formats import VERSION_FILE
from segloop.network.voc_classes import fold
from segloop.versions import read_version

#: Longest header of a .safetensors file that is read, in bytes.
_LONGEST_HEADER_BYTES: Final = 100 << 20
_NAMES_FIX: Final = 'use a list, such as ["road", "sky"], or an object, such as {"0": "road", "1": "sky"}'
#: Names of the channel that means none of the classes, as `fold` gives them.
_BACKGROUND: Final = frozenset({"background", "bg"})


def without_background(names: Sequence[str]) -> tuple[str, ...]:
    """The names that mean a class."""
    return tuple(name for name in names if fold(name) not in _BACKGROUND)


@dataclass(frozen=True)
class HeadLayout:
    """What the channels of a head mean: the one of background (None: it has none), and the others with their classes."""

    background: int | None
    channels: tuple[int, ...]
    classes: tuple[str, ...]


def head_layout(path: Path, names: Sequence[str], channels: int) -> HeadLayout:
    """Names laid out on a head: they name every channel, or all but a background in channel 0.

    Raises:
        WeightsError: they are too many or too few, or two are the same.
    """
    background = [index for index, name in enumerate(names) if fold(name) in _BACKGROUND]
    classes = without_background(names)
    if len(set(classes)) < len(classes) or len(background) > 1:
        raise WeightsError(f"weights {path}: a class is named twice ({', '.join(names)})", "use one name a channel")
    if len(names) == channels:
        rest = tuple(index for index in range(channels) if index not in background)
        return HeadLayout(background[0] if background else None, rest, classes)
    if len(names) == channels - 1 and not background:
        return HeadLayout(0, tuple(range(1, channels)), classes)
    raise WeightsError(
        f"weights {path}: its head has {channels} channels, and {len(names)} names are given for them "
        f"({', '.join(names)})",
        "use one name for each channel in order, or for all but a background in channel 0",
    )


def named_channels(path: Path, given: str = "") -> tuple[str, ...] | None:
    """The names of a file's channels, as they are written down; None if they are not.

    They come from `given` (the setting, separated by commas), a version.json beside the file, FILE.json or FILE.names
    beside it (with or without the file's own suffix), or the metadata of a .safetensors file under `classes`.

    Raises:
        WeightsError: what is there cannot be used.
    """
    if given.strip():
        return tuple(name.strip() for name in given.split(","))
    if path.with_name(VERSION_FILE).is_file():
        try:
            return ("background", *read_version(path.parent).classes)
        except RegistryError as error:
            raise WeightsError(
                f"weights {path}: {error}", "put the file elsewhere, or give it its version.json"
            ) from error
    for beside in sidecars(path):
        try:
            text = beside.read_text("utf-8")
            if beside.suffix == ".names":
                return tuple(line.strip() for line in text.splitlines() if line.strip())
            names = _names_in(json.loads(text))
        except (OSError, ValueError) as error:
            raise WeightsError(f"weights {path}: {beside} cannot be read ({error})", _NAMES_FIX) from error
        if names is None:
            raise WeightsError(f"weights {path}: {beside} names no classes", _NAMES_FIX)
        return names
    if path.suffix == ".safetensors":
        written = _safetensors_header(path).get("__metadata__", {}).get("classes")
        if isinstance(written, str):
            try:
                names = _names_in(json.loads(written))
            except ValueError:
                names = tuple(name.strip() for name in written.split(","))
            return names
    return None


def sidecars(path: Path) -> list[Path]:
    """The files beside a file of weights that name its classes."""
    found = (path.with_name(stem + suffix) for suffix in (".json", ".names") for stem in (path.name, path.stem))
    return [beside for beside in found if beside.is_file() and beside.name != VERSION_FILE]


def _names_in(value: Any) -> tuple[str, ...] | None:
    """Names of channels: a list; an object of index and name, either way round; or one of these under a usual key."""
    if isinstance(value, Mapping):
        for key in ("classes", "names", "id2label", "label2id"):
            if isinstance(value.get(key), list | dict):
                return _names_in(value[key])
        if all(isinstance(index, int) for index in value.values()):
            value = {str(index): name for name, index in value.items()}
        if set(value) != {str(index) for index in range(len(value))}:
            return None
        value = [value[str(index)] for index in range(len(value))]
    if not isinstance(value, list) or not value or not all(isinstance(name, str) and name.strip() for name in value):
        return None
    return tuple(name.strip() for name in value)


def _safetensors_header(path: Path) -> dict[str, Any]:
    """The header of a .safetensors file: the length of a JSON object in 8 bytes, then the object."""
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if length > _LONGEST_HEADER_BYTES:
                raise ValueError(f"a header of {length} bytes")
            header = json.loads(file.read(length))
        if not isinstance(header, dict):
            raise ValueError("its header is no object")
    except (OSError, ValueError) as error:
        raise WeightsError(
            f"weights {path}: not a file of weights (no .safetensors file: {error})", "save it again, or copy it again"
        ) from error
    return header


def safetensors_channels(path: Path) -> int:
    """The channels of a file's head, 0 where it has none."""
    shapes = {
        key: entry["shape"]
        for key, entry in _safetensors_header(path).items()
        if key != "__metadata__" and isinstance(entry, dict) and isinstance(entry.get("shape"), list)
    }
    return head_channels(shapes)


def head_channels(shapes: Mapping[str, Sequence[int]]) -> int:
    """The output channels of a head, from the shapes of its tensors; 0 where there is none."""
    heads = [
        key
        for key in shapes
        if re.search(r"(^|\.)classifier\.(\d+|last)\.weight$", key)
        and "aux_classifier" not in key
        and list(shapes[key][2:]) == [1, 1]
    ]
    return int(shapes[heads[-1]][0]) if heads else 0
