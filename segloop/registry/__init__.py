"""Registry: immutable versions and the champion pointer of each project, in a folder or in S3."""

from segloop.registry.generations import Generations
from segloop.registry.registry import Registry, open_registry
from segloop.registry.versions import Champion, model_bytes, prunable_versions, shown_ids
from segloop.versions import FileInfo, VersionInfo

__all__ = [
    "Champion",
    "FileInfo",
    "Generations",
    "Registry",
    "VersionInfo",
    "model_bytes",
    "open_registry",
    "prunable_versions",
    "shown_ids",
]
