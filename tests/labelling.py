"""Annotated tasks, the images and snapshots of them, and a Label Studio that keeps them, as tests need them."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from segloop.dataset import Manifest, SnapshotInputs, Split, snapshot
from segloop.errors import ImageError, ImageUnavailable, LabelStudioUnreachable
from segloop.labelstudio import Totals
from segloop.settings import Settings

PROJECT = "29.1795383040"
CONFIG = """<View><Image name="image" value="$image"/>
<BrushLabels name="brush" toName="image"><Label value="Sky"/><Label value="Road"/></BrushLabels>
<RectangleLabels name="box" toName="image"><Label value="Sky"/><Label value="Road"/></RectangleLabels></View>"""
WIDTH_PX, HEIGHT_PX = 8, 4
LATER = "2026-11-22T12:00:00.000001Z"
EARLIER = "2026-11-22T12:00:00Z"


@dataclass(frozen=True)
class FakeFile:
    bytes: bytes
    sha256: str
    suffix: str


@dataclass(frozen=True)
class FakeImage:
    pixels: NDArray[np.uint8]
    blob: FakeFile


@dataclass
class FakeImages:
    """One image per address, whatever its query, or that of the address it `changed` to.

    One with "gone" has none, one with "503" has one once its host `is_back`, one with "away" needs a Label Studio that is away.
    """

    loaded: list[str] = field(default_factory=list)
    changed: dict[str, str] = field(default_factory=dict)
    is_back: bool = False

    def load(self, uri: str, task_id: int | None) -> FakeImage:
        self.loaded.append(uri)
        if "gone" in uri:
            raise ImageError(f"{uri} answered 404")
        if "away" in uri:
            raise LabelStudioUnreachable("Label Studio cannot be reached")
        if "503" in uri and not self.is_back:
            raise ImageUnavailable(f"{uri} answered 503")
        if "broken" in uri:
            raise ZeroDivisionError("a defect")
        uri = self.changed.get(uri, uri)
        colour = list(hashlib.sha256(uri.partition("?")[0].encode()).digest()[:3])
        pixels = np.full((HEIGHT_PX, WIDTH_PX, 3), colour, np.uint8)
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, "PNG")
        return FakeImage(pixels, FakeFile(buffer.getvalue(), hashlib.sha256(buffer.getvalue()).hexdigest(), ".png"))


@dataclass
class MemorySplits:
    kept: dict[int, Split] = field(default_factory=dict)

    def load(self) -> dict[int, Split]:
        return dict(self.kept)

    def save(self, splits: dict[int, Split]) -> None:
        self.kept = dict(splits)


def half(label: str, *, right: bool = False, to_name: str = "image") -> dict[str, Any]:
    """A region over the left or the right half of an image."""
    value = {"x": 50 if right else 0, "y": 0, "width": 50, "height": 100, "rotation": 0, "rectanglelabels": [label]}
    return {
        "id": f"{label}{right}",
        "type": "rectanglelabels",
        "from_name": "box",
        "to_name": to_name,
        "original_width": WIDTH_PX,
        "original_height": HEIGHT_PX,
        "image_rotation": 0,
        "value": value,
    }


def annotation(number: int, *regions: dict[str, Any], updated_at: str = EARLIER, **fields: Any) -> dict[str, Any]:
    return {"id": number, "updated_at": updated_at, "result": list(regions), **fields}


def task(number: int, *annotations: dict[str, Any], **data: Any) -> dict[str, Any]:
    return {"id": number, "data": data or {"image": f"/data/upload/1/{number}.png"}, "annotations": list(annotations)}


def two_tasks() -> list[dict[str, Any]]:
    return [
        task(17, annotation(5, half("Road"), half("Sky", right=True))),
        task(18, annotation(6, half("Sky", right=True))),
    ]


def snapshot_inputs(folder: Path, config: str = CONFIG, **own: Any) -> SnapshotInputs:
    defaults = SnapshotInputs(PROJECT, config, FakeImages(), MemorySplits(), Settings(data_dir=folder / "data"))
    return replace(defaults, **own)


def take(dest: Path, tasks: list[dict[str, Any]], progress: Any = None, **own: Any) -> Manifest:
    """A snapshot of these tasks, in the folder "snap"."""
    return snapshot(snapshot_inputs(dest, **own), tasks, dest / "snap", progress=progress)


class Studio:
    """Label Studio's API and what people do behind it, with `updated_at` set where Label Studio 1.23 sets it.

    Its clock is its own and moves by a second with each thing done. `requests` names every request.
    """

    def __init__(self, page: int = 3) -> None:
        self.clock = datetime(2026, 11, 20, 8, tzinfo=UTC)
        self.tasks: dict[int, dict[str, Any]] = {}
        self.updated: dict[int, datetime] = {}
        self.requests: list[str] = []
        self.fails_at = 0
        self._page = page
        self._annotations = 100

    # -- what people do

    def submit(self, number: int, *regions: dict[str, Any], **fields: Any) -> int:
        """Annotate a task, which is made if it is missing; the annotation's id."""
        self._annotations += 1
        new = task(number)
        self.tasks.setdefault(number, new)["annotations"].append(
            annotation(self._annotations, *regions, updated_at=self._touch(number), **fields)
        )
        return self._annotations

    def change(self, number: int, *regions: dict[str, Any], **fields: Any) -> None:
        """Save a task's first annotation anew."""
        changes = {"updated_at": self._touch(number), "result": list(regions), **fields}
        self.tasks[number]["annotations"][0] |= changes

    def predict(self, number: int) -> None:
        """Store a prediction."""
        self._touch(number)

    def unlabel(self, number: int, place: int = 0, *, silently: bool = False) -> None:
        """Delete an annotation; silently, as inside Label Studio's database."""
        del self.tasks[number]["annotations"][place]
        if not silently:
            self._touch(number)

    def delete(self, number: int) -> None:
        """Delete a task."""
        del self.tasks[number], self.updated[number]

    def _touch(self, number: int) -> str:
        self.clock += timedelta(seconds=1)
        self.updated[number] = self.clock
        return self.clock.isoformat().replace("+00:00", "Z")

    # -- the API

    def totals(self, project_id: int, after: int = 0, upto: int | None = None) -> Totals:
        self._ask(f"totals {after} {upto}")
        found = self._between(after, upto)
        return Totals(len(found), sum(submitted(self.tasks[number]) for number in found), self.clock)

    def labelled_ids(self, project_id: int, after: int = 0, upto: int | None = None) -> list[int]:
        self._ask(f"ids {after} {upto}")
        return self._between(after, upto)

    def annotated_pages(
        self, project_id: int, *, since: datetime | None = None, after: int = 0, upto: int | None = None
    ) -> Iterator[list[dict[str, Any]]]:
        for labelled in (True, False):
            found = [
                number
                for number in self._between(after, upto, labelled=labelled)
                if self.tasks[number]["annotations"] and (since is None or self.updated[number] >= since)
            ]
            for start in range(0, len(found), self._page):
                self._ask(f"page {found[start]}")
                yield [self.tasks[number] for number in found[start : start + self._page]]

    def _between(self, after: int, upto: int | None, *, labelled: bool = True) -> list[int]:
        return [
            number
            for number in sorted(self.tasks)
            if after < number and (upto is None or number <= upto) and bool(submitted(self.tasks[number])) == labelled
        ]

    def _ask(self, request: str) -> None:
        self.requests.append(request)
        if len(self.requests) == self.fails_at:
            raise LabelStudioUnreachable("away")


def submitted(of: dict[str, Any]) -> int:
    """How many annotations of a task were not skipped."""
    return sum(not one.get("was_cancelled") for one in of["annotations"])
