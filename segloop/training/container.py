"""The folders of SageMaker's training contract: what a run reads, and where it writes."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path
from typing import Any, get_args

from segloop.errors import TrainingError
from segloop.policy import Recipe
from segloop.settings import Settings, load_settings

# SageMaker shows the first 1024 characters of output/failure.
_FAILURE_CHARACTERS = 1024


class Container:
    """The folder contract under `base` (/opt/ml in a SageMaker container)."""

    def __init__(self, base: Path) -> None:
        self.snapshot = base / "input" / "data" / "snapshot"
        self.champion = base / "input" / "data" / "model"
        self.model = base / "model"
        self.checkpoint = base / "checkpoints" / "checkpoint.pt"
        self._hyperparameters = base / "input" / "config" / "hyperparameters.json"
        self._failure = base / "output" / "failure"
        self._progress = base / "output" / "data" / "progress.jsonl"

    def settings(self) -> Settings:
        """The settings that the hyperparameters give; names that are no settings are the platform's own.

        Raises:
            TrainingError: they are missing or not a JSON object.
            SettingsError: one has an unusable value.
        """
        given = self._given()
        return load_settings(None, **{name: value for name, value in given.items() if name in Settings.model_fields})

    def recipe(self) -> Recipe:
        """The recipe that the hyperparameters name, the full one if none.

        Raises:
            TrainingError: they are missing or not a JSON object, or the recipe is none.
        """
        recipe = self._given().get("recipe", "full")
        if recipe not in get_args(Recipe):
            raise TrainingError(f"the recipe {recipe!r}: use quick or full")
        known: Recipe = recipe
        return known

    def report(self, **progress: Any) -> None:
        """Add a line to progress.jsonl."""
        self._progress.parent.mkdir(parents=True, exist_ok=True)
        with self._progress.open("a", encoding="utf-8") as file:
            file.write(json.dumps(progress) + "\n")

    def _given(self) -> dict[str, Any]:
        try:
            given = json.loads(self._hyperparameters.read_text("utf-8"))
        except (OSError, ValueError) as error:
            raise TrainingError(f"the hyperparameters {self._hyperparameters} are missing or not JSON") from error
        if not isinstance(given, dict):
            raise TrainingError(f"the hyperparameters {self._hyperparameters} are not a JSON object")
        return given

    def begin(self) -> None:
        """Forget why an earlier start failed."""
        self._failure.unlink(missing_ok=True)

    def fail(self, reason: str) -> None:
        """Write the reason that a run failed for; the first one stays: where one process fails, others do for it."""
        self._failure.parent.mkdir(parents=True, exist_ok=True)
        with suppress(FileExistsError), self._failure.open("x", encoding="utf-8") as file:
            file.write(reason[:_FAILURE_CHARACTERS])
