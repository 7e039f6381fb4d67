"""The weights to begin with: their file, the classes of their head, and why they cannot be had. Imports no torch."""

from __future__ import annotations

import hashlib
import json
import logging
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from threading import Thread
from typing import Any, Final

import httpx

from segloop.errors import RegistryError, WeightsError, WeightsUnavailable
from segloop.files import replacing
from segloop.formats import VERSION_FILE
from segloop.network.voc_classes import VOC_CLASSES, fold
from segloop.settings import Settings
from segloop.settings.process import torch_home
from segloop.versions import read_version

logger = logging.getLogger(__name__)

#: Values of the setting `weights` that name no file.
PUBLISHED: Final = ("coco", "imagenet")
_COCO: Final = {
    "deeplabv3_resnet50": "deeplabv3_resnet50_coco-cd0a2569.pth",
    "fcn_resnet50": "fcn_resnet50_coco-1167a1af.pth",
}
_IMAGENET: Final = "resnet50-0676ba61.pth"
#: Long side, in pixels, at which a pretrained network sees images where the settings leave it open: torchvision's were
#: trained at 520.
PRETRAINED_INPUT_SIZE: Final = 512
#: How long the publisher has to begin its answer, and to send the whole file, in seconds; and the largest file, in bytes.
ANSWER_S: Final = 10.0
DOWNLOAD_S: Final = 1800.0
LARGEST_BYTES: Final = 1 << 30
#: Longest header of a .safetensors file that is read, in bytes.
_LONGEST_HEADER_BYTES: Final = 100 << 20
_SUFFIXES: Final = (".safetensors", ".pth", ".pt")
_NAMES_FIX: Final = 'use a list, such as ["road", "sky"], or an object, such as {"0": "road", "1": "sky"}'
#: Names of the channel that means none of the classes, as `fold` gives them.
_BACKGROUND: Final = frozenset({"background", "bg"})


# -- whether the weights can be had


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
            with _unavailable(settings, url), _opened(url):
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


# -- published weights


def published_arch(settings: Settings) -> str:
    """The network that published weights are of: the settings' own, or DeepLabV3, where none are published for it."""
    return settings.arch if settings.arch in _COCO else "deeplabv3_resnet50"


def published_file(settings: Settings) -> str:
    """The name of a published file."""
    return _IMAGENET if settings.weights == "imagenet" else _COCO[published_arch(settings)]


def published_path(settings: Settings) -> Path:
    """Where a published file is kept: in torch.hub's folder, where torchvision keeps it too."""
    return torch_home() / "hub" / "checkpoints" / published_file(settings)


def published_url(settings: Settings) -> str:
    """The address of a published file."""
    return f"{settings.weights_url.rstrip('/')}/{published_file(settings)}"


def fetch(settings: Settings, target: Path) -> None:
    """Fetch the published file to `target`, which appears only when it is whole and has the published hash.

    Raises:
        WeightsUnavailable: it cannot be had from there, or cannot be written.
    """
    url = published_url(settings)
    expected = published_file(settings).rpartition("-")[2].removesuffix(".pth")
    digest, size, ends_at = hashlib.sha256(), 0, time.monotonic() + DOWNLOAD_S
    with _unavailable(settings, url), replacing(target) as temporary, temporary.open("wb") as file:
        with _opened(url) as response:
            for chunk in response.iter_bytes():
                size += len(chunk)
                if size > LARGEST_BYTES:
                    raise ValueError(f"it has more than {LARGEST_BYTES >> 20} MiB")
                if time.monotonic() > ends_at:
                    raise ValueError(f"it was not here within {DOWNLOAD_S:.0f} s")
                digest.update(chunk)
                file.write(chunk)
        if not digest.hexdigest().startswith(expected):
            raise ValueError(f"its SHA-256 is {digest.hexdigest()[:8]}..., not {expected}...")


@contextmanager
def _unavailable(settings: Settings, url: str) -> Iterator[None]:
    """What goes wrong with a download, as WeightsUnavailable."""
    try:
        yield
    except (httpx.HTTPError, ValueError, OSError) as error:
        reason = str(error) or type(error).__name__
        if isinstance(error, httpx.HTTPStatusError):
            reason = f"the answer is {error.response.status_code}"
        elif isinstance(error, httpx.TimeoutException):
            reason = f"no answer within {ANSWER_S:g} s"
        raise WeightsUnavailable(
            f"the weights {settings.weights} are not on this machine and cannot be fetched from {url} ({reason})",
            "run segloop weights fetch --to FILE on a machine with internet, copy FILE here, and set SEGLOOP_WEIGHTS to it; "
            "or set SEGLOOP_WEIGHTS=none to begin with random weights",
        ) from error


@contextmanager
def _opened(url: str) -> Iterator[httpx.Response]:
    """A response whose body is not read yet.

    Opened in a thread, because looking up a name has no time limit of its own: without internet it can take a minute.

    Raises:
        httpx.HTTPError, OSError: no answer in time, or a status that is none of success.
        ValueError: no address.
    """
    opened: Future[httpx.Response] = Future()
    client = httpx.Client(timeout=ANSWER_S, follow_redirects=True)

    def ask() -> None:
        try:
            response = client.send(client.build_request("GET", url), stream=True)
        except Exception as error:  # noqa: BLE001 - it is the caller's: httpx.InvalidURL is none of its other errors
            opened.set_exception(error if isinstance(error, httpx.HTTPError | OSError) else ValueError(str(error)))
        else:
            opened.set_result(response)

    Thread(target=ask, name="weights-download", daemon=True).start()
    try:
        response = opened.result(ANSWER_S)
    except TimeoutError:
        opened.add_done_callback(lambda _: client.close())
        raise httpx.ConnectTimeout(f"no answer within {ANSWER_S:g} s") from None
    except BaseException:
        client.close()
        raise
    with closing(client), closing(response):
        response.raise_for_status()
        yield response


# -- the classes that a head knows


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
    channels = _safetensors_channels(path) if path.suffix == ".safetensors" else None
    if channels == 0:
        return ()
    names = named_channels(path, settings.weights_classes)
    if names is None:
        return VOC_CLASSES if channels in (None, len(VOC_CLASSES) + 1) else ()
    if channels is not None:
        head_layout(path, names, channels)
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
    classes = tuple(name for name in names if fold(name) not in _BACKGROUND)
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


def _safetensors_channels(path: Path) -> int:
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


# -- the version name


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
