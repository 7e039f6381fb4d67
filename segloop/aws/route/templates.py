"""The folder aws/: the two templates and the source of the webhook's functions, in a clone or an installed package."""

from __future__ import annotations

import hashlib
import io
import zipfile
from pathlib import Path

from segloop.errors import StackError

TEMPLATE = "template.yaml"
SAGEMAKER_TEMPLATE = "sagemaker.yaml"
WEBHOOK = "webhook"
# A zip's earliest date: the archive of the same source is the same.
_DATE = (1980, 1, 1, 0, 0, 0)
# setup.py copies aws/ to the first place when it builds a package; the second is that of a clone.
_PLACES = (Path(__file__).parents[1] / "templates", Path(__file__).parents[3] / "aws")


def folder() -> Path:
    """The folder aws/.

    Raises:
        StackError: neither the package nor a clone around it has one.
    """
    for place in _PLACES:
        if (place / TEMPLATE).is_file():
            return place
    raise StackError(
        f"there is no {TEMPLATE} in {' or '.join(map(str, _PLACES))}: install segloop anew, or use a clone"
    )


def template(name: str) -> str:
    """The text of a template."""
    return (folder() / name).read_text("utf-8")


def webhook_archive() -> tuple[str, bytes]:
    """The webhook's source as a zip, and its sha256 in hex; the archive of the same source is the same."""
    buffer = io.BytesIO()
    source = folder() / WEBHOOK
    with zipfile.ZipFile(buffer, "w") as file:
        for path in sorted(source.rglob("*.py")):
            name = zipfile.ZipInfo(path.relative_to(source).as_posix(), _DATE)
            # Lambda reads as another user than the one who packs.
            name.external_attr = 0o644 << 16
            file.writestr(name, path.read_bytes(), zipfile.ZIP_DEFLATED)
    data = buffer.getvalue()
    return hashlib.sha256(data).hexdigest(), data
