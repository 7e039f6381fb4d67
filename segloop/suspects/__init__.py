"""Suspected labels: those that disagree with a network that never saw them, and what people said of each."""

from segloop.suspects.format import (
    BACKGROUND_NAME,
    PHOTOS,
    SUSPECTS,
    Judged,
    Suspect,
    SuspectImage,
    Suspects,
    read_photo,
    read_suspects,
    write_suspects,
)
from segloop.suspects.found import FoundSuspects, found_suspects, version_with_suspects
from segloop.suspects.verdicts import Judgement, Judgements, Verdict, keep_verdict, read_judgements

__all__ = [
    "BACKGROUND_NAME",
    "PHOTOS",
    "SUSPECTS",
    "FoundSuspects",
    "Judged",
    "Judgement",
    "Judgements",
    "Suspect",
    "SuspectImage",
    "Suspects",
    "Verdict",
    "found_suspects",
    "keep_verdict",
    "read_judgements",
    "read_photo",
    "read_suspects",
    "version_with_suspects",
    "write_suspects",
]
