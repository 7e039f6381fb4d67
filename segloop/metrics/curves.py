"""Curves of a run, small enough to be kept: the loss by step, and the mIoU of each evaluation."""

from __future__ import annotations

import json
import math
from pathlib import Path

from segloop.progress import Progress, read_progress

#: Points that a curve keeps at most, an even number; when it has them, two neighbours become one.
MOST_POINTS = 240

Points = list[list[float]]
#: `{"loss": [[step, loss], ...], "miou": [[step, mIoU], ...]}`
CurvesByName = dict[str, Points]


class Curve:
    """A series of (step, value), thinned: each kept point is the mean of `every` values, at the last one's step.

    A step that is not beyond the last one is of a run that was resumed from a checkpoint: what came after it is
    forgotten.
    """

    def __init__(self) -> None:
        self._points: Points = []
        self._every = 1
        self._step = -1.0
        self._sum = 0.0
        self._count = 0

    def add(self, step: float, value: float) -> None:
        """Take in a value; one that is not finite is left out."""
        if not math.isfinite(value):
            return
        if step <= self._step:
            self._points = [point for point in self._points if point[0] < step]
            self._sum, self._count = 0.0, 0
        self._step = step
        self._sum += value
        self._count += 1
        if self._count == self._every:
            self._points.append(self._pending())
            self._sum, self._count = 0.0, 0
        if len(self._points) == MOST_POINTS:
            pairs = zip(self._points[::2], self._points[1::2], strict=True)
            self._points = [[later[0], (earlier[1] + later[1]) / 2] for earlier, later in pairs]
            self._every *= 2

    def points(self) -> Points:
        """The points [step, value], the latest last."""
        waiting = [self._pending()] if self._count else []
        return [[step, round(value, 5)] for step, value in (*self._points, *waiting)]

    def _pending(self) -> list[float]:
        return [self._step, self._sum / self._count]


class Curves:
    """The curves of a run, from the lines of its progress.jsonl."""

    def __init__(self) -> None:
        self._curves = {"loss": Curve(), "miou": Curve()}

    def take(self, progress: Progress) -> None:
        """Take in a line: its `loss` at its `step`, or, of an evaluation, the mIoU `evaluated`."""
        step = progress.get("step")
        if step is None:
            return
        for name, value in (("loss", progress.get("loss")), ("miou", progress.get("evaluated"))):
            if value is not None:
                self._curves[name].add(step, value)

    def as_dict(self) -> CurvesByName:
        """The curves, ready for JSON."""
        return {name: curve.points() for name, curve in self._curves.items()}


class ProgressFile:
    """A run's progress.jsonl, read as it grows.

    Attributes:
        last: its last line; None before there is one.
        curves: of all lines read so far.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._offset = 0
        self._rest = b""
        self.last: Progress | None = None
        self.curves = Curves()

    def read(self) -> None:
        """Take in the lines that were added; nothing, while there is no file. A line that is no progress is left out."""
        try:
            with self._path.open("rb") as file:
                file.seek(self._offset)
                data = file.read()
        except OSError:
            return
        self._offset += len(data)
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            try:
                progress = read_progress(json.loads(line))
            except ValueError:
                continue
            if progress is not None:
                self.last = progress
                self.curves.take(progress)
