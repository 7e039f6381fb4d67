"""The folders of SageMaker's training contract: what a run reads, and where it writes."""

from __future__ import annotations

import json
import logging
import traceback
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from segloop.errors import DiskFull, SegloopError, TrainingError
from segloop.files import write_bytes
from segloop.formats import VERSION_FILE
from segloop.metrics.curves import CurvesByName, ProgressFile
from segloop.policy import Recipe
from segloop.progress import Progress
from segloop.settings import Settings, load_settings
from segloop.versions import VersionInfo, read_version

log = logging.getLogger(__name__)

# SageMaker shows the first 1024 characters of output/failure.
_FAILURE_CHARACTERS = 1024


class Container:
    """The folder contract under `base` (/opt/ml in a SageMaker container).

    Args:
        data: where snapshot and served version lie, if they are no channels of the container's own.
    """

    def __init__(self, base: Path, data: Path | None = None) -> None:
        data = data or base / "input" / "data"
        self.snapshot = data / "snapshot"
        self.champion = data / "model"
        self._own_settings = data / "settings.json"
        self.model = base / "model"
        self.checkpoint = base / "checkpoints" / "checkpoint.pt"
        self._hyperparameters = base / "input" / "config" / "hyperparameters.json"
        self._failure = base / "output" / "failure"
        self._progress = base / "output" / "data" / "progress.jsonl"

    def settings(self) -> Settings:
        """The settings that the hyperparameters give, the project's own over them; names that are no settings are the
        platform's own.

        Raises:
            TrainingError: they are missing or not a JSON object.
            SettingsError: one has an unusable value.
            BadRequest: one of the project's has.
        """
        given = self.hyperparameters()
        settings = load_settings(None, **{name: given[name] for name in given if name in Settings.model_fields})
        own = self._own_settings
        return settings.for_project(json.loads(own.read_text("utf-8"))) if own.is_file() else settings

    def use_settings(self, own: Any) -> None:
        """Keep a project's own settings, as the extra params of a backend, for `settings`."""
        self._own_settings.parent.mkdir(parents=True, exist_ok=True)
        self._own_settings.write_text(json.dumps(own), "utf-8")

    def served(self) -> VersionInfo | None:
        """The version.json of the version that the run begins with, if there is one.

        Raises:
            RegistryError: it cannot be read.
        """
        return read_version(self.champion) if (self.champion / VERSION_FILE).exists() else None

    def input_size(self, choose: Callable[[], int]) -> int:
        """The input size that the run's first start chose; this one chooses it if it is the first."""
        kept = self.checkpoint.with_name("input_size")
        if not kept.is_file():
            kept.parent.mkdir(parents=True, exist_ok=True)
            write_bytes(kept, str(choose()).encode())
        return int(kept.read_bytes())

    def recipe(self) -> Recipe:
        """The recipe that the hyperparameters name, the full one if none.

        Raises:
            TrainingError: they are missing or not a JSON object, or the recipe is none.
        """
        match self.hyperparameters().get("recipe", "full"):
            case "quick" | "full" as recipe:
                return recipe
            case other:
                raise TrainingError(f"the recipe {other!r}: use quick or full")

    def report(self, progress: Progress) -> None:
        """Add a line to progress.jsonl."""
        self._progress.parent.mkdir(parents=True, exist_ok=True)
        with self._progress.open("a", encoding="utf-8") as file:
            file.write(json.dumps(progress) + "\n")

    def curves(self) -> CurvesByName:
        """The curves of the run so far, earlier starts in this folder included; see `Curves`."""
        progress = ProgressFile(self._progress)
        progress.read()
        return progress.curves.as_dict()

    def hyperparameters(self) -> dict[str, str]:
        """The hyperparameters as text, which SageMaker makes of all of them.

        Raises:
            TrainingError: they are missing or not a JSON object.
        """
        try:
            given = json.loads(self._hyperparameters.read_text("utf-8"))
        except (OSError, ValueError) as error:
            raise TrainingError(f"the hyperparameters {self._hyperparameters} are missing or not JSON") from error
        if not isinstance(given, dict):
            raise TrainingError(f"the hyperparameters {self._hyperparameters} are not a JSON object")
        return {str(name): str(value) for name, value in given.items()}

    def begin(self) -> None:
        """Forget why an earlier start failed."""
        self._failure.unlink(missing_ok=True)

    def status_of(self, work: Callable[[], int], failed: str) -> int:
        """Do a container's work: its own exit status, or 1 with the reason of its failure in output/failure and the log; where
        the disk is full DiskFull's.

        Args:
            failed: what the log says above the traceback of an error that segloop does not know.
        """
        try:
            return work()
        except SegloopError as error:
            log.error("%s", error)
            return self._failed(error, str(error))
        except Exception as error:
            log.exception(failed)
            return self._failed(error, f"{type(error).__name__}: {error}\n{traceback.format_exc(limit=-3)}")

    def _failed(self, error: Exception, reason: str) -> int:
        """Keep the reason; the exit status."""
        is_full = DiskFull.is_behind(error)
        try:
            self.fail(reason)
        except OSError as unwritten:
            is_full = is_full or DiskFull.is_behind(unwritten)
            log.error("the reason cannot be written: %s", unwritten)
        return DiskFull.EXIT_STATUS if is_full else 1

    def fail(self, reason: str) -> None:
        """Write the reason that a run failed for; the first one stays: where one process fails, others do for it."""
        self._failure.parent.mkdir(parents=True, exist_ok=True)
        with suppress(FileExistsError), self._failure.open("x", encoding="utf-8") as file:
            file.write(reason[:_FAILURE_CHARACTERS])
