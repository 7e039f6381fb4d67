"""What people said of suspected labels, kept beside a project's versions: it holds for the versions to come."""

from __future__ import annotations

import logging
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from segloop.errors import RegistryError
from segloop.suspects.format import Share, Suspect, SuspectImage, Suspects
from segloop.versions import describe_problem

if TYPE_CHECKING:
    from segloop.registry import Registry

_log = logging.getLogger(__name__)

VERDICTS: Final = "suspect-verdicts.json"
#: Verdicts that are kept, the latest.
MOST_VERDICTS: Final = 5000
#: Two pieces are one where so much of the larger one's box is in the other's: the next version sees it a little otherwise. A
#: small piece within the box of a large one is another.
_SAME_SHARE: Final = 0.5

Verdict = Literal["right", "wrong"]


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore", allow_inf_nan=False)


class Judgement(_Frozen):
    """That a label is right, or wrong, at a place of an image: for as long as the label's class map is the same (`mask`)."""

    task: int
    image_tag: str
    item_index: int | None = None
    annotations: tuple[int, ...]
    mask: str
    labelled: str
    box: tuple[Share, Share, Share, Share]
    verdict: Verdict
    made_at: str

    def is_of(self, image: SuspectImage, suspect: Suspect) -> bool:
        """Whether it is of this suspect, or of what an earlier version saw in its place."""
        return (
            (self.task, self.image_tag, self.item_index) == (image.task, image.image_tag, image.item_index)
            and self.mask == image.mask
            and self.labelled == suspect.labelled
            and _shared(self.box, suspect.box) >= _SAME_SHARE
        )


class Judgements(_Frozen):
    """All judgements of a project, in the order in which they were made."""

    format: Literal[1] = 1
    judgements: Annotated[tuple[Judgement, ...], Field(max_length=MOST_VERDICTS)] = ()

    @property
    def wrong(self) -> int:
        """How many labels were found wrong."""
        return sum(one.verdict == "wrong" for one in self.judgements)

    @property
    def precision(self) -> float | None:
        """The share of the judged suspects that were wrong indeed; None before the first."""
        return self.wrong / len(self.judgements) if self.judgements else None

    def of(self, suspects: Suspects) -> list[Verdict | None]:
        """The verdict on each suspect; None where there is none yet."""
        by_mask: dict[str, list[Judgement]] = {}
        for one in reversed(self.judgements):
            by_mask.setdefault(one.mask, []).append(one)
        found: list[Verdict | None] = []
        for suspect in suspects.suspects:
            image = suspects.image_of(suspect)
            known = (one.verdict for one in by_mask.get(image.mask, ()) if one.is_of(image, suspect))
            found.append(next(known, None))
        return found

    def with_verdict(self, image: SuspectImage, suspect: Suspect, verdict: Verdict) -> Judgements:
        """These with a verdict on a suspect, in the place of an earlier one."""
        others = [one for one in self.judgements if not one.is_of(image, suspect)]
        said = Judgement(
            **image.model_dump(include={"task", "image_tag", "item_index", "annotations", "mask"}),
            labelled=suspect.labelled,
            box=suspect.box,
            verdict=verdict,
            made_at=datetime.now(UTC).isoformat(timespec="seconds"),
        )
        return Judgements(judgements=(*others, said)[-MOST_VERDICTS:])


def read_judgements(registry: Registry, project: str) -> Judgements:
    """What was said of a project's suspected labels.

    Where the file cannot be understood, nothing, with a warning in the log.

    Raises:
        RegistryError: the store cannot be read.
    """
    kept = registry.read_json(project, VERDICTS)
    try:
        return _parsed(kept)
    except RegistryError as error:
        _log.warning("project %s: %s", project, error)
        return Judgements()


def keep_verdict(registry: Registry, project: str, image: SuspectImage, suspect: Suspect, verdict: Verdict) -> None:
    """Keep a verdict on a suspect; those that others give at the same time stay.

    Raises:
        RegistryError: the store cannot be written, or holds something else under this name.
    """

    def add(known: Any) -> Any:
        return _parsed(known).with_verdict(image, suspect, verdict).model_dump(mode="json")

    registry.change_json(project, VERDICTS, add)


def _parsed(kept: Any) -> Judgements:
    try:
        return Judgements() if kept is None else Judgements.model_validate(kept)
    except ValidationError as error:
        raise RegistryError(f"{VERDICTS}: {describe_problem(error)}") from error


def _shared(one: tuple[float, ...], other: tuple[float, ...]) -> float:
    """The share of the larger of two boxes (left, top, width, height) that is in the other."""
    across = min(one[0] + one[2], other[0] + other[2]) - max(one[0], other[0])
    down = min(one[1] + one[3], other[1] + other[3]) - max(one[1], other[1])
    larger = max(one[2] * one[3], other[2] * other[3])
    return max(across, 0.0) * max(down, 0.0) / larger if larger else 0.0
