"""What stands for AWS's image in tests: the tests' own environment, without all that the image lacks."""

from __future__ import annotations

import re
from collections.abc import Collection
from contextlib import suppress
from importlib import metadata
from pathlib import Path


def packages_of(*names: str) -> set[str]:
    """Distributions with all that they require."""
    found: set[str] = set()
    waiting = list(names)
    while waiting:
        name = re.sub(r"[-_.]+", "-", waiting.pop()).lower()
        if name not in found:
            found.add(name)
            with suppress(metadata.PackageNotFoundError):
                required = [text for text in metadata.requires(name) or [] if "extra ==" not in text]
                waiting += [re.split(r"[^A-Za-z0-9._-]", text)[0] for text in required]
    return found


def image_site(
    folder: Path, brought: Collection[str], lacks: Collection[str] = ("boto3", "rq", "flask", "label_studio_sdk")
) -> Path:
    """A folder for PYTHONPATH that leaves a container only what AWS's image has and the packages that are brought."""
    kept = packages_of("torch", "torchvision") | {"pip", "setuptools", *brought}
    modules = metadata.packages_distributions()
    hidden = {
        name for name, owners in modules.items() if not {owner.lower().replace("_", "-") for owner in owners} & kept
    }
    assert set(lacks) <= hidden
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(
        f"""import sys
from importlib.machinery import PathFinder
hidden = {hidden - {"segloop", "worker"}!r}
class Image:
    def find_spec(self, name, path=None, target=None):
        return None if name.partition(".")[0] in hidden else PathFinder.find_spec(name, path, target)
others = [finder for finder in sys.meta_path if finder is not PathFinder and "editable" not in repr(finder).lower()]
sys.meta_path[:] = [*others, Image()]
""",
        "utf-8",
    )
    return folder
