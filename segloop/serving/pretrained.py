"""The pretrained network, which answers before any training for the labels that it knows."""

from __future__ import annotations

import hashlib
import logging
import threading
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Final

from segloop.errors import SegloopError, WeightsError, WeightsUnavailable
from segloop.installation import missing_extra
from segloop.network.voc_classes import zero_shot_channels
from segloop.network.weights import (
    PRETRAINED_INPUT_SIZE,
    WeightsState,
    known_classes,
    weights_file,
    weights_name,
    weights_state,
)
from segloop.serving.batching import Batcher
from segloop.serving.cache import PredictionCache
from segloop.serving.conversion import converted, is_converted
from segloop.serving.engines import Engine, OpenVINOEngine, TorchEngine, on_gpu, pick_engine
from segloop.serving.loading import SingleFlight
from segloop.serving.model import ServedModel
from segloop.versions import EngineReport

if TYPE_CHECKING:
    from segloop.settings import Settings

logger = logging.getLogger(__name__)

#: How long what is known of weights that cannot be had holds, in seconds: then they are looked for again.
LOOK_AGAIN_S: Final = 300.0


def pretrained_state(settings: Settings) -> WeightsState:
    """Whether this machine can serve the weights that the settings name, before any training: the one answer that the
    server, the status page, `/setup`, `segloop connect` and `segloop doctor` give. Takes at most a few seconds.

    Nothing is wrong with weights that segment nothing yet, such as `none` and `imagenet`.
    """
    if settings.weights == "none" or settings.endpoint or _is_converted(settings):
        return WeightsState()
    state = weights_state(settings)
    if not state.problem and settings.weights != "imagenet" and missing_extra("worker"):
        return WeightsState(
            f"the weights {settings.weights} cannot be made ready for serving here, as that needs segloop[worker]",
            "run pip install 'segloop[worker]' on the server's machine; or train: a version brings its own models",
        )
    return state


def _is_converted(settings: Settings) -> bool:
    return pick_engine(settings, EngineReport()) != "torch" and is_converted(_name(settings), settings)


class PretrainedModels:
    """Served models of the pretrained network.

    The network is loaded once, on first use; a label is predicted where it, or one of its predicted values,
    names a class the network knows. What cannot be had is looked for again later. Thread-safe.
    """

    def __init__(self, settings: Settings, cache: PredictionCache, loading: SingleFlight) -> None:
        self._settings = settings
        self._cache = cache
        self._loading = loading
        self._loaded: tuple[str, Batcher] | None = None  # with the version
        self._broken: tuple[str, WeightsState] | None = None
        self._state: WeightsState | None = None
        self._looked_at = 0.0
        self._wanted = False
        self._lock = threading.Lock()

    @property
    def version(self) -> str:
        """Version name of the pretrained network."""
        return weights_name(self._settings)

    @property
    def state(self) -> WeightsState:
        """Whether the weights can be had, as far as it is known; nothing is wrong before somebody looked."""
        return self._state or WeightsState()

    def want(self) -> None:
        """Have the weights looked for: a project has nothing else to answer with."""
        self._wanted = True

    def look_if_due(self) -> None:
        """Find out whether the weights can be had, if somebody wants them and it is not known, or was not so a while ago.

        Takes seconds, for a thread that nobody waits for.
        """
        if not self._wanted or self._loaded is not None:
            return
        state = self._state
        if state is None or (state.problem and time.monotonic() - self._looked_at > LOOK_AGAIN_S):
            self._look()

    def answers(self, labels: Mapping[str, Sequence[str]]) -> bool:
        """Whether the pretrained network answers for these labels (name to predicted values). Loads nothing: until it is
        known to be otherwise it assumes that the weights can be had."""
        self.want()
        return not self.state.problem and bool(self._channels(labels))

    def model(
        self, project: str, labels: Mapping[str, Sequence[str]], deadline: float | None = None
    ) -> ServedModel | None:
        """The pretrained network for a project's labels, or None where it knows none of them or cannot be had.

        Raises:
            Busy: it was not loaded before `deadline`, of `time.monotonic`; the loading goes on.
        """
        if not self.answers(labels):
            return None
        version = self.version
        if self._loaded is None or self._loaded[0] != version:
            what = f"the pretrained network {version}"
            self._loading.get(("pretrained", version), lambda: self._load(version), what, deadline)
        known = self._channels(labels)
        if self._loaded is None or not known or self.state.problem:
            return None
        version, batcher = self._loaded
        claimed = {channel for group in known.values() for channel in group}
        rest = tuple(channel for channel in range(len(self._classes()) + 1) if channel not in claimed)
        return ServedModel(
            version,
            project,
            tuple(known),
            self._settings.input_size or PRETRAINED_INPUT_SIZE,
            batcher,
            channels=(rest, *known.values()),
            cache=self._cache,
        )

    def _classes(self) -> tuple[str, ...]:
        try:
            return known_classes(self._settings)
        except WeightsError as error:
            self._learn(WeightsState(error.problem, error.fix))
            return ()

    def _channels(self, labels: Mapping[str, Sequence[str]]) -> dict[str, tuple[int, ...]]:
        classes = self._classes()
        return zero_shot_channels(labels, classes) if classes else {}

    def _look(self) -> WeightsState:
        if self._broken is not None and self._broken[0] == self.version:
            state = self._broken[1]
        else:
            state = pretrained_state(self._settings)
        self._learn(state)
        return state

    def _learn(self, state: WeightsState) -> None:
        """Note whether the weights can be had, and log what is new."""
        with self._lock:
            is_new = state.problem and state != self._state
            self._state, self._looked_at = state, time.monotonic()
        if is_new:
            logger.error("nothing is pre-labelled before the first training: %s", state.sentence)

    def _load(self, version: str) -> None:
        if (self._loaded is not None and self._loaded[0] == version) or self._look().problem:
            return
        try:
            if not _is_converted(self._settings):
                weights_file(self._settings)
            engine = self._engine()
        except WeightsUnavailable as error:
            self._learn(WeightsState(error.problem, error.fix))
            return
        except WeightsError as error:
            broken = WeightsState(error.problem, error.fix)
        except SegloopError as error:
            broken = WeightsState(str(error), "see the page Your own model, and the server's log")
        else:
            if engine is not None:
                self._loaded = version, Batcher(engine)
                return
            broken = WeightsState(f"the weights {self._settings.weights} segment nothing", "train a first version")
        self._broken = version, broken  # until the file is another
        self._learn(broken)

    def _engine(self) -> Engine | None:
        settings = self._settings
        if pick_engine(settings, EngineReport()) != "torch":
            model = converted(_name(settings), ["--pretrained"], settings)
            return OpenVINOEngine(model, settings.workers) if model.is_file() else None
        from segloop.network.checkpoint import pretrained_network

        network = pretrained_network(settings)
        device = "cuda" if on_gpu(settings) else "cpu"
        return None if network is None else TorchEngine(network, device, settings.workers)


def _name(settings: Settings) -> str:
    """A name made of everything that the export of the pretrained network depends on."""
    facts = [settings.arch, settings.output_stride, str(on_gpu(settings)), weights_name(settings)]
    return hashlib.sha256("\n".join(facts).encode()).hexdigest()[:16]
