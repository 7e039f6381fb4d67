"""The folders of SageMaker's training contract: what a run reads, and where it writes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from segloop.errors import TrainingError
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
        try:
            given = json.loads(self._hyperparameters.read_text("utf-8"))
        except (OSError, ValueError) as error:
            raise TrainingError(f"the hyperparameters {self._hyperparameters} are missing or not JSON") from error
        if not isinstance(given, dict):
            raise TrainingError(f"the hyperparameters {self._hyperparameters} are not a JSON object")
        return load_settings(None, **{name: value for name, value in given.items() if name in Settings.model_fields})

    def report(self, **progress: Any) -> None:
        """Add a line to progress.jsonl."""
        self._progress.parent.mkdir(parents=True, exist_ok=True)
        with self._progress.open("a", encoding="utf-8") as file:
            file.write(json.dumps(progress) + "\n")

    def fail(self, reason: str) -> None:
        """Write the reason that a run failed for."""
        self._failure.parent.mkdir(parents=True, exist_ok=True)
        self._failure.write_text(reason[:_FAILURE_CHARACTERS], "utf-8")
