"""Suspected labels: looked for after a training, and shown in Label Studio. No annotation is ever changed."""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import orjson

from segloop.errors import SegloopError
from segloop.formats import SUSPECT_MODEL
from segloop.label_config import LabelConfig, parse_label_config
from segloop.masks import polygon_mask
from segloop.results import RegionWriter
from segloop.settings import Settings
from segloop.suspects import SUSPECTS, Suspect, SuspectImage, Suspects, Verdict, found_suspects, read_judgements
from worker.jobs.context import JobContext, project_id_of

logger = logging.getLogger(__name__)

#: Which tasks have a prediction that shows suspected labels, with a digest of what it shows.
SHOWN: Final = "suspects-shown.json"


def look_for_suspects(context: JobContext, bundle: Path, snapshot: Path, settings: Settings) -> None:
    """Look for suspected labels, and put them into a candidate's bundle, once. A retrain never fails for them: what goes
    wrong is in the log, and the version has none.

    Raises:
        JobTimeout: the retrain's time is over.
    """
    begun = snapshot.with_name("suspects.begun")
    if context.find_suspects is None or (bundle / SUSPECTS).is_file():
        return
    if begun.exists():
        logger.warning("run %s: suspected labels are not looked for again: a worker died of it", snapshot.parent.name)
        return
    began = time.monotonic()
    try:
        begun.touch()
        context.find_suspects(bundle, snapshot, settings)
    except SegloopError as error:
        logger.warning("run %s: suspected labels cannot be looked for: %s", snapshot.parent.name, error)
    except Exception:  # they are a help, and no part of the network
        logger.exception("run %s: suspected labels cannot be looked for", snapshot.parent.name)
    else:
        seconds = time.monotonic() - began
        logger.info("run %s: suspected labels were looked for in %.1f s", snapshot.parent.name, seconds)


def point_out_suspects(context: JobContext, project: str) -> None:
    """Have Label Studio show the suspected labels of the newest training, by the setting `suspect_view`: a tab, and a
    prediction on each task that has some, without those that somebody called right. What is as it should be stays.

    Never raises what Label Studio or the store may: it is a convenience, and the next reconciliation tries again.
    """
    try:
        _point_out(context, project)
    except SegloopError as error:
        logger.warning("project %s: its suspected labels cannot be shown in Label Studio now: %s", project, error)


def _point_out(context: JobContext, project: str) -> None:
    settings = context.settings_of(project)
    registry, studio = context.registry, context.label_studio
    shown: dict[str, str] = (registry.read_json(project, SHOWN) or {}).get("tasks", {})
    found = found_suspects(registry, project) if settings.suspects != "off" and settings.suspect_view else None
    if found is None and not shown:
        return
    open_ones = (
        {} if found is None else open_suspects(found.suspects, read_judgements(registry, project).of(found.suspects))
    )
    wanted = {str(task): _digest(pieces) for task, pieces in open_ones.items()}
    if wanted == shown:
        return
    project_id = project_id_of(project)
    changed = {task for task in wanted.keys() | shown.keys() if wanted.get(task) != shown.get(task)}
    # a worker that dies here leaves tasks of which it is not known what they show
    registry.write_json(project, SHOWN, {"format": 1, "tasks": {**shown, **dict.fromkeys(changed, "")}})
    for task in sorted(changed & shown.keys()):
        studio.predictions.remove(int(task), SUSPECT_MODEL)
    config = parse_label_config(studio.projects.get(project_id)["label_config"])
    rows = [
        {"task": int(task), "result": result, "score": None, "model_version": SUSPECT_MODEL}
        for task in sorted(changed & wanted.keys(), key=int)
        if (result := list(_regions(open_ones[int(task)], config, settings)))
    ]
    studio.predictions.create(project_id, rows)
    studio.views.keep_suspects(project_id)
    registry.write_json(project, SHOWN, {"format": 1, "tasks": wanted})
    logger.info("project %s: Label Studio shows suspected labels on %d tasks", project, len(wanted))


def open_suspects(
    suspects: Suspects, verdicts: Sequence[Verdict | None]
) -> dict[int, list[tuple[SuspectImage, Suspect]]]:
    """The suspects of each task that nobody called right."""
    tasks: dict[int, list[tuple[SuspectImage, Suspect]]] = {}
    for suspect, verdict in zip(suspects.suspects, verdicts, strict=True):
        if verdict != "right":
            image = suspects.image_of(suspect)
            tasks.setdefault(image.task, []).append((image, suspect))
    return tasks


def _regions(
    pieces: Sequence[tuple[SuspectImage, Suspect]], config: LabelConfig, settings: Settings
) -> Iterator[dict[str, Any]]:
    """A region for each piece, under the label that the network sees there, or, where that is none, under the one that
    people gave; its note says both."""
    for image, suspect in pieces:
        writer = RegionWriter(
            config, image.image_tag, settings.output_tag, "component", 0, settings.polygon_tolerance_px
        )
        label = next((name for name in (suspect.seen, suspect.labelled) if name in writer.outputs), None)
        if label is None:
            continue
        note = f"Labelled {suspect.labelled}; the network sees {suspect.seen}."
        for region in writer.mask_regions(_mask(image, suspect), label):
            place = {} if image.item_index is None else {"item_index": image.item_index}
            yield {**region, **place, "meta": {"text": [note]}}


def _mask(image: SuspectImage, suspect: Suspect) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """The pixels of a piece on the image itself, bool (H, W)."""
    mask = np.zeros((image.full_height, image.full_width), np.bool_)
    scale = np.array([image.full_width / image.width, image.full_height / image.height])
    for ring in suspect.piece:
        corners = np.array(ring, np.float64).reshape(-1, 2) * scale
        mask |= polygon_mask(corners, *mask.shape)
    return mask


def _digest(pieces: Sequence[tuple[SuspectImage, Suspect]]) -> str:
    shown = [[image.model_dump(), suspect.model_dump()] for image, suspect in pieces]
    return hashlib.sha256(orjson.dumps(shown)).hexdigest()[:16]
