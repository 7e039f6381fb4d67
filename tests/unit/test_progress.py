"""Progress as another process wrote it."""

from __future__ import annotations

import pytest

from segloop.progress import Progress, read_progress

WHOLE: Progress = {"phase": "training", "step": 3, "steps": None, "loss": 0.5, "miou": None, "eta_s": 2.0}


@pytest.mark.parametrize("value", [WHOLE, {}, {"phase": "done", "version": None, "promoted": False}])
def test_progress_is_read_as_it_was_written(value: Progress) -> None:
    assert read_progress(value) == value


def test_what_progress_does_not_have_is_left_out() -> None:
    assert read_progress({"phase": "training", "exploded": [1]}) == {"phase": "training"}


@pytest.mark.parametrize("value", [None, 3, [], "training", {"phase": 3}, {"step": 1.5}, {"loss": "much"}])
def test_what_is_no_progress_is_none(value: object) -> None:
    assert read_progress(value) is None
