"""What a version would have shown on blind tasks, compared with what people drew there without seeing it."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final, cast

import orjson
from pydantic import BaseModel, ConfigDict

from segloop.accept import Rule
from segloop.dataset import Mirror
from segloop.errors import MaskError
from segloop.label_config import LabelConfig
from segloop.ledger import BlindLabel, effort_of
from segloop.serving.predict import Prediction, Predictor
from segloop.settings import Settings
from worker.jobs.context import JobContext

logger = logging.getLogger(__name__)

_SCHEMA: Final = """CREATE TABLE IF NOT EXISTS outcomes (
    annotation INTEGER, version TEXT, key TEXT, found BLOB, PRIMARY KEY (annotation, version)
) WITHOUT ROWID"""
#: Settings that change what is predicted, or its score.
_SHOWN: Final = ("acquisition", "engine", "min_area_px", "output_tag", "polygon_tolerance_px", "regions")


class Outcome(BaseModel):
    """A hidden pre-label against its blind label.

    Attributes:
        score: the prediction's; None where there is none, or where it is empty.
        changed_share: of the pixels, those that would have been corrected; `misses_a_class` likewise.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    score: float | None
    changed_share: float = 0.0
    misses_a_class: bool = False

    def is_wrong(self, rule: Rule) -> bool:
        """Whether accepting it would have been wrong."""
        return self.changed_share > rule.tau or self.misses_a_class


@dataclass(frozen=True)
class BlindOutcomes:
    """Predicts blind tasks with versions of a project. What is found is kept in the mirror's file."""

    context: JobContext
    project: str
    mirror: Mirror
    config: LabelConfig
    settings: Settings

    def of(self, version: str, labels: Sequence[BlindLabel]) -> dict[int, Outcome]:
        """The outcome of each label's task.

        Raises:
            RegistryError: the version cannot be loaded.
            LabelStudioUnreachable: an image cannot be had now.
        """
        db = self.mirror.db
        db.execute(_SCHEMA)
        keys = {label.annotation: self._key(label) for label in labels}
        query = "SELECT annotation, key, found FROM outcomes WHERE version = ?"
        known = {
            number: Outcome.model_validate_json(found)
            for number, key, found in db.execute(query, (version,))
            if keys.get(number) == key
        }
        for label, outcome in self._predicted(version, [one for one in labels if one.annotation not in known]):
            known[label.annotation] = outcome
            row = (label.annotation, version, keys[label.annotation], outcome.model_dump_json())
            with self.mirror.writing():
                db.execute("INSERT OR REPLACE INTO outcomes VALUES (?, ?, ?, ?)", row)
        return {label.task["id"]: known[label.annotation] for label in labels if label.annotation in known}

    def _predicted(self, version: str, labels: Sequence[BlindLabel]) -> Iterator[tuple[BlindLabel, Outcome]]:
        if not labels:
            return
        shown = self.settings.model_copy(update={"blind_share": 0.0, "auto_accept": False})
        model = self.context.load_model(self.context.registry, self.project, version, shown)
        predictor = Predictor(self.config, model, self.context.images, shown)
        size = self.settings.prelabel_batch
        for some in (labels[start : start + size] for start in range(0, len(labels), size)):
            predictions = predictor.predict([label.task for label in some])
            for label, prediction in zip(some, predictions, strict=True):
                # what cannot be predicted now is asked for again the next time
                outcome = self._outcome(label, cast(Prediction, prediction)) if "result" in prediction else None
                if outcome is not None:
                    yield label, outcome

    def _outcome(self, label: BlindLabel, shown: Prediction) -> Outcome | None:
        if not shown["result"] or shown["score"] is None:
            return Outcome(score=None)
        try:
            effort = effort_of(shown["result"], label.result, self.config, self.settings.image_max_pixels)
        except (MaskError, KeyError, TypeError, ValueError, AttributeError) as error:
            logger.info("task %s: its blind label cannot be compared: %s", label.task["id"], error)
            return None
        missed = effort.misses_a_class
        return Outcome(score=shown["score"], changed_share=effort.changed_share, misses_a_class=missed)

    def _key(self, label: BlindLabel) -> str:
        shown = {name: getattr(self.settings, name) for name in _SHOWN}
        named = [label.task["content"], label.task["data"], self.config.classes, shown]
        return hashlib.sha256(orjson.dumps(named)).hexdigest()
