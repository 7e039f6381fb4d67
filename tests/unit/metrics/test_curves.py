from __future__ import annotations

import json
from pathlib import Path

import pytest

from segloop.metrics.curves import MOST_POINTS, Curve, Curves, ProgressFile
from segloop.progress import Progress


def test_few_values_stay_as_they_are() -> None:
    curve = Curve()
    for step, value in ((1, 2.0), (2, 1.5), (4, 1.25)):
        curve.add(step, value)
    assert curve.points() == [[1, 2.0], [2, 1.5], [4, 1.25]]


@pytest.mark.parametrize("steps", [MOST_POINTS - 1, MOST_POINTS, 1000, 20_000])
def test_many_values_become_few_means(steps: int) -> None:
    curve = Curve()
    for step in range(1, steps + 1):
        curve.add(step, float(step))
    points = curve.points()
    assert MOST_POINTS // 2 <= len(points) <= MOST_POINTS
    assert [point[0] for point in points] == sorted({point[0] for point in points})
    assert points[-1][0] == steps
    # the mean of the steps from one point to the next, whose end the point is at
    before = 0.0
    for step, value in points[:20]:
        assert value == (before + 1 + step) / 2
        before = step


def test_a_resumed_run_forgets_what_came_after_its_checkpoint() -> None:
    curve = Curve()
    for step in (1, 2, 3, 4, 5):
        curve.add(step, 1.0)
    curve.add(3, 9.0)
    curve.add(4, 8.0)
    assert curve.points() == [[1, 1.0], [2, 1.0], [3, 9.0], [4, 8.0]]


def test_values_that_are_not_finite_are_left_out() -> None:
    curve = Curve()
    curve.add(1, float("nan"))
    curve.add(2, float("inf"))
    assert curve.points() == []


def test_curves_tell_steps_from_evaluations() -> None:
    curves = Curves()
    for line in (
        Progress(phase="training", step=1, loss=0.5, miou=None),
        Progress(phase="evaluating", step=1, steps=2),
        Progress(phase="evaluated", step=1, evaluated=0.25),
        Progress(phase="evaluated", step=2, evaluated=None),
        Progress(phase="training", message="without a step"),
    ):
        curves.take(line)
    assert curves.as_dict() == {"loss": [[1, 0.5]], "miou": [[1, 0.25]]}


def test_a_progress_file_is_read_as_it_grows(tmp_path: Path) -> None:
    path = tmp_path / "progress.jsonl"
    file = ProgressFile(path)
    file.read()
    assert (file.last, file.curves.as_dict()) == (None, {"loss": [], "miou": []})
    line = json.dumps({"step": 1, "loss": 0.5})
    path.write_text(line + "\n" + line[:5], encoding="utf-8")
    file.read()
    assert file.last == Progress(step=1, loss=0.5)
    with path.open("a", encoding="utf-8") as out:
        out.write(line[5:].replace("1", "2", 1) + '\nnot JSON\n7\n{"step": "far"}\n')
    file.read()
    assert file.last == Progress(step=2, loss=0.5)
    assert file.curves.as_dict()["loss"] == [[1, 0.5], [2, 0.5]]
