"""The pages as dicts: pure functions of facts. What a template shows and what `?format=json` answers is the same."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from segloop.policy import Changes, Thresholds
from segloop.registry import VersionInfo, shown_ids
from segloop.registry.gallery import GalleryIndex
from segloop.report import LEAST_LABELLED, cannot_train
from segloop.versions import Metrics
from segloop.web.ui.data import Facts
from segloop.web.ui.retrain_view import job_of

#: A page or a part of it, as templates and the JSON encoder read it.
Page = dict[str, object]

#: Images of a gallery that are shown at a time.
GALLERY_PAGE: Final = 6
#: Shades of a confusion matrix, by the share of a class's pixels.
SHADES: Final = 10


def projects_page(projects: Sequence[Facts], champions: Mapping[str, VersionInfo | None]) -> Page:
    """The page of all projects. `champions` are the versions that they serve, by their keys. `address` is how a page's address
    names a project."""
    addresses = shown_ids([facts.key for facts in projects])
    rows: list[Page] = [
        {
            **project_of(facts, champions.get(facts.key)),
            "address": addresses[facts.key],
            "job": job_of(facts.live) if facts.live else None,
        }
        for facts in projects
    ]
    errors = dict.fromkeys(error for facts in projects for error in facts.errors)
    return {"page": "projects", "projects": rows, "errors": list(errors)}


def project_page(
    facts: Facts,
    versions: Sequence[VersionInfo],
    chosen: VersionInfo | None,
    gallery: GalleryIndex | None,
    label_studio_url: str,
) -> Page:
    """The page of one project: `versions` oldest first, and one of them in detail, with its gallery's index."""
    champion = facts.champion
    by_name = {info.version: info for info in versions}
    served = by_name.get(champion.version) if champion else None
    return {
        "page": "project",
        "project": project_of(facts, served),
        **{name: job_page(facts)[name] for name in ("job", "cannot_train")},
        "versions": [version_row(info, facts) for info in reversed(versions)],
        "generation": champion.generation if champion else 0,
        "rollback_to": rollback_to(facts),
        "chosen": None if chosen is None else version_detail(chosen, facts, gallery, label_studio_url),
        "errors": list(facts.errors),
    }


def rollback_to(facts: Facts) -> str | None:
    """The version that a rollback would serve; None if there is none, or its model was removed."""
    before = facts.champion.previous[-1:] if facts.champion else ()
    return next((version for version in before if version not in facts.removed), None)


def job_page(facts: Facts) -> Page:
    """The retrain of a project: the live one, else the one that ended last, else None; and why none can begin."""
    status = facts.live or facts.last
    counts = facts.counts
    few = counts is not None and counts.labelled < LEAST_LABELLED
    return {
        "page": "job",
        "project": {"id": facts.id},
        "job": job_of(status) if status else None,
        "cannot_train": cannot_train(counts.labelled) if counts and few else None,
    }


def project_of(facts: Facts, served: VersionInfo | None) -> Page:
    """A project in short: what it serves, its labelled tasks, and its next retrain; None for what is not known now."""
    counts, champion = facts.counts, facts.champion
    return {
        "id": facts.id,
        "key": facts.key,
        "title": (counts.title if counts else "") or f"Project {facts.id}",
        "served": {
            "version": champion.version if champion else facts.served,
            "still_answers": facts.served if champion and champion.version != facts.served else None,
            "is_trained": champion is not None,
            "since": champion.promoted_at if champion else None,
            "reason": champion.reason if champion else None,
            "generation": champion.generation if champion else 0,
            "miou": None if served is None else served.metrics.miou,
        },
        "labels": None
        if counts is None
        else {
            "tasks": counts.tasks,
            "labelled": counts.labelled,
            "unlabelled": max(counts.tasks - counts.labelled, 0),
        },
        "next_retrain": None if facts.changes is None else next_retrain(facts.changes, facts.thresholds),
    }


def next_retrain(changes: Changes, thresholds: Thresholds) -> Page:
    """How many more tasks have to change until one is queued: a full retrain (`missing` None: no number of them queues one),
    and (None: never) a quick adaptation."""
    quick = _countdown(changes.recent, thresholds.quick) if thresholds.quick else None
    return {**_countdown(changes.full, thresholds.full), "quick": quick}


def _countdown(changed: int, threshold: int) -> Page:
    missing = max(threshold - changed, 0) if threshold else None
    return {"changed": changed, "threshold": threshold, "missing": missing}


def version_row(info: VersionInfo, facts: Facts) -> Page:
    """A version in the list: its figures, those of the champion of its day on the same tasks, and the gate's decision."""
    theirs = info.champion_metrics.miou if info.champion_metrics else None
    interval = info.decision.interval if info.decision else None
    champion = facts.champion
    is_served = champion is not None and champion.version == info.version
    return {
        **info.model_dump(include={"version", "created_at"}),
        **info.metrics.model_dump(include={"tasks", "miou"}),
        "recipe": info.recipe.kind,
        "seconds": info.recipe.seconds,
        "champion_miou": theirs,
        "difference": difference(info.metrics.miou, theirs),
        "interval": [] if interval is None else list(interval[1:]),
        "won": info.decision.act if info.decision else None,
        "reason": info.decision.reason if info.decision else None,
        "is_served": is_served,
        "was_served": champion is not None and info.version in champion.previous,
        "is_removed": info.version in facts.removed,
    }


def version_detail(
    info: VersionInfo,
    facts: Facts,
    gallery: GalleryIndex | None,
    label_studio_url: str,
) -> Page:
    """A version at length."""
    tasks = info.metrics.tasks
    return {
        **version_row(info, facts),
        **info.model_dump(include={"parent", "arch", "input_size", "snapshot", "curves"}),
        **info.metrics.model_dump(include={"pixel_accuracy", "boundary_f1", "calibration_error"}),
        "is_rough": tasks is not None and tasks < facts.min_val_tasks,
        "absent_false_positives": info.metrics.absent_share(),
        "classes": classes_of(info),
        "confusion": confusion_of(info.classes, info.metrics.confusion),
        "legend": [one.model_dump() for one in gallery.classes] if gallery else [],
        "gallery": gallery_of(facts.id, gallery, label_studio_url) if gallery else [],
    }


def classes_of(info: VersionInfo) -> list[Page]:
    """The metrics of each class, in the label config's order; false positives are shares of all pixels, and only of a
    class that the truth lacks."""
    champion = info.champion_metrics or Metrics()
    ours, theirs = info.metrics.iou, champion.iou
    boundary = info.metrics.boundary_f1_by_class
    return [
        {
            "name": name,
            "iou": ours.get(name),
            "champion_iou": theirs.get(name),
            "difference": difference(ours.get(name), theirs.get(name)),
            "boundary_f1": boundary.get(name),
            "false_positives": info.metrics.absent_share(name),
            "champion_false_positives": champion.absent_share(name),
        }
        for name in info.classes
    ]


def confusion_of(classes: Sequence[str], counts: Sequence[Sequence[int]] | None) -> Page | None:
    """The confusion matrix as shares of each true class's pixels; None where the version keeps none."""
    if not counts or len(counts) != len(classes) + 1:
        return None
    labels = ["Background", *classes]
    rows = []
    for label, row in zip(labels, counts, strict=True):
        total = sum(row)
        cells = [
            {"pixels": pixels, "share": share, "shade": round((share or 0.0) * SHADES)}
            for pixels in row
            for share in [pixels / total if total else None]
        ]
        rows.append({"name": label, "pixels": total, "cells": cells})
    return {"labels": labels, "rows": rows}


def gallery_of(project_id: str, gallery: GalleryIndex, label_studio_url: str) -> list[Page]:
    """The images of a gallery, the worst first, each with the address of its task in Label Studio."""
    return [
        {
            "number": number,
            **image.model_dump(),
            "difference": difference(image.miou, image.champion_miou),
            "link": f"{label_studio_url}/projects/{project_id}/data?task={image.task}",
        }
        for number, image in enumerate(gallery.images)
    ]


def paged(chosen: Any, number: str) -> Any:
    """A version at length with one page of its gallery's images: of this number, counted from 1; else the first."""
    if chosen is None:
        return None
    images = chosen["gallery"]
    pages = max(-(-len(images) // GALLERY_PAGE), 1)
    page = page_number(number, pages)
    shown = images[(page - 1) * GALLERY_PAGE : page * GALLERY_PAGE]
    return {**chosen, "gallery": shown, "gallery_page": {"page": page, "pages": pages, "images": len(images)}}


def page_number(asked: str, pages: int) -> int:
    """The page, counted from 1, that is asked for; the last one beyond it, and the first where it is no number of one."""
    digits = asked.lstrip("0") if asked.isascii() and asked.isdigit() else ""
    if not digits:
        return 1
    return pages if len(digits) > len(str(pages)) else min(int(digits), pages)


def difference(ours: float | None, theirs: float | None) -> float | None:
    """By how much ours is more; None where either is missing."""
    return None if ours is None or theirs is None else ours - theirs
