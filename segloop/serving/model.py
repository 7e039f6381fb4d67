"""The served model: one version with the engine that runs it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np
from numpy.typing import NDArray

from segloop.formats import GUIDED_MAPS, GUIDED_MODEL, WEIGHTS_FILE
from segloop.metrics.uncertainty import Certainty, certainty, embedding
from segloop.network.transforms import class_map_of, probability_grid
from segloop.network.windows import windowed_logits
from segloop.results.guided import GuidedHead
from segloop.results.views import VIEW_PX
from segloop.serving.batching import Batcher, Unbatched
from segloop.serving.cache import PredictionCache
from segloop.serving.conversion import converted
from segloop.serving.engines import Engine, OpenVINOEngine, TorchEngine, on_gpu, pick_engine
from segloop.serving.guided import OpenVINOHead
from segloop.telemetry.notes import Stage

if TYPE_CHECKING:
    from segloop.images import Image
    from segloop.registry import Registry, VersionInfo
    from segloop.settings import Settings

logger = logging.getLogger(__name__)

UInt8 = NDArray[np.uint8]
Float32 = NDArray[np.float32]

#: Tries of an endpoint for one image.
_TRIES: Final = 3


@dataclass(frozen=True)
class Segmentation:
    """Of one image: the class map uint8 (H, W), 0 = background and i + 1 = class i; and the confidence in [0, 1],
    the softmax of the winning class, on a coarser grid, float32 (h, w).

    `cell_px` is the side, in pixels of the image, of what the network gives one set of logits for: it sees no finer.
    `probabilities` are those of background and each class on a coarser grid, float16 (C, h, w), which clicks start from.
    `certainty` is how sure the network is of the image (NaN where its logits are not finite), and `embedding` a unit
    vector float16 (D,) that is near that of images like it.
    """

    class_map: UInt8
    confidence_grid: Float32
    cell_px: float
    certainty: Certainty
    embedding: NDArray[np.float16]
    probabilities: NDArray[np.float16]

    @property
    def nbytes(self) -> int:
        kept = self.class_map, self.confidence_grid, self.embedding, self.probabilities
        return sum(array.nbytes for array in kept)


@dataclass(frozen=True, eq=False)
class ServedModel:
    """One version, ready to answer.

    `input_size` is the side of the network's window and `long_side` the longest side, both in pixels, at which it
    sees an image; where that is more than `input_size`, it sees overlapping windows of it. `temperature` is what its
    logits are divided by, so that its confidence matches its accuracy.
    `channels` are the network's output channels of background and of each class, where they are not simply
    0, 1, 2, ... (a pretrained network has other channels, and several may stand for one class).
    `guided` answers clicks better than what needs no training, if the version has such a head.
    """

    version: str
    project: str
    classes: tuple[str, ...]
    input_size: int
    batcher: Batcher
    long_side: int = 0
    temperature: float = 1.0
    channels: tuple[tuple[int, ...], ...] | None = None
    cache: PredictionCache = field(default_factory=lambda: PredictionCache(0))
    guided: GuidedHead | None = None

    @property
    def engine(self) -> Engine:
        """The engine that runs the network."""
        return self.batcher.engine

    def segment(self, image: Image, deadline: float | None = None) -> Segmentation:
        """Segment an image at its full size, or find it in the cache.

        Raises:
            ImageError: the image cannot be decoded.
            DeadlinePassed: `deadline`, of `time.monotonic`, came first.
        """
        return self.cache.get(self._key(image), lambda: self._segment(image, deadline), deadline)

    def mask(self, image: Image, key: Hashable, compute: Callable[[], NDArray[np.bool_]]) -> NDArray[np.bool_]:
        """A mask bool (H, W) that was made of an image and what the network says of it, computed or from the cache."""
        return self.cache.get(("mask", self._key(image), key), compute)

    def _key(self, image: Image) -> Hashable:
        network = (self.project, self.version, self.classes, self.channels, self.input_size, self.long_side)
        return (image.sha256, *network)

    def pixels(self, image: Image, deadline: float | None = None) -> UInt8:
        """The pixels of an image, uint8 (H, W, 3), decoded or from the cache; errors as in `segment`."""
        return self.cache.get(("pixels", image.sha256), lambda: image.pixels, deadline)

    def warm_up(self) -> None:
        """Run once, so that the first request does not pay for lazy initialisation."""
        self._logits(np.zeros((self.input_size * 3 // 4, self.input_size, 3), dtype=np.uint8), None)
        if self.guided is not None:
            self.guided(np.zeros((GUIDED_MAPS, VIEW_PX, VIEW_PX), np.float32), np.zeros((VIEW_PX, VIEW_PX), np.float32))

    def _segment(self, image: Image, deadline: float | None) -> Segmentation:
        pixels = image.reduced(max(self.input_size, self.long_side))
        with Stage("network"):
            logits = self._logits(pixels, deadline)
        size = (image.height, image.width)
        cell_px = max(image.height / logits.shape[1], image.width / logits.shape[2])
        probabilities = probability_grid(logits, *size, self.temperature)
        return Segmentation(
            class_map_of(logits, *size),
            probabilities.max(axis=0),
            cell_px,
            certainty(probabilities),
            embedding(probabilities),
            probabilities.astype(np.float16),
        )

    def _logits(self, pixels: UInt8, deadline: float | None) -> Float32:
        logits = windowed_logits(
            lambda windows: self.batcher.logits(windows, deadline), pixels, self.input_size, self.long_side
        )
        if self.channels is None:
            return logits
        return np.stack([logits[list(group)].max(axis=0) for group in self.channels])


def load_served_model(registry: Registry, project: str, version: str, settings: Settings) -> ServedModel:
    """Load a version from the registry, with the engine that the settings and its figures decide on.

    Raises:
        VersionNotFound: the project has no such version.
        RegistryError: the store is unreachable or the version's files are not what its manifest says.
        SettingsError: a GPU is asked for and there is none, or no AWS region is known for the endpoint.
    """
    info = registry.get(project, version)
    if settings.endpoint:
        logger.info("project %s: %s runs on the SageMaker endpoint %s", project, version, settings.endpoint)
        model = model_of(info, Unbatched(_remote(settings, version)))
        return replace(model, guided=_guided(registry, info, settings))
    name = pick_engine(settings, info.engines)
    engine: Engine
    if name == "torch":
        from segloop.network.network import load_bundle

        network, _ = load_bundle(registry.bundle(project, version, [WEIGHTS_FILE]))
        engine = TorchEngine(network, "cuda" if on_gpu(settings) else "cpu", settings.workers)
    else:
        engine = OpenVINOEngine(_exported(registry, info, name, settings), settings.workers)
    logger.info("project %s: %s runs on %s", project, version, name)
    return replace(model_of(info, Batcher(engine)), guided=_guided(registry, info, settings))


def model_of(info: VersionInfo, batcher: Batcher) -> ServedModel:
    """The served model of a version, run by a batcher's engine."""
    return ServedModel(
        info.version, info.project, info.classes, info.input_size, batcher, info.long_side, info.temperature
    )


def _guided(registry: Registry, info: VersionInfo, settings: Settings) -> GuidedHead | None:
    """The version's guided head, if it has one that is better than what needs no training."""
    guided = info.engines.guided
    if guided is None or not guided.serves or not info.files.keys() >= set(GUIDED_MODEL):
        return None
    return OpenVINOHead(registry.bundle(info.project, info.version, GUIDED_MODEL) / GUIDED_MODEL[0], settings.workers)


def _remote(settings: Settings, version: str) -> Engine:
    """The endpoint's engine; all its tries together take about as long as a /predict has."""
    from segloop.serving.endpoint import SageMakerEngine

    timeout_s = settings.predict_deadline_s / (_TRIES + 1)
    return SageMakerEngine(
        settings.endpoint, version, region=settings.sagemaker_region, timeout_s=timeout_s, attempts=_TRIES
    )


def _exported(registry: Registry, info: VersionInfo, name: str, settings: Settings) -> Path:
    """The version's own model for an engine; for a version that came without one, a model made here."""
    files = [f"{name}.xml", f"{name}.bin"]
    if info.files.keys() >= set(files):
        return registry.bundle(info.project, info.version, files) / files[0]
    bundle = registry.bundle(info.project, info.version, [WEIGHTS_FILE])
    logger.info("project %s: %s has no %s; making it", info.project, info.version, files[0])
    return converted(info.files[WEIGHTS_FILE].sha256[:16], ["--bundle", str(bundle)], settings)
