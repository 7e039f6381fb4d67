"""From torch to ONNX to OpenVINO: what every export of a network does."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

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
