"""From a task's annotations to class maps: which annotations count, and what they say together."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from segloop.dataset.manifest import AnnotationRef
from segloop.errors import MaskError
from segloop.formats import IGNORED
from segloop.label_config import LabelConfig
from segloop.results import Canvas, Drawing, Problem, draw_annotation, nothing_readable

Annotators = Literal["ground-truth", "latest", "majority"]
Annotation = Mapping[str, Any]


def counting_annotations(annotations: Iterable[Annotation], annotators: Annotators) -> list[Annotation]:
    """The annotations of a task that count, the one that wins ties first; none where all are skipped.

    "ground-truth": of those not skipped, a ground truth before others, then the newest. "latest": the newest not
    skipped. "majority": all that are not skipped, the newest first.
    """
    submitted = [annotation for annotation in annotations if not annotation.get("was_cancelled")]

    def rank(annotation: Annotation) -> tuple[bool, datetime, int]:
        truth = annotators == "ground-truth" and bool(annotation.get("ground_truth"))
        return truth, datetime.fromisoformat(annotation["updated_at"]), annotation["id"]

    ranked = sorted(submitted, key=rank, reverse=True)
    return ranked if annotators == "majority" else ranked[:1]


def reference(annotation: Annotation) -> AnnotationRef:
    """What a manifest says of an annotation."""
    return AnnotationRef(id=annotation["id"], updated_at=annotation["updated_at"])


@dataclass(frozen=True)
class Drawn:
    """An annotation's class maps, uint8 (H, W), one for each image of its task, and the problems with its regions."""

    class_maps: tuple[NDArray[np.uint8], ...]
    problems: tuple[Problem, ...]


class Drawer:
    """Draws the annotations of one task as class maps, by the label config."""

    def __init__(self, config: LabelConfig, unlabelled: Literal["background", "ignore"]) -> None:
        self._config = config
        self._unlabelled = unlabelled

    def usable(
        self, annotations: Sequence[Annotation], canvases: Sequence[Canvas]
    ) -> Iterator[tuple[Annotation, Drawn | MaskError]]:
        """Each annotation as it is drawn on each of the task's images, or with why it cannot be used."""
        for annotation in annotations:
            try:
                yield annotation, self._draw(annotation, canvases)
            except MaskError as error:
                yield annotation, error
            except (KeyError, TypeError, ValueError, AttributeError) as error:
                yield annotation, MaskError(f"it is malformed: {type(error).__name__}: {error}")

    def draw(self, annotation: Annotation, canvas: Canvas) -> Drawing:
        """What an annotation says of one image.

        Raises:
            MaskError: it cannot be used.
        """
        config = self._config
        return draw_annotation(annotation["result"], config, canvas, config.classes, self._unlabelled)

    def _draw(self, annotation: Annotation, canvases: Sequence[Canvas]) -> Drawn:
        drawings = [self.draw(annotation, canvas) for canvas in canvases]
        readable = [drawing.readable for drawing in drawings]
        if False in readable and True not in readable:
            raise nothing_readable(drawings)
        # What is no matter of one image is said for each.
        problems = dict.fromkeys(problem for drawing in drawings for problem in drawing.problems)
        return Drawn(tuple(drawing.class_map for drawing in drawings), tuple(problems))


def majority(class_maps: Sequence[NDArray[np.uint8]]) -> NDArray[np.uint8]:
    """Per pixel, the value that most of the class maps have; of equal ones, that of the earlier map.

    All uint8 (H, W) of one size. A map that ignores a pixel has no say there; a pixel that all ignore is ignored.
    """
    if len(class_maps) == 1:
        return class_maps[0]
    winner = np.full_like(class_maps[0], IGNORED)
    most = np.zeros(winner.shape, np.uint16)
    for one in class_maps:
        votes = np.zeros(winner.shape, np.uint16)
        for other in class_maps:
            votes += one == other
        votes[one == IGNORED] = 0
        better = votes > most
        winner[better] = one[better]
        most[better] = votes[better]
    return winner


def nothing_known(height: int, width: int) -> NDArray[np.uint8]:
    """The class map uint8 (height, width) of an image without annotations: all of it is ignored."""
    return np.full((height, width), IGNORED, np.uint8)


def mask_file(class_map: NDArray[np.uint8]) -> tuple[str, bytes]:
    """The name and the bytes of the PNG of a class map, uint8 (H, W)."""
    buffer = io.BytesIO()
    Image.fromarray(class_map).save(buffer, "PNG")
    png = buffer.getvalue()
    return f"masks/{hashlib.sha256(png).hexdigest()}.png", png
