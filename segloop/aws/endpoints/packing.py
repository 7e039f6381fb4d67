"""model.tar.gz of an endpoint: a version's files, and the code that answers with them."""

from __future__ import annotations

import gzip
import tarfile
from pathlib import Path

from segloop.aws.training import code
from segloop.aws.training.entry import INFERENCE
from segloop.formats import VERSION_FILE, WEIGHTS_FILE
from segloop.registry import Registry, VersionInfo
from segloop.serving.engines import pick_engine
from segloop.settings import Settings

HERE = Path(__file__).parent
REQUIREMENTS = HERE / "requirements.txt"
ENTRY = "inference.py"

#: With what `segloop.aws.endpoints.handler` imports besides what segloop needs everywhere.
PACKAGES = (*code.COMMON, "cachetools", "openvino", "openvino-telemetry")

#: Weights hardly shrink.
_LEVEL = 1


def archive_files(registry: Registry, info: VersionInfo, settings: Settings, folder: Path) -> dict[str, Path]:
    """The files of the archive by their names in it; what has to be made is made in a folder.

    Of the version they are version.json and what the engine of these settings (`device` and `engine`) needs.

    Raises:
        RegistryError: the store is unreachable, or a file is not the one that version.json describes.
    """
    names = _model_files(info, settings)
    bundle = registry.bundle(info.project, info.version, names)
    channel = code.code_files(folder) | inference_files()
    return {
        **{name: bundle / name for name in (VERSION_FILE, *names)},
        **{name: channel[source] for name, source in INFERENCE.items()},
    }


def inference_files() -> dict[str, Path]:
    """What a training's code channel has besides its own files where its model.tar.gz is to be deployed as it is."""
    return {ENTRY: HERE / ENTRY, "lacking.txt": REQUIREMENTS}


def write_archive(files: dict[str, Path], archive: Path) -> None:
    """Write a .tar.gz; that of the same files is the same."""
    with (
        archive.open("wb") as raw,
        gzip.GzipFile("", "wb", _LEVEL, raw, mtime=0) as packed,
        tarfile.open(fileobj=packed, mode="w") as tar,
    ):
        for name in sorted(files):
            member = tarfile.TarInfo(name)
            member.size = files[name].stat().st_size
            with files[name].open("rb") as file:
                tar.addfile(member, file)


def _model_files(info: VersionInfo, settings: Settings) -> list[str]:
    name = pick_engine(settings, info.engines)
    files = [f"{name}.xml", f"{name}.bin"]
    return files if name != "torch" and info.files.keys() >= set(files) else [WEIGHTS_FILE]
