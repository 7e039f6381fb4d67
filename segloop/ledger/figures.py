"""Figures over annotations: what people accepted, changed and how long they took, by version and class. Pure."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from segloop.ledger.effort import Effort

#: Quantiles of an annotator's times beyond which a time counts as that quantile: a break is no work.
WINSORISED: Final = (0.05, 0.95)

Kind = Literal["pre-labelled", "blind", "scratch"]


@dataclass(frozen=True)
class Entry:
    """An annotation, and how it came about.

    Attributes:
        kind: it began as a copy of a prediction that showed something; of one that was hidden (`blind_share`); or of none.
        version: that made the prediction; empty from scratch.
        effort: what was changed of the prediction; None where nothing was shown, or nothing can be told.
        lead_time_s: in seconds; None where Label Studio does not say, as where predictions were accepted in bulk.
    """

    annotation: int
    task: int
    annotator: int | None
    kind: Kind
    version: str = ""
    effort: Effort | None = None
    lead_time_s: float | None = None


class _Figures(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class _Changes(_Figures):
    """What was changed over some annotations; boundary_px and moved_px: the length of boundaries, and how much of it was
    moved by more than 3 px, in pixels."""

    annotations: int
    unchanged: float
    changed_share: float
    boundary_px: int
    moved_px: int
    regions_added: int
    regions_removed: int


class ClassFigures(_Changes):
    """One class over a version's annotations that show it, in the prediction or in the annotation.

    Attributes:
        unchanged: the share of these annotations in which every pixel of the class is as predicted.
        changed_share: of the pixels that prediction or annotation gives to the class, the share that only one of them does.
    """


class AnnotatorTime(_Figures):
    """The median time of one annotator, by the user's id, over annotations with a time."""

    annotator: int | None
    annotations: int
    median_s: float


class VersionFigures(_Changes):
    """What became of the pre-labels of one version.

    Attributes:
        annotations: those that began as one of its predictions and can be compared with it.
        unchanged: the share of them in which every pixel is as predicted.
        changed_share: of all their pixels, the share whose class was changed.
        median_s: the median of the winsorised times; None without one.
    """

    version: str
    median_s: float | None
    annotators: tuple[AnnotatorTime, ...]
    classes: dict[str, ClassFigures]


def winsorised(entries: Iterable[Entry]) -> dict[int, float]:
    """The time of each annotation that has one, by its id, in seconds, clipped to its annotator's own quantiles."""
    by_annotator: dict[int | None, list[Entry]] = defaultdict(list)
    for entry in entries:
        if entry.lead_time_s is not None:
            by_annotator[entry.annotator].append(entry)
    times: dict[int, float] = {}
    for own in by_annotator.values():
        values: NDArray[np.float64] = np.array([entry.lead_time_s for entry in own], np.float64)
        clipped = np.clip(values, *np.quantile(values, WINSORISED))
        times.update(zip((entry.annotation for entry in own), map(float, clipped), strict=True))
    return times


def version_figures(entries: Sequence[Entry]) -> list[VersionFigures]:
    """The figures of each version whose pre-labels people began with, in the order of its first annotation."""
    times = winsorised(entries)
    by_version: dict[str, list[Entry]] = {}
    for entry in sorted(entries, key=lambda entry: entry.annotation):
        if entry.effort is not None:
            by_version.setdefault(entry.version, []).append(entry)
    return [_version(version, own, times) for version, own in by_version.items()]


def _version(version: str, entries: Sequence[Entry], times: dict[int, float]) -> VersionFigures:
    efforts = [entry.effort for entry in entries if entry.effort is not None]
    names = dict.fromkeys(name for effort in efforts for name in effort.classes)
    classes = {name: _class(name, efforts) for name in names}
    own_times = [times[entry.annotation] for entry in entries if entry.annotation in times]
    return VersionFigures(
        version=version,
        annotations=len(efforts),
        unchanged=sum(effort.is_unchanged for effort in efforts) / len(efforts),
        changed_share=_share(sum(e.changed_px for e in efforts), sum(e.pixels for e in efforts)),
        boundary_px=sum(one.boundary_px for one in classes.values()),
        moved_px=sum(one.moved_px for one in classes.values()),
        regions_added=sum(one.regions_added for one in classes.values()),
        regions_removed=sum(one.regions_removed for one in classes.values()),
        median_s=median(own_times) if own_times else None,
        annotators=_annotators(entries, times),
        classes=classes,
    )


def _class(name: str, efforts: Sequence[Effort]) -> ClassFigures:
    own = [effort.classes[name] for effort in efforts if name in effort.classes]
    return ClassFigures(
        annotations=len(own),
        unchanged=sum(one.changed_px == 0 for one in own) / len(own),
        changed_share=_share(sum(one.changed_px for one in own), sum(one.pixels for one in own)),
        boundary_px=sum(one.boundary_px for one in own),
        moved_px=sum(one.moved_px for one in own),
        regions_added=sum(one.regions_added for one in own),
        regions_removed=sum(one.regions_removed for one in own),
    )


def _annotators(entries: Sequence[Entry], times: dict[int, float]) -> tuple[AnnotatorTime, ...]:
    known: dict[int | None, list[float]] = defaultdict(list)
    for entry in entries:
        if entry.annotation in times:
            known[entry.annotator].append(times[entry.annotation])
    return tuple(
        AnnotatorTime(annotator=annotator, annotations=len(own), median_s=median(own))
        for annotator, own in sorted(known.items(), key=lambda item: (item[0] is None, item[0] or 0))
    )


def _share(part: int, whole: int) -> float:
    return part / whole if whole else 0.0
