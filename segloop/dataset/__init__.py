"""Snapshots: a project's annotations frozen as image and mask files, with a split that never moves a task."""

from segloop.dataset.manifest import MANIFEST, AnnotationRef, Item, Manifest, Skipped, Split, load_manifest
from segloop.dataset.snapshots import File, Images, SourceImage, current_annotation, snapshot
from segloop.dataset.splits import JsonStore, ProjectSplits, SplitStore, assign_splits

__all__ = [
    "MANIFEST",
    "AnnotationRef",
    "File",
    "Images",
    "Item",
    "JsonStore",
    "Manifest",
    "ProjectSplits",
    "Skipped",
    "SourceImage",
    "Split",
    "SplitStore",
    "assign_splits",
    "current_annotation",
    "load_manifest",
    "snapshot",
]
