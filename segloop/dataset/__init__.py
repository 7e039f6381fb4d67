"""Snapshots: a project's annotations frozen as image and mask files, with a split that never moves a task.

A mirror of the project's annotated tasks feeds them, so that only what changed is fetched, decoded and drawn.
"""

from segloop.dataset.class_maps import Annotators, counting_annotations, majority
from segloop.dataset.files import Memory
from segloop.dataset.items import SnapshotInputs
from segloop.dataset.manifest import (
    MANIFEST,
    AnnotationRef,
    Item,
    Manifest,
    Split,
    load_manifest,
    read_manifest,
    write_manifest,
)
from segloop.dataset.mirror import Mirror
from segloop.dataset.notes import Note, warnings_of
from segloop.dataset.rebuild import rebuild
from segloop.dataset.snapshots import snapshot
from segloop.dataset.splits import JsonStore, ProjectSplits, exclude_trained, join_splits
from segloop.dataset.sync_api import sync
from segloop.dataset.sync_bucket import sync_target

__all__ = [
    "MANIFEST",
    "AnnotationRef",
    "Annotators",
    "Item",
    "JsonStore",
    "Manifest",
    "Memory",
    "Mirror",
    "Note",
    "ProjectSplits",
    "SnapshotInputs",
    "Split",
    "counting_annotations",
    "exclude_trained",
    "join_splits",
    "load_manifest",
    "majority",
    "read_manifest",
    "rebuild",
    "snapshot",
    "sync",
    "sync_target",
    "warnings_of",
    "write_manifest",
]
