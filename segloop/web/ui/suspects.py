"""The gallery of suspected labels: a page of it as a dict."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from segloop.suspects import FoundSuspects, Judgements, Suspect, SuspectImage, Verdict
from segloop.web.ui.pages import Page, page_number

#: Suspects that are shown at a time.
SUSPECTS_PAGE: Final = 6
#: What is shown around a piece where it is shown enlarged: so much of its longer side, and at least so many pixels.
_AROUND: Final = 0.6
_AROUND_PX: Final = 24


def suspects_page(
    found: FoundSuspects, judgements: Judgements, tasks_url: str, number: str = "", *, judged: bool = False
) -> Page:
    """A page of the suspects of a version: those without a verdict, the most suspected first, or those with one.

    Args:
        tasks_url: what a task's address in Label Studio begins with, up to its id.
        number: of the page, counted from 1; else the first.
    """
    suspects = found.suspects
    verdicts = judgements.of(suspects)
    places = [place for place, verdict in enumerate(verdicts) if (verdict is not None) is judged]
    pages = max(-(-len(places) // SUSPECTS_PAGE), 1)
    page = page_number(number, pages)
    chosen = places[(page - 1) * SUSPECTS_PAGE : page * SUSPECTS_PAGE]
    return {
        "version": found.version,
        "looked_at": suspects.judged.model_dump(),
        "found": len(suspects.suspects),
        "open": verdicts.count(None),
        "shows_judged": judged,
        "judged": len(judgements.judgements),
        "wrong": judgements.wrong,
        "precision": judgements.precision,
        "page": page,
        "pages": pages,
        "suspects": [
            suspect_row(place, suspects.suspects[place], suspects.image_of(suspects.suspects[place]), verdicts[place])
            | {"link": f"{tasks_url}{suspects.image_of(suspects.suspects[place]).task}"}
            for place in chosen
        ],
    }


def suspect_row(place: int, suspect: Suspect, image: SuspectImage, verdict: Verdict | None) -> Page:
    """A suspect as the page shows it: outlines as the points of SVG polygons."""
    return {
        "number": place,
        **suspect.model_dump(include={"labelled", "seen", "area", "margin", "score"}),
        **image.model_dump(include={"task", "item_index", "width", "height", "held_out"}),
        "verdict": verdict,
        "photo": f"{suspect.image}.jpg",
        "zoom": " ".join(map(str, _zoom(suspect, image))),
        **{name: [_points(ring) for ring in getattr(suspect, name)] for name in ("piece", "label", "network")},
    }


def _points(ring: Sequence[int]) -> str:
    return " ".join(f"{x},{y}" for x, y in zip(ring[::2], ring[1::2], strict=True))


def _zoom(suspect: Suspect, image: SuspectImage) -> tuple[int, int, int, int]:
    """Left, top, width and height of what is shown enlarged, in pixels, in the photo's proportions."""
    left, top, across, down = (
        share * side for share, side in zip(suspect.box, (image.width, image.height) * 2, strict=True)
    )
    around = max(_AROUND_PX, _AROUND * max(across, down))
    scale = min(1.0, max((across + 2 * around) / image.width, (down + 2 * around) / image.height))
    width, height = round(image.width * scale), round(image.height * scale)
    x = min(max(round(left + across / 2 - width / 2), 0), image.width - width)
    y = min(max(round(top + down / 2 - height / 2), 0), image.height - height)
    return x, y, width, height
