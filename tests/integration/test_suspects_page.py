"""The gallery of suspected labels on the status page, and the verdicts that its buttons keep."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from segloop.suspects import Suspects, read_judgements
from segloop.web.ui.suspects import SUSPECTS_PAGE
from tests.bundles import make_info
from tests.pages import PROJECT, PageWorld, world
from tests.suspects import an_image, put_into, some_suspects

__all__ = ["world"]


def add(world: PageWorld, folder: Path, seed: int, suspects: Suspects | None) -> str:
    """Put a version into the registry; without suspects it is as a quick adaptation makes one."""
    bundle = folder / f"bundle-{seed}"
    bundle.mkdir()
    (bundle / "model.safetensors").write_bytes(bytes([seed] * 64))
    if suspects is not None:
        put_into(bundle, suspects)
    return world.registry.add(PROJECT, bundle, make_info())


def page(world: PageWorld, query: str = "") -> Any:
    return world.client.get(f"/ui/projects/29?{query}", headers={"Accept": "application/json"}).json["suspects"]


def press(world: PageWorld, place: int, verdict: str, **changed: str) -> Any:
    """Press a button of the suspect at this place of the page."""
    forms = re.findall(
        r'<form method="post" action="[^"]*/verdict">(.*?)</form>', world.client.get("/ui/projects/29").text, re.S
    )
    fields = [dict(re.findall(r'name="([^"]+)" value="([^"]*)"', form)) for form in forms]
    chosen = [one for one in fields if one["verdict"] == verdict][place]
    return world.client.post("/ui/projects/29/verdict", data=chosen | changed)


def test_suspects_are_those_of_the_newest_version_that_looked_for_them(world: PageWorld, tmp_path: Path) -> None:
    add(world, tmp_path, 1, None)
    assert page(world) is None
    assert "Suspected labels" not in world.client.get("/ui/projects/29").text
    second = add(world, tmp_path, 2, some_suspects())
    add(world, tmp_path, 3, None)
    shown = page(world)
    assert (shown["version"], shown["open"], shown["judged"], shown["precision"]) == (second, 3, 0, None)
    assert shown["looked_at"] == {"held_out": 2, "held_out_of": 2, "training": 0, "training_of": 8}
    first = shown["suspects"][0]
    assert (first["task"], first["labelled"], first["seen"], first["photo"]) == (1, "Road", "Sky", "0.jpg")
    assert first["piece"] == ["10,10 30,10 30,30 10,30"]
    assert first["link"].endswith("/projects/29/data?task=1")
    left, top, width, height = map(int, first["zoom"].split())
    assert left <= 10 <= 30 <= left + width
    assert top <= 10 <= 30 <= top + height
    html = world.client.get("/ui/projects/29").text
    assert html.count("<polygon") == 2 * (3 + 3), "twice the piece and what is labelled there, for each"
    photo = world.client.get(f"/ui/projects/29/versions/{second}/suspects/0.jpg")
    assert (photo.status_code, photo.mimetype, photo.data[:2]) == (200, "image/jpeg", b"\xff\xd8")
    for name in ("9.jpg", "suspects.json"):
        assert world.client.get(f"/ui/projects/29/versions/{second}/suspects/{name}").status_code == 404


@pytest.mark.slow
def test_a_verdict_is_kept_and_holds_for_the_next_version(world: PageWorld, tmp_path: Path) -> None:
    add(world, tmp_path, 1, some_suspects())
    answer = press(world, 0, "right")
    assert answer.status_code == 303
    assert answer.headers["Location"].endswith("?notice=called-right#suspects")
    press(world, 0, "wrong")
    shown = page(world)
    assert [one["labelled"] for one in shown["suspects"]] == ["Sky"]
    assert (shown["judged"], shown["wrong"], shown["precision"]) == (2, 1, 0.5)
    assert "1 of 2 judged were wrong: precision 50 %" in world.client.get("/ui/projects/29").text
    add(world, tmp_path, 2, some_suspects(3))
    assert [(one["task"], one["labelled"]) for one in page(world)["suspects"]] == [(3, "Road"), (1, "Sky")]
    corrected = some_suspects(3).model_copy(
        update={"images": (an_image(1, mask="e" * 64), an_image(2, mask="f" * 64), an_image(3))}
    )
    add(world, tmp_path, 3, corrected)
    assert page(world)["open"] == 4, "other labels, other questions"


def test_judged_ones_are_shown_when_asked_for_and_can_be_judged_anew(world: PageWorld, tmp_path: Path) -> None:
    version = add(world, tmp_path, 1, some_suspects())
    press(world, 0, "right")
    judged = page(world, "judged=yes")
    assert [(one["number"], one["verdict"]) for one in judged["suspects"]] == [(0, "right")]
    press(world, 0, "wrong", suspect="0", version=version)
    assert [one["verdict"] for one in page(world, "judged=yes")["suspects"]] == ["wrong"]
    for place in ("1", "2"):
        press(world, 0, "wrong", suspect=place)
    assert "All 3 suspected labels are judged" in world.client.get("/ui/projects/29").text


def test_what_is_pressed_on_an_old_page_or_makes_no_sense_changes_nothing(world: PageWorld, tmp_path: Path) -> None:
    version = add(world, tmp_path, 1, some_suspects())
    # a page's tokens tell the time of each, and differ where a second passes between them
    token, *_ = re.findall(r'name="token" value="([^"]+)"', world.client.get("/ui/projects/29").text)
    for status, changed in (
        (409, {"version": "v9-00000009"}),
        (400, {"suspect": "3"}),
        (400, {"suspect": "-1"}),
        (400, {"suspect": "9" * 5000}),
        (400, {"verdict": "maybe"}),
        (403, {"token": "forged"}),
    ):
        form = {"token": token, "version": version, "suspect": "0", "verdict": "right", **changed}
        assert world.client.post("/ui/projects/29/verdict", data=form).status_code == status, changed
    assert not read_judgements(world.registry, PROJECT).judgements


def test_the_gallery_is_paged(world: PageWorld, tmp_path: Path) -> None:
    add(world, tmp_path, 1, some_suspects(SUSPECTS_PAGE))
    first, second, beyond = (page(world, f"suspects={number}") for number in ("1", "2", "99"))
    assert [len(one["suspects"]) for one in (first, second, beyond)] == [SUSPECTS_PAGE, 1, 1]
    assert page(world, "suspects=x") == first
    assert page(world, f"suspects={'9' * 5000}") == beyond
    assert "Page 1 of 2" in world.client.get("/ui/projects/29").text
