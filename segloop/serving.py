"""What answers now: engines that run a network, the served model, and its replacement while requests run."""

from __future__ import annotations

import contextlib
import logging
import os
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from segloop.errors import SegloopError
from segloop.transforms import network_input, upsample
from segloop.vocabulary import VOC_CLASSES, zero_shot_channels

if TYPE_CHECKING:
    from torch.nn import Module

    from segloop.registry import Registry
    from segloop.settings import Settings

logger = logging.getLogger(__name__)

#: The version that answers where nothing is trained and no pretrained weights apply: it predicts nothing.
UNTRAINED = "untrained"

#: How long a version that could not be loaded is left alone before the next try, in seconds.
RETRY_S = 30.0


class Engine(Protocol):
    """Runs a network: float32 (3, h, w), normalised, to logits float32 (C, h', w')."""

    def logits(self, inputs: NDArray[np.float32]) -> NDArray[np.float32]: ...


class TorchEngine:
    """A torch network in eval mode, channels last; bf16 autocast on a GPU. One forward pass at a time:
    passes side by side would only share the same cores, and each wait longer. `processes` share the cores."""

    def __init__(self, network: Module, device: str, processes: int = 1) -> None:
        import torch

        if device == "cpu":
            torch.set_num_threads(max(1, (os.cpu_count() or 1) // processes))

        self._torch = torch
        self._device = torch.device(device)
        self._network = network.eval().to(device=self._device).to(memory_format=torch.channels_last)
        self._turn = threading.Lock()

    def logits(self, inputs: NDArray[np.float32]) -> NDArray[np.float32]:
        torch = self._torch
        autocast = (
            torch.autocast("cuda", dtype=torch.bfloat16) if self._device.type == "cuda" else contextlib.nullcontext()
        )
        with self._turn, torch.inference_mode(), autocast:
            batch = torch.from_numpy(inputs[None]).to(self._device).contiguous(memory_format=torch.channels_last)
            logits: NDArray[np.float32] = self._network(batch)[0].float().cpu().numpy()
        return logits


@dataclass(frozen=True)
class Segmentation:
    """Of one image: the class map uint8 (H, W), 0 = background and i + 1 = class i, and the confidence
    float32 (H, W) in [0, 1], the softmax of the winning class."""

    class_map: NDArray[np.uint8]
    confidence: NDArray[np.float32]


@dataclass(frozen=True)
class ServedModel:
    """One version, ready to answer.

    `channels` are the network's output channels of background and of each class, where they are not simply
    0, 1, 2, ... (a pretrained network has other channels, and several may stand for one class).
    """

    version: str
    project: str
    classes: tuple[str, ...]
    input_size: int
    engine: Engine
    channels: tuple[tuple[int, ...], ...] | None = None

    def segment(self, image: NDArray[np.uint8]) -> Segmentation:
        """Segment one RGB image, uint8 (H, W, 3), at its full size."""
        logits = self.engine.logits(network_input(image, self.input_size))
        if self.channels is not None:
            logits = np.stack([logits[list(group)].max(axis=0) for group in self.channels])
        height, width = image.shape[:2]
        return Segmentation(*upsample(logits, height, width))

    def warm_up(self) -> None:
        """Run once, so that the first request does not pay for lazy initialisation."""
        self.segment(np.zeros((self.input_size * 3 // 4, self.input_size, 3), dtype=np.uint8))


def load_served_model(registry: Registry, project: str, version: str, settings: Settings) -> ServedModel:
    """Load a version from the registry.

    Raises:
        VersionNotFound: the project has no such version.
        RegistryError: the store is unreachable or the version's files are not what its manifest says.
    """
    from segloop.network import load_bundle, pick_device

    network, info = load_bundle(registry.bundle(project, version))
    engine = TorchEngine(network, str(pick_device(settings)), settings.workers)
    return ServedModel(version, project, tuple(info["classes"]), int(info["input_size"]), engine)


class PretrainedModels:
    """Served models of the pretrained network: what answers before any training.

    The network is loaded once, on first use; a label is predicted where it, or one of its predicted values,
    names a class the network knows.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._lock = threading.Lock()
        self._loaded = False
        self._engine: Engine | None = None

    @property
    def version(self) -> str:
        """Version name of the pretrained network."""
        name = self._settings.weights.rsplit("/", 1)[-1].rsplit(".", 1)[0]
        return f"{self._settings.arch}-{name}"

    def answers(self, labels: Mapping[str, Sequence[str]]) -> bool:
        """Whether the pretrained network answers for these labels (name to predicted values). Loads nothing: before
        the first use it is a promise that its weights can be had."""
        might = self._engine is not None if self._loaded else self._settings.weights not in ("none", "imagenet")
        return might and bool(zero_shot_channels(labels))

    def model(self, project: str, labels: Mapping[str, Sequence[str]]) -> ServedModel | None:
        """The pretrained network for a project's labels, or None where it knows none of them or cannot be had."""
        known = zero_shot_channels(labels)
        if not known or not self.answers(labels):
            return None
        with self._lock:
            if not self._loaded:
                self._load()
                self._loaded = True
        if self._engine is None:
            return None
        claimed = {channel for group in known.values() for channel in group}
        rest = tuple(channel for channel in range(len(VOC_CLASSES) + 1) if channel not in claimed)
        channels = (rest, *known.values())
        return ServedModel(self.version, project, tuple(known), self._settings.input_size, self._engine, channels)

    def _load(self) -> None:
        from segloop.network import pick_device, pretrained_network

        try:
            network = pretrained_network(self._settings)
        except SegloopError as error:
            logger.error("no pretrained network: %s", error)
            return
        if network is not None:
            self._engine = TorchEngine(network, str(pick_device(self._settings)), self._settings.workers)


Loader = Callable[["Registry", str, str, "Settings"], ServedModel]


class ServedModels:
    """The served model of each project, in one server process.

    A request takes its model once, through `current`, and keeps that reference to its end. `refresh` follows
    the champion pointers: it loads and warms up a new champion beside the old one and then replaces one
    reference; the old network is freed with its last request.
    """

    def __init__(self, registry: Registry, settings: Settings, load: Loader = load_served_model) -> None:
        self._registry = registry
        self._settings = settings
        self._load = load
        self._pretrained = PretrainedModels(settings)
        self._models: OrderedDict[str, ServedModel] = OrderedDict()
        self._champions: dict[str, tuple[float, str | None]] = {}
        self._failed: dict[tuple[str, str], float] = {}
        self._state = threading.Lock()
        self._loading = threading.Lock()
        self._stop = threading.Event()
        self._watcher: threading.Thread | None = None

    def version(self, project: str, labels: Mapping[str, Sequence[str]]) -> str:
        """The version that `/predict` would answer with. Loads no model and takes milliseconds."""
        with self._state:
            loaded = self._models.get(project)
        if loaded is not None:
            return loaded.version
        champion = self._champion(project)
        if champion is not None:
            return champion
        return self._pretrained.version if self._pretrained.answers(labels) else UNTRAINED

    def current(self, project: str, labels: Mapping[str, Sequence[str]]) -> ServedModel | None:
        """The served model of a project, loaded if need be; None where there is nothing to predict with.

        Raises:
            RegistryError: the champion cannot be loaded.
        """
        with self._state:
            loaded = self._models.get(project)
            if loaded is not None:
                self._models.move_to_end(project)
                return loaded
        champion = self._champion(project)
        if champion is None:
            return self._pretrained.model(project, labels)
        with self._loading:
            with self._state:
                loaded = self._models.get(project)
            return loaded or self._replace(project, champion)

    def refresh(self) -> None:
        """Follow the champion pointers of the loaded projects, once. Never raises: what cannot be loaded is
        logged and tried again later, and the old version goes on answering."""
        with self._state:
            projects = {project: model.version for project, model in self._models.items()}
        for project, version in projects.items():
            try:
                champion = self._champion(project, fresh=True)
                if champion is None or champion == version or self._failed_lately(project, champion):
                    continue
                with self._loading:
                    self._replace(project, champion)
                logger.info("project %s: now serving %s instead of %s", project, champion, version)
            except SegloopError as error:
                logger.error("project %s: still serving %s: %s", project, version, error)

    def preload(self) -> None:
        """Load the champions of the projects in the registry, as many as are kept."""
        try:
            projects = self._registry.projects()
        except SegloopError as error:
            logger.error("cannot list projects: %s", error)
            return
        for project in projects[-self._settings.served_models :]:
            try:
                if self._champion(project) is not None:
                    self.current(project, {})
            except SegloopError as error:
                logger.error("project %s: %s", project, error)

    def start(self) -> None:
        """Watch the champion pointers in a thread, until `stop`."""
        self._watcher = threading.Thread(target=self._watch, name="swap-watcher", daemon=True)
        self._watcher.start()

    def stop(self) -> None:
        """End the watcher."""
        self._stop.set()
        if self._watcher is not None:
            self._watcher.join(timeout=10)

    def _watch(self) -> None:
        self.preload()
        while not self._stop.wait(self._settings.swap_poll_s):
            try:
                self.refresh()
            except Exception:
                logger.exception("the swap watcher failed; it goes on")

    def _replace(self, project: str, version: str) -> ServedModel:
        try:
            model = self._load(self._registry, project, version, self._settings)
            model.warm_up()
        except Exception:
            self._failed[project, version] = time.monotonic()
            raise
        with self._state:
            self._models[project] = model
            self._models.move_to_end(project)
            while len(self._models) > self._settings.served_models:
                self._models.popitem(last=False)
        return model

    def _failed_lately(self, project: str, version: str) -> bool:
        return time.monotonic() - self._failed.get((project, version), -RETRY_S) < RETRY_S

    def _champion(self, project: str, *, fresh: bool = False) -> str | None:
        """The champion's version, at most one poll old; while the store is away, the last one known."""
        now = time.monotonic()
        read_at, version = self._champions.get(project, (-1e9, None))
        if not fresh and now - read_at < self._settings.swap_poll_s:
            return version
        try:
            champion = self._registry.champion(project)
        except SegloopError:
            if read_at < 0:
                raise
            logger.exception("project %s: the champion pointer cannot be read; taking %s", project, version)
        else:
            version = champion.version if champion is not None else None
        self._champions[project] = (now, version)
        return version
