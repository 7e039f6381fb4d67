"""Engines: what runs a network's arithmetic. Torch is imported only where it is the engine."""

from __future__ import annotations

import contextlib
import logging
import os
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from segloop.errors import RegistryError

if TYPE_CHECKING:
    from openvino import CompiledModel
    from torch.nn import Module

    from segloop.settings import Settings
    from segloop.versions import EngineReport

logger = logging.getLogger(__name__)

EngineName = Literal["torch", "openvino", "openvino-int8"]

#: Images of one size that are worth running at once on a GPU; on a CPU a batch takes as long as its images do.
GPU_BATCH: Final = 8
#: Present where NVIDIA's driver is loaded (natively, or under WSL): a question that needs no import of torch.
_GPU_DEVICES: Final = ("/dev/nvidiactl", "/dev/dxg")


class Engine(Protocol):
    """Runs a network on a batch: float32 (B, 3, h, w), normalised, to logits float32 (B, C, h', w').

    `max_batch` is how many images of one size are worth running at once. Called from one thread at a time.
    """

    @property
    def max_batch(self) -> int: ...

    def logits(self, batch: NDArray[np.float32]) -> NDArray[np.float32]: ...


class TorchEngine:
    """A torch network in eval mode, channels last; bf16 autocast on a GPU. `processes` share the cores."""

    def __init__(self, network: Module, device: str, processes: int = 1) -> None:
        import torch

        if device == "cpu":
            torch.set_num_threads(_threads(processes))
        self._torch = torch
        self._device = torch.device(device)
        self._network = network.eval().to(device=self._device).to(memory_format=torch.channels_last)
        self.max_batch = 1 if device == "cpu" else GPU_BATCH

    def logits(self, batch: NDArray[np.float32]) -> NDArray[np.float32]:
        torch = self._torch
        autocast = (
            torch.autocast("cuda", dtype=torch.bfloat16) if self._device.type == "cuda" else contextlib.nullcontext()
        )
        with torch.inference_mode(), autocast:
            inputs = torch.from_numpy(batch).to(self._device).contiguous(memory_format=torch.channels_last)
            logits: NDArray[np.float32] = self._network(inputs).float().cpu().numpy()
        return logits


class OpenVINOEngine:
    """An exported network, `model` (.xml with its .bin), on the CPU. `processes` share the cores.

    Raises:
        RegistryError: the files are no OpenVINO model.
    """

    max_batch = 1

    def __init__(self, model: Path, processes: int = 1) -> None:
        self._network = compiled_model(model, processes)
        self._request = self._network.create_infer_request()

    def logits(self, batch: NDArray[np.float32]) -> NDArray[np.float32]:
        outputs = [
            self._request.infer({0: image[None]}, share_inputs=True)[self._network.output(0)].copy() for image in batch
        ]
        return np.concatenate(outputs)


def compiled_model(model: Path, processes: int) -> CompiledModel:
    """An OpenVINO model (.xml with its .bin), ready to run on the CPU, whose cores `processes` share.

    Raises:
        RegistryError: the files are no OpenVINO model.
    """
    import openvino

    # Its own default is bf16 where the CPU knows it, which is slower without AMX and less exact everywhere.
    options: dict[str, str | int | bool] = {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_PRECISION_HINT": "f32",
        "INFERENCE_NUM_THREADS": _threads(processes),
        "ENABLE_CPU_PINNING": False,
    }
    try:
        return openvino.Core().compile_model(str(model), "CPU", options)
    except RuntimeError as error:
        raise RegistryError(f"{model} is no OpenVINO model: {reason(error)}") from error


def pick_engine(settings: Settings, exported: EngineReport) -> EngineName:
    """The engine for a version with these engines.

    On a GPU torch; on a CPU the int8 model where it passed its gate, else the exact one. An int8 model that did not
    pass never serves; a version that could not be exported is run by torch. What an endpoint does not serve, as before
    any training, runs as with `auto`.
    """
    engine = "auto" if settings.endpoint else settings.engine
    if engine == "torch" or (engine == "auto" and on_gpu(settings)):
        return "torch"
    if exported.error:
        logger.warning("torch serves: the version could not be exported: %s", exported.error)
        return "torch"
    int8 = exported.openvino_int8
    if engine != "openvino" and int8 is not None and int8.serves:
        return "openvino-int8"
    if engine == "openvino-int8":
        logger.warning(
            "fp32 serves instead of int8: %s", int8.reason if int8 is not None else "the version has no int8 model"
        )
    return "openvino"


def on_gpu(settings: Settings) -> bool:
    """Whether the network runs on a GPU.

    Raises:
        SettingsError: a GPU is asked for and torch sees none.
    """
    if settings.device == "cpu":
        return False
    if settings.device == "auto" and not has_gpu_driver():
        return False
    from segloop.network.network import pick_device

    return pick_device(settings).type == "cuda"


def has_gpu_driver() -> bool:
    """Whether NVIDIA's driver is loaded on this machine."""
    return any(Path(device).exists() for device in _GPU_DEVICES)


def reason(error: RuntimeError) -> str:
    """What OpenVINO says is wrong: the last line of its message; those before it are places in its source."""
    return str(error).strip().rpartition("\n")[2]


def _threads(processes: int) -> int:
    return max(1, (os.cpu_count() or 1) // processes)
