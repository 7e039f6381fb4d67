"""From torch to ONNX to OpenVINO: what every export of a network does."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor, nn

from segloop.errors import EngineError
from segloop.serving.engines import reason


@contextmanager
def exporting() -> Iterator[None]:
    """Within, torch's exporter does not warn of itself, and whatever it raises is an EngineError."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except EngineError:
        raise
    except Exception as error:  # the exporter raises many kinds
        raise EngineError(f"torch cannot export the network: {str(error).splitlines()[0]}") from error


def write_traced(network: nn.Module, inputs: Mapping[str, Tensor], file: Path, output: str) -> None:
    """Write a network as ONNX by tracing it on inputs (B, C, h, w), for any h and w that it takes; it has one output.

    Raises:
        EngineError: torch cannot export it, or a branch depends on the inputs' values.
    """
    names = [*inputs, output]
    with exporting():
        # what is traced is right for other inputs too only if no branch depends on their values
        warnings.filterwarnings("error", message="Converting a tensor to a Python boolean")
        torch.onnx.export(
            network.eval(),
            tuple(inputs.values()),
            file,
            input_names=[*inputs],
            output_names=[output],
            dynamic_axes={name: {2: "rows", 3: "columns"} for name in names},
            dynamo=False,
        )


def to_openvino(onnx_file: Path, target: Path) -> None:
    """Write an ONNX model as OpenVINO's .xml and .bin, weights as they are.

    Raises:
        EngineError: OpenVINO cannot read it.
    """
    import openvino

    try:
        openvino.save_model(openvino.Core().read_model(str(onnx_file)), str(target), compress_to_fp16=False)
    except RuntimeError as error:
        raise EngineError(f"OpenVINO cannot read the network: {reason(error)}") from error
