"""The weights that the settings name: whether they can be had, their file, the classes of their head, and their name."""

from __future__ import annotations

import hashlib
import logging
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Final

from segloop.errors import WeightsError
from segloop.formats import VERSION_FILE
from segloop.network.voc_classes import VOC_CLASSES
from segloop.network.weights.classes import (
    head_layout,
    named_channels,
    safetensors_channels,
    sidecars,
    without_background,
)
from segloop.network.weights.published import (
    PUBLISHED,
    fetch,
    opened,
    published_arch,
    published_path,
    published_url,
    unavailable,
)
from segloop.settings import Settings

logger = logging.getLogger(__name__)

#: Long side, in pixels, at which a pretrained network sees images where the settings leave it open: torchvision's were
#: trained at 520.
PRETRAINED_INPUT_SIZE: Final = 512
_SUFFIXES: Final = (".safetensors", ".pth", ".pt")


@dataclass(frozen=True)
class WeightsState:
    """Whether the weights that the settings name can be had: `problem` says why not ("" if they can), `fix` what to do."""

    problem: str = ""
    fix: str = ""

    @property
    def sentence(self) -> str:
        """The problem and its fix, as the log, the status page and `/setup` tell them; "" where there is none."""
        return f"{self.problem}: {self.fix}." if self.problem else ""


def weights_state(settings: Settings) -> WeightsState:
    """Whether the weights are on this machine or can be fetched. Asks the publisher only where their file is not here.

    Takes at most ANSWER_S. Nothing is written.
    """
    try:
        if settings.weights == "none":
            return WeightsState()
        if settings.weights not in PUBLISHED:
            known_classes(settings)
        elif not published_path(settings).is_file():
            url = published_url(settings)
            with unavailable(settings, url), opened(url):
                pass
    except WeightsError as error:
        return WeightsState(error.problem, error.fix)
    return WeightsState()


def weights_file(settings: Settings) -> Path | None:
    """The file of the weights that the settings name, on this machine; None for `none`. A published one is fetched.

    Raises:
        WeightsUnavailable: a published file can't be fetched.
        WeightsError: a file of one's own is not there.
    """
    if settings.weights == "none":
        return None
    if settings.weights not in PUBLISHED:
        return own_file(settings)
    path = published_path(settings)
    if not path.is_file():
        logger.info("fetching the weights %s from %s", settings.weights, published_url(settings))
        fetch(settings, path)
    return path


def own_file(settings: Settings) -> Path:
    """The file that the settings name.

    Raises:
        WeightsError: it is not there, or has no suffix that says what it is.
    """
    path = Path(settings.weights).expanduser()
    if not path.is_file():
        raise WeightsError(
            f"SEGLOOP_WEIGHTS is {settings.weights!r}, and there is no such file",
            "use coco, imagenet, none, or the path of a .safetensors or .pth file",
        )
    if path.suffix.lower() not in _SUFFIXES:
        raise WeightsError(
            f"SEGLOOP_WEIGHTS is {settings.weights!r}, of an unknown kind",
            "use a file that ends with .safetensors or .pth",
        )
    return path


def known_classes(settings: Settings) -> tuple[str, ...]:
    """The classes that the weights' head gives before any training, () where they segment nothing. Loads no weights.

    Of a .pth file whose classes nothing names this assumes the 20 of Pascal VOC, which `COCO_WITH_VOC_LABELS` has:
    reading the file finds out.

    Raises:
        WeightsError: the file is not there, or what names its classes cannot be used.
    """
    if settings.weights in ("none", "imagenet"):
        return ()
    if settings.weights == "coco":
        return VOC_CLASSES
    path = own_file(settings)
    channels = safetensors_channels(path) if path.suffix == ".safetensors" else None
    if channels == 0:
        return ()
    names = named_channels(path, settings.weights_classes)
    if names is None:
        return VOC_CLASSES if channels in (None, len(VOC_CLASSES) + 1) else ()
    if channels is not None:
        head_layout(path, names, channels)
    return without_background(names)


def weights_name(settings: Settings) -> str:
    """The version name of the network that the weights give before any training.

    A file of one's own adds a short hash of its content and of what names its classes, so that another file of the same
    name is another version. What is published has the hash in its name already.
    """
    if settings.weights in (*PUBLISHED, "none"):
        return f"{published_arch(settings)}-{settings.weights}"
    path = Path(settings.weights).expanduser()
    stem = path.stem
    try:
        digest = _digest(path)
        beside = [*sidecars(path), *([info] if (info := path.with_name(VERSION_FILE)).is_file() else [])]
        if beside or settings.weights_classes:
            parts = [digest, settings.weights_classes, *(_digest(file) for file in beside)]
            digest = hashlib.sha256("\n".join(parts).encode()).hexdigest()
    except OSError:
        return stem
    return stem if stem.endswith(f"-{digest[:8]}") else f"{stem}-{digest[:8]}"


def _digest(path: Path) -> str:
    """The SHA-256 of a file, in hex; read again only when its size or time of change is another."""
    stat = path.stat()
    return _digest_of(path, stat.st_mtime_ns, stat.st_size)


@lru_cache(maxsize=64)
def _digest_of(path: Path, _mtime_ns: int, _size: int) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
