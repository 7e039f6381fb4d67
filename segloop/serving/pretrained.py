"""The pretrained network, which answers before any training for the labels that it knows."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from segloop.errors import SegloopError
from segloop.network.voc_classes import VOC_CLASSES, zero_shot_channels
from segloop.serving.batching import Batcher
from segloop.serving.cache import PredictionCache
from segloop.serving.conversion import converted
from segloop.serving.engines import Engine, OpenVINOEngine, TorchEngine, on_gpu, pick_engine
from segloop.serving.loading import SingleFlight
from segloop.serving.model import ServedModel
from segloop.versions import EngineReport

if TYPE_CHECKING:
    from segloop.settings import Settings

logger = logging.getLogger(__name__)


class PretrainedModels:
    """Served models of the pretrained network.

    The network is loaded once, on first use; a label is predicted where it, or one of its predicted values,
    names a class the network knows.
    """

    def __init__(self, settings: Settings, cache: PredictionCache, loading: SingleFlight) -> None:
        self._settings = settings
        self._cache = cache
        self._loading = loading
        self._loaded = False
        self._batcher: Batcher | None = None

    @property
    def version(self) -> str:
        """Version name of the pretrained network."""
        name = self._settings.weights.rsplit("/", 1)[-1].rsplit(".", 1)[0]
        return f"{self._settings.arch}-{name}"

    def answers(self, labels: Mapping[str, Sequence[str]]) -> bool:
        """Whether the pretrained network answers for these labels (name to predicted values). Loads nothing: before
        the first use it assumes that the weights can be had."""
        might = self._batcher is not None if self._loaded else self._settings.weights not in ("none", "imagenet")
        return might and bool(zero_shot_channels(labels))

    def model(
        self, project: str, labels: Mapping[str, Sequence[str]], deadline: float | None = None
    ) -> ServedModel | None:
        """The pretrained network for a project's labels, or None where it knows none of them or cannot be had.

        Raises:
            Busy: it was not loaded before `deadline`, of `time.monotonic`; the loading goes on.
        """
        if not self.answers(labels):
            return None
        known = zero_shot_channels(labels)
        if not self._loaded:
            self._loading.get("pretrained", self._load, f"the pretrained network {self.version}", deadline)
        if self._batcher is None:
            return None
        claimed = {channel for group in known.values() for channel in group}
        rest = tuple(channel for channel in range(len(VOC_CLASSES) + 1) if channel not in claimed)
        return ServedModel(
            self.version,
            project,
            tuple(known),
            self._settings.input_size,
            self._batcher,
            channels=(rest, *known.values()),
            cache=self._cache,
        )

    def _load(self) -> None:
        if self._loaded:
            return
        try:
            engine = self._engine()
        except SegloopError as error:
            logger.error("no pretrained network: %s", error)
        else:
            if engine is not None:
                self._batcher = Batcher(engine)
        self._loaded = True

    def _engine(self) -> Engine | None:
        settings = self._settings
        if pick_engine(settings, EngineReport()) != "torch":
            model = converted(_name(settings), ["--pretrained"], settings)
            return OpenVINOEngine(model, settings.workers) if model.is_file() else None
        from segloop.network.network import pretrained_network

        network = pretrained_network(settings)
        device = "cuda" if on_gpu(settings) else "cpu"
        return None if network is None else TorchEngine(network, device, settings.workers)


def _name(settings: Settings) -> str:
    """A name made of everything that the export of the pretrained network depends on."""
    facts = [settings.arch, settings.weights, settings.output_stride, str(on_gpu(settings))]
    file = Path(settings.weights)
    if file.is_file():
        facts += [str(file.absolute()), str(file.stat().st_mtime_ns), str(file.stat().st_size)]
    return hashlib.sha256("\n".join(facts).encode()).hexdigest()[:16]
