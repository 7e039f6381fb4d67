"""The guided head of a version goes on in the versions that are quickly adapted from it."""

from __future__ import annotations

import shutil
from pathlib import Path

from segloop.formats import GUIDED_FILE, GUIDED_MODEL
from segloop.registry import Registry
from segloop.versions import GuidedFigures

_FILES = (GUIDED_FILE, *GUIDED_MODEL)


def inherited_head(registry: Registry, project: str, parent: str, bundle: Path) -> GuidedFigures | None:
    """Copy the guided head of a version into a bundle; what is known of it, or None where the version has none that serves.

    Raises:
        RegistryError: the head is missing in the store, or damaged.
    """
    info = registry.get(project, parent)
    guided = info.engines.guided
    if guided is None or not guided.serves or not info.files.keys() >= set(_FILES):
        return None
    folder = registry.bundle(project, parent, _FILES)
    for name in _FILES:
        shutil.copyfile(folder / name, bundle / name)
    return guided.model_copy(update={"reason": f"It is that of {parent}. {guided.reason}"})
