"""The folder aws/: the two templates and the source of the webhook's functions, in a clone or an installed package."""

from __future__ import annotations

import hashlib
from pathlib import Path

from segloop.aws.training.code import source_zip
from segloop.errors import StackError

TEMPLATE = "template.yaml"
SAGEMAKER_TEMPLATE = "sagemaker.yaml"
WEBHOOK = "webhook"
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
    data = source_zip(folder() / WEBHOOK, "")
    return hashlib.sha256(data).hexdigest(), data
