"""The weights that torchvision publishes: their files, and fetching them."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import closing, contextmanager
from pathlib import Path
from threading import Thread
from typing import Final

import httpx

from segloop.errors import WeightsUnavailable
from segloop.files import replacing
from segloop.settings import Settings
from segloop.settings.process import torch_home

#: Values of the setting `weights` that name no file.
PUBLISHED: Final = ("coco", "imagenet")
_COCO: Final = {
    "deeplabv3_resnet50": "deeplabv3_resnet50_coco-cd0a2569.pth",
    "fcn_resnet50": "fcn_resnet50_coco-1167a1af.pth",
}
_IMAGENET: Final = "resnet50-0676ba61.pth"
#: How long the publisher has to begin its answer, and to send the whole file, in seconds; and the largest file, in bytes.
ANSWER_S: Final = 10.0
DOWNLOAD_S: Final = 1800.0
LARGEST_BYTES: Final = 1 << 30


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
    with unavailable(settings, url), replacing(target) as temporary, temporary.open("wb") as file:
        with opened(url) as response:
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
def unavailable(settings: Settings, url: str) -> Iterator[None]:
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
def opened(url: str) -> Iterator[httpx.Response]:
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
