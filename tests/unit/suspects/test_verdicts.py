"""Verdicts on suspected labels: they hold for what a later version sees in the same place, until the label is another."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from segloop.errors import RegistryError
from segloop.registry import Registry
from segloop.registry.store import FolderStore
from segloop.suspects import Judgements, Suspects, keep_verdict, read_judgements
from segloop.suspects.verdicts import VERDICTS
from tests.bundles import PROJECT
from tests.suspects import a_suspect, an_image, some_suspects

IMAGE, SUSPECT = an_image(1), a_suspect(0)


def of(judgements: Judgements, image: object, suspect: object) -> object:
    [verdict] = judgements.of(Suspects(judged=some_suspects().judged, images=(image,), suspects=(suspect,)))
    return verdict


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    return Registry(FolderStore(tmp_path / "store"), tmp_path / "cache")


def test_a_verdict_holds_for_the_same_place_and_label() -> None:
    said = Judgements().with_verdict(IMAGE, SUSPECT, "right")
    assert of(said, IMAGE, SUSPECT) == "right"
    assert of(said, IMAGE, a_suspect(0, left=14, top=13, side=18, seen="Pole", margin=0.3)) == "right"
    assert of(said, IMAGE, a_suspect(0, left=26)) is None, "most of it lies elsewhere"
    assert of(said, IMAGE, a_suspect(0, labelled="Tree")) is None
    assert of(said, an_image(2), SUSPECT) is None
    assert of(said, an_image(1, item_index=1), SUSPECT) is None


def test_a_verdict_on_a_small_piece_is_none_on_a_large_one_around_it() -> None:
    """The box of a large piece holds others: one that was called right hid it, and a verdict on it took back theirs."""
    large, small = a_suspect(0, left=0, top=0, side=40), a_suspect(0, left=10, top=10, side=8, seen="Pole")
    said = Judgements().with_verdict(IMAGE, small, "right")
    assert (of(said, IMAGE, small), of(said, IMAGE, large)) == ("right", None)
    said = said.with_verdict(IMAGE, large, "wrong")
    assert (of(said, IMAGE, small), of(said, IMAGE, large)) == ("right", "wrong")


def test_a_verdict_ends_with_the_label_that_it_was_on() -> None:
    said = Judgements().with_verdict(IMAGE, SUSPECT, "right")
    assert of(said, an_image(1, mask="f" * 64), SUSPECT) is None
    assert of(said, an_image(1, annotations=(7,)), SUSPECT) == "right", "the same label in another annotation"


def test_a_second_verdict_takes_the_place_of_the_first_and_precision_is_of_all() -> None:
    said = Judgements()
    assert (said.wrong, said.precision) == (0, None)
    said = said.with_verdict(IMAGE, SUSPECT, "right").with_verdict(IMAGE, SUSPECT, "wrong")
    assert (len(said.judgements), of(said, IMAGE, SUSPECT), said.precision) == (1, "wrong", 1.0)
    said = said.with_verdict(an_image(2), SUSPECT, "right").with_verdict(an_image(3), SUSPECT, "right")
    assert (said.wrong, said.precision) == (1, pytest.approx(1 / 3))


def test_verdicts_of_many_at_once_are_all_kept(registry: Registry) -> None:
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda task: keep_verdict(registry, PROJECT, an_image(task), SUSPECT, "wrong"), range(1, 9)))
    assert {one.task for one in read_judgements(registry, PROJECT).judgements} == set(range(1, 9))


def test_a_file_of_another_form_is_read_as_nothing_and_never_written_over(
    registry: Registry, caplog: pytest.LogCaptureFixture
) -> None:
    registry.write_json(PROJECT, VERDICTS, {"format": 9, "judgements": []})
    assert read_judgements(registry, PROJECT) == Judgements()
    assert VERDICTS in caplog.text
    with pytest.raises(RegistryError, match="format"):
        keep_verdict(registry, PROJECT, IMAGE, SUSPECT, "wrong")
    assert registry.read_json(PROJECT, VERDICTS)["format"] == 9
