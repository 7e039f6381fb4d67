"""Where a training's curves go besides its progress: TensorBoard, by the setting tensorboard_dir and the extra of that name."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

from segloop.dataset import Manifest
from segloop.files import write_bytes
from segloop.settings import Settings
from segloop.training.container import Container
from segloop.versions import Metrics

log = logging.getLogger(__name__)


class Tracker(Protocol):
    """What a training reports; called by its main process alone."""

    def step(self, step: int, loss: float, learning_rate: float) -> None:
        """Take in a training step."""

    def evaluation(self, step: int, summary: Metrics) -> None:
        """Take in an evaluation's metrics: those of `Evaluation.summary`."""


class NoTracker:
    """Keeps nothing."""

    def step(self, step: int, loss: float, learning_rate: float) -> None:
        """Nothing."""

    def evaluation(self, step: int, summary: Metrics) -> None:
        """Nothing."""


class TensorBoard:
    """Writes event files into a folder; a run that is gone on from drops what came after its checkpoint."""

    def __init__(self, folder: Path, hyperparameters: Mapping[str, object]) -> None:
        self._folder = folder
        self._hyperparameters = dict(hyperparameters)
        self._writer: Any = None
        self._last: dict[str, float] = {}

    def step(self, step: int, loss: float, learning_rate: float) -> None:
        self._write(step, {"train/loss": loss, "train/learning_rate": learning_rate})

    def evaluation(self, step: int, summary: Metrics) -> None:
        names = ("miou", "pixel_accuracy", "boundary_f1", "calibration_error")
        metrics = {f"val/{name}": getattr(summary, name) for name in names}
        metrics |= {f"iou/{name}": value for name, value in summary.iou.items()}
        self._last = {name: value for name, value in metrics.items() if value is not None}
        self._write(step, self._last)

    def close(self) -> None:
        """Write the hyperparameters beside the last evaluation, and what is still in memory."""
        if self._writer is not None:
            from tensorboardX.summary import hparams

            for summary in hparams(self._hyperparameters, self._last):
                self._writer.file_writer.add_summary(summary)
            self._writer.close()

    def _write(self, step: int, scalars: Mapping[str, float]) -> None:
        if self._writer is None:
            from tensorboardX import SummaryWriter

            self._writer = SummaryWriter(str(self._folder), purge_step=step, filename_suffix=f".from-{step}")
        for name, value in scalars.items():
            self._writer.add_scalar(name, value, step)


@contextmanager
def tracking(
    settings: Settings, container: Container, manifest: Manifest, *, is_main: bool = True
) -> Iterator[Tracker]:
    """The tracker that the settings ask for. One that cannot be had costs no training: the log says so."""
    if not settings.tensorboard_dir or not is_main:
        yield NoTracker()
        return
    if find_spec("tensorboardX") is None:
        log.warning("tensorboard_dir is set, but tensorboardX is not installed: pip install 'segloop[tensorboard]'")
        yield NoTracker()
        return
    told = [name for name in container.hyperparameters() if name in Settings.model_fields]
    values = {"recipe": container.recipe(), **{name: getattr(settings, name) for name in told}}
    tracker = TensorBoard(Path(settings.tensorboard_dir) / manifest.project / _name(container, manifest), values)
    try:
        yield tracker
    finally:
        tracker.close()


def _name(container: Container, manifest: Manifest) -> str:
    """The run's name: the one that it began with."""
    path = container.checkpoint.with_name("run-name")
    if path.is_file():
        return path.read_text(encoding="utf-8")
    name = f"{datetime.now(UTC):%Y%m%d-%H%M%S}-{manifest.hash[:8]}"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_bytes(path, name.encode())
    return name
