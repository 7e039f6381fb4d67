"""Snapshots: a project's annotations frozen as image and mask files, with a split that never moves a task.

A mirror of the project's annotated tasks feeds them, so that only what changed is fetched, decoded and drawn.
"""

from segloop.dataset.class_maps import counting_annotations, current_annotation, majority
from segloop.dataset.files import Memory
from segloop.dataset.items import SnapshotInputs
from segloop.dataset.manifest import (
    MANIFEST,
    AnnotationRef,
    Item,
    Manifest,
    Skipped,
    Split,
    load_manifest,
    read_manifest,
    write_manifest,
)
from segloop.dataset.mirror import Mirror
from segloop.dataset.rebuild import rebuild
from segloop.dataset.snapshots import snapshot
from segloop.dataset.splits import (
    JsonStore,
    ProjectSplits,
    SplitStore,
    assign_splits,
    exclude_trained,
    find_twins,
    join_splits,
)
from segloop.dataset.sync_api import Synced, sync
from segloop.dataset.sync_bucket import sync_target

__all__ = [
    "MANIFEST",
    "AnnotationRef",
    "Item",
    "JsonStore",
    "Manifest",
    "Memory",
    "Mirror",
    "ProjectSplits",
    "Skipped",
    "SnapshotInputs",
    "Split",
    "SplitStore",
    "Synced",
    "assign_splits",
    "counting_annotations",
    "current_annotation",
    "exclude_trained",
    "find_twins",
    "join_splits",
    "load_manifest",
    "majority",
    "read_manifest",
    "rebuild",
    "snapshot",
    "sync",
    "sync_target",
    "write_manifest",
]
