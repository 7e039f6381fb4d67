"""The check of what people drew: labels and object tags that the label config does not have."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from segloop.doctor import labels
from tests.labelling import CONFIG, LATER, annotation, half, task


def pages(*tasks: dict[str, Any]) -> Iterator[list[dict[str, Any]]]:
    return ([one] for one in tasks)


def test_labels_and_targets_are_counted() -> None:
    found = labels.known(
        CONFIG,
        pages(
            task(1, annotation(1, half("Road"), half("Moon", right=True))),
            task(2, annotation(2, half("Moon"), half("road", right=True))),
            task(3, annotation(3, half("Sky", to_name="img"), half("Road", right=True, to_name="img"))),
        ),
        "ground-truth",
    )
    assert found.status == "warning"
    assert found.text == (
        "of 3 annotated tasks: "
        "the label 'Moon' is not in the label config: the pixels of 2 regions in 2 tasks are ignored (tasks 1, 2); "
        "the label 'road' is not in the label config, which has 'Road': the pixels of 1 region in 1 task are ignored (task 2); "
        "'img' is no tag of the label config: 2 regions in 1 task that point at it count for nothing (task 3)"
    )
    assert "Labeling Interface" in found.fix


def test_annotations_that_do_not_count_are_not_looked_at() -> None:
    old, new = annotation(1, half("Moon")), annotation(2, half("Sky"), updated_at=LATER)
    skip = annotation(3, half("Moon"), updated_at=LATER, was_cancelled=True)
    assert labels.known(CONFIG, pages(task(1, old, new, skip)), "ground-truth").status == "ok"
    assert labels.known(CONFIG, pages(task(1, old, new, skip)), "majority").status == "warning"


@pytest.mark.parametrize("result", [None, [], [None, 5], [{}], [half("Sky"), {"type": "choices", "to_name": "x"}]])
def test_what_says_nothing_is_fine(result: Any) -> None:
    found = labels.known(CONFIG, pages(task(1, {**annotation(1), "result": result})), "latest")
    assert (found.status, found.text) == ("ok", "the regions of 1 annotated task have labels of the labeling setup")


def test_nothing_to_look_at() -> None:
    assert labels.known(CONFIG, pages(), "latest").status == "skipped"
    assert labels.known("<View/>", pages(task(1, annotation(1, half("Moon")))), "latest").status == "skipped"


def test_many_labels_are_named_in_part() -> None:
    regions = [{**half(f"L{n}"), "id": n} for n in range(8)]
    found = labels.known(CONFIG, pages(task(1, annotation(1, *regions))), "latest")
    assert found.text.endswith("; and 3 more")


def test_it_ends_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(labels, "_LOOK_S", 0.0)
    asked = []

    def slow() -> Iterator[list[dict[str, Any]]]:
        for number in range(1000):
            asked.append(number)
            yield [task(number, annotation(number, half("Moon")))]

    found = labels.known(CONFIG, slow(), "latest")
    assert found.status == "warning"
    assert len(asked) < 1000
