"""Notes and stages."""

from __future__ import annotations

from collections import deque
from contextlib import contextmanager

import pytest

from segloop.telemetry import notes as module
from segloop.telemetry.notes import Stage, keep_notes, make_spans, note


@pytest.fixture
def notes(monkeypatch: pytest.MonkeyPatch) -> deque:
    monkeypatch.setattr(module, "_notes", None)
    return keep_notes()


def test_nothing_is_kept_unless_somebody_takes_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_notes", None)
    note("prediction", ("batch",))
    with Stage("decode"):
        pass
    assert module._notes is None


def test_notes_and_stages_are_kept_in_order(notes: deque) -> None:
    note("prediction", ("batch",), 3)
    with pytest.raises(ValueError, match="bad"), Stage("decode"):
        raise ValueError("bad")
    assert notes[0] == ("prediction", ("batch",), 3)
    key, labels, seconds = notes[1]
    assert (key, labels) == ("stage", ("decode",))
    assert 0 <= seconds < 60
    assert keep_notes() is notes


def test_the_oldest_notes_go_first(notes: deque) -> None:
    for number in range(notes.maxlen + 1):
        note("swap", (), number)
    assert len(notes) == notes.maxlen
    assert notes[0][2] == 1


def test_stages_are_spans(notes: deque) -> None:
    seen: list[str] = []

    @contextmanager
    def span(name: str):
        seen.append(f"begin {name}")
        try:
            yield
        finally:
            seen.append(f"end {name}")

    make_spans(span)
    try:
        with Stage("outer"), Stage("inner"):
            pass
    finally:
        make_spans(None)
    with Stage("later"):
        pass
    assert seen == ["begin outer", "begin inner", "end inner", "end outer"]
