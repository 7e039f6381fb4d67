"""A version's guided head as a server runs it: by OpenVINO on the CPU, whatever runs the network. No torch."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np

from segloop.errors import RegistryError
from segloop.results.views import Float32
from segloop.serving.engines import compiled_model


class OpenVINOHead:
    """An exported guided head, `model` (.xml with its .bin). `processes` share the cores. Thread-safe.

    Raises:
        RegistryError: the files are no guided head.
    """

    def __init__(self, model: Path, processes: int = 1) -> None:
        self._network = compiled_model(model, processes)
        if len(self._network.inputs) != 2 or len(self._network.outputs) != 1:
            raise RegistryError(f"{model} is no guided head: it has other inputs or outputs")
        self._request = self._network.create_infer_request()
        self._lock = threading.Lock()

    def __call__(self, inputs: Float32, evidence: Float32) -> Float32:
        """Log-odds float32 (h, w) of `segloop.results.guided.head_inputs` and evidence float32 (h, w)."""
        with self._lock:
            found = self._request.infer({0: inputs[None], 1: evidence[None, None]}, share_inputs=True)
            return np.array(found[self._network.output(0)][0, 0], np.float32)
