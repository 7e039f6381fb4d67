"""The code channel: segloop's own source, the container's entry, and the packages that AWS's image lacks."""

from __future__ import annotations

import io
import re
import zipfile
from collections.abc import Collection
from pathlib import Path

import segloop
from segloop.aws.training.entry import AWS_SDK

HERE = Path(__file__).parent
REQUIREMENTS = HERE / "requirements.txt"
ENTRY = "train.py"

#: What segloop needs everywhere and AWS's image need not have. torch, torchvision and numpy are the image's own.
COMMON = (
    "annotated-types",
    "anyio",
    "certifi",
    "defusedxml",
    "filelock",
    "h11",
    "httpcore",
    "httpx",
    "idna",
    "opencv-python-headless",
    "pillow",
    "platformdirs",
    "pydantic",
    "pydantic-core",
    "pydantic-settings",
    "python-dotenv",
    "safetensors",
    "typing-extensions",
    "typing-inspection",
)
#: With what `segloop.training` imports besides.
PACKAGES = (*COMMON, "orjson", "scipy", "tqdm")

# A zip's earliest date: the archive of the same source is the same.
_DATE = (1980, 1, 1, 0, 0, 0)


def requirements_of(lock: str, packages: Collection[str] = (*PACKAGES, *AWS_SDK)) -> str:
    """The entries of some packages in a lock file with hashes, each as it stands there."""
    entries = re.split(r"(?m)^(?=\S)", lock)
    chosen = [entry for entry in entries if re.split(r"[=\[ ]", entry, maxsplit=1)[0] in packages]
    return "".join(re.sub(r"(?m)^ +#.*\n", "", entry) for entry in chosen)


def code_files(folder: Path) -> dict[str, Path]:
    """Make the code channel in a folder; its files by name."""
    folder.mkdir(parents=True, exist_ok=True)
    archive = folder / "segloop.zip"
    archive.write_bytes(source_zip())
    return {ENTRY: HERE / "entry.py", "requirements.txt": REQUIREMENTS, "segloop.zip": archive}


def source_zip(source: Path = Path(segloop.__file__).parent, inside: str = "segloop/") -> bytes:
    """The Python files of a folder, segloop's own, as a zip with its folder `inside`; that of the same source is the same."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        for path in sorted(source.rglob("*.py")):
            name = zipfile.ZipInfo(f"{inside}{path.relative_to(source).as_posix()}", _DATE)
            # Lambda reads as another user than the one who packs.
            name.external_attr = 0o644 << 16
            file.writestr(name, path.read_bytes(), zipfile.ZIP_DEFLATED)
    return buffer.getvalue()
