"""Engines from a trained network: OpenVINO models, exact and int8, with the figures that decide whether they serve.

`python -m segloop.training.export --bundle FOLDER --out FOLDER` writes the exact model; with `--snapshot FOLDER` the int8 one
too, and `engines.json`, which becomes a part of version.json.
"""

from __future__ import annotations

import argparse
import logging
import signal
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval
from torchvision.models.segmentation.deeplabv3 import ASPP, DeepLabHead

from segloop.dataset import Item, Manifest, load_manifest
from segloop.errors import EngineError, SegloopError
from segloop.metrics import ConfusionMatrix
from segloop.network.checkpoint import pretrained_network
from segloop.network.network import SegmentationNetwork, load_bundle
from segloop.network.transforms import STRIDE_PX, class_map_of, network_size, normalise
from segloop.network.weights import PRETRAINED_INPUT_SIZE
from segloop.network.windows import seen_pixels, window_of, windowed_logits
from segloop.policy import may_serve
from segloop.processes import die_with_parent
from segloop.serving.conversion import NOTHING_TO_EXPORT, REPORT
from segloop.serving.engines import Engine, OpenVINOEngine, TorchEngine
from segloop.settings import load_settings
from segloop.telemetry.logs import configure_logging
from segloop.training import read_example
from segloop.training.conversions import exporting, to_openvino, write_traced
from segloop.training.examples import evenly
from segloop.training.guided_export import export_guided
from segloop.versions import EngineFigures, EngineReport, VersionInfo

log = logging.getLogger(__name__)

Float32 = NDArray[np.float32]
UInt8 = NDArray[np.uint8]

EXACT: Final = "openvino"
INT8: Final = "openvino-int8"
#: Training images that the ranges of activations are measured on.
CALIBRATION_IMAGES: Final = 16
#: Share of an activation's values, in percent, that its int8 range holds: the few beyond it are clipped, the many
#: within it get finer steps. On CamVid 98.8 % of the pixels kept their class with 99.99, and 97.2 % with 100.
PERCENTILE: Final = 99.99
#: Held-out images, evenly spread, on which engines are compared: enough for a figure to half a point.
COMPARED_IMAGES: Final = 100


def export(bundle: Path, snapshot: Path | None, out: Path, guided_steps: int = 0) -> EngineReport:
    """Write a bundle's OpenVINO models into `out`, and say for each whether it may serve, and why.

    The exact one always; the int8 one if there is a snapshot to calibrate it on and to judge it by. The snapshot also trains
    a guided head, in so many steps.

    Raises:
        EngineError: the network cannot be exported.
        RegistryError, TrainingError: the bundle or the snapshot cannot be read.
    """
    network, info = load_bundle(bundle)
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="segloop-export-") as scratch:
        onnx_file = Path(scratch) / "network.onnx"
        to_onnx(network, onnx_file, info.input_size)
        to_openvino(onnx_file, out / f"{EXACT}.xml")
        if snapshot is None:
            return EngineReport()
        manifest = load_manifest(snapshot)
        items = evenly(manifest.part("train"), CALIBRATION_IMAGES)
        if not items or not manifest.part("val"):
            return EngineReport()
        quantize(onnx_file, Path(scratch) / "int8.onnx", _inputs(snapshot, items, info))
        to_openvino(Path(scratch) / "int8.onnx", out / f"{INT8}.xml")
    engines: dict[str, Engine] = {
        "torch": TorchEngine(network, "cpu"),
        EXACT: OpenVINOEngine(out / f"{EXACT}.xml"),
        INT8: OpenVINOEngine(out / f"{INT8}.xml"),
    }
    report = compare(engines, info, snapshot, manifest)
    report = report.model_copy(update={"guided": export_guided(network, info, snapshot, out, guided_steps)})
    (out / REPORT).write_text(report.model_dump_json(indent=1, by_alias=True), "utf-8")
    return report


def to_onnx(network: SegmentationNetwork, file: Path, input_size: int) -> None:
    """Write a network as ONNX: float32 (1, 3, h, w) to logits, for any h and w that are multiples of 32.

    The exporter that traces the network writes the same graph (63 convolutions of the feature pyramid, batch
    normalisation folded into them) in a tenth of the time of the one by `torch.export`: 1.7 s against 18 s of CPU time.

    Raises:
        EngineError: torch cannot export it.
    """
    write_traced(without_resize(network), {"images": _example(input_size)}, file, "logits")


def to_torch(network: SegmentationNetwork, file: Path, input_size: int) -> None:
    """Write a network as a program of `torch.export`, which needs no code of segloop; inputs as in `to_onnx`.

    Raises:
        EngineError: torch cannot export it.
    """
    with exporting():
        torch.export.save(_program(network, input_size), file)


def _program(network: SegmentationNetwork, input_size: int) -> torch.export.ExportedProgram:
    side = torch.export.Dim
    sides = {2: STRIDE_PX * side("rows", min=1, max=1024), 3: STRIDE_PX * side("columns", min=1, max=1024)}
    example = (_example(input_size),)
    return torch.export.export(without_resize(network.eval()), example, dynamic_shapes={"images": sides})


def _example(input_size: int) -> Tensor:
    return torch.zeros(1, 3, *network_size(3, 4, max(input_size, 2 * STRIDE_PX)))


class PooledAsSum(nn.Module):
    """The same function as torchvision's ASPP in evaluation mode, without its resize.

    Its pooling branch is one value a channel, resized to the others' size and concatenated with them for the 1x1
    projection: which is to say, its own projection added to theirs. A resize of unknown size keeps batch
    normalisation from being folded away, and int8 models from being exact in OpenVINO.
    """

    def __init__(self, aspp: ASPP) -> None:
        super().__init__()
        *branches, pooling = aspp.convs
        self.branches = nn.ModuleList(branches)
        self.pooled = nn.Sequential(*pooling.children())
        projection = fuse_conv_bn_eval(aspp.project[0], aspp.project[1])
        own = sum(branch[0].out_channels for branch in branches)
        self.of_branches = nn.Conv2d(own, projection.out_channels, 1)
        self.of_branches.weight = nn.Parameter(projection.weight[:, :own].detach())
        self.of_branches.bias = projection.bias
        self.of_pooled = nn.Conv2d(projection.in_channels - own, projection.out_channels, 1, bias=False)
        self.of_pooled.weight = nn.Parameter(projection.weight[:, own:].detach())

    def forward(self, features: Tensor) -> Tensor:
        """Features (B, 256, h, w) of features (B, 2048, h, w)."""
        joined = torch.cat([branch(features) for branch in self.branches], dim=1)
        return torch.relu(self.of_branches(joined) + self.of_pooled(self.pooled(features)))


def without_resize(network: SegmentationNetwork) -> SegmentationNetwork:
    """The same network in evaluation mode, but for ASPP in the form of `PooledAsSum`; shares its weights."""
    if not isinstance(network.classifier, DeepLabHead):
        return network
    head = nn.Sequential(PooledAsSum(network.classifier[0]), *list(network.classifier)[1:])
    return SegmentationNetwork(network.backbone, head, network.levels).eval()


def quantize(onnx_file: Path, target: Path, inputs: Sequence[Float32]) -> None:
    """Write an int8 model: convolutions with unsigned activations and signed weights by channel (U8S8), as QDQ nodes.

    The ranges of activations hold PERCENTILE of those seen on `inputs`, each float32 (1, 3, h, w). The first
    convolution, which sees the image, and the last one, which makes the logits, stay exact, as does what is added to
    or read off the outputs.

    Raises:
        EngineError: ONNX Runtime cannot quantize it.
    """
    import onnx
    from onnxruntime.quantization import (
        CalibrationDataReader,
        CalibrationMethod,
        QuantFormat,
        QuantType,
        quantize_static,
    )
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        """Gives one image for each range that is set: the calibrator keeps every activation of a range in memory."""

        def __len__(self) -> int:
            return len(inputs)

        def set_range(self, start_index: int, end_index: int) -> None:
            self._left = list(inputs[start_index:end_index])

        def get_next(self) -> dict[str, Float32] | None:
            return {"images": self._left.pop()} if self._left else None

    prepared = target.with_suffix(".prepared.onnx")
    try:
        quant_pre_process(str(onnx_file), str(prepared), skip_symbolic_shape=True)
        nodes = onnx.load(str(prepared), load_external_data=False).graph.node
        convolutions = [node.name for node in nodes if node.op_type == "Conv"]
        quantize_static(
            str(prepared),
            str(target),
            Reader(),
            quant_format=QuantFormat.QDQ,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            per_channel=True,
            op_types_to_quantize=["Conv"],
            nodes_to_exclude=[convolutions[0], convolutions[-1]],
            calibrate_method=CalibrationMethod.Percentile,
            extra_options={
                "CalibPercentile": PERCENTILE,
                "CalibStridedMinMax": 1,
                "OpTypesToExcludeOutputQuantization": ["Conv"],
            },
        )
    except Exception as error:
        raise EngineError(f"ONNX Runtime cannot quantize the network: {str(error).splitlines()[0]}") from error


def compare(engines: dict[str, Engine], info: VersionInfo, snapshot: Path, manifest: Manifest) -> EngineReport:
    """What each engine is worth on held-out images: its mIoU, the share of pixels whose class is as torch says,
    and whether it may serve."""
    classes = tuple(manifest.classes)
    value = {name: index for index, name in enumerate(classes, start=1)}
    lookup = np.array([0, *(value.get(name, 0) for name in info.classes)], dtype=np.uint8)
    matrices = {name: ConfusionMatrix(classes) for name in engines}
    same, pixels = dict.fromkeys(engines, 0), 0
    items = evenly(manifest.part("val"), COMPARED_IMAGES)
    for item in items:
        image, truth = read_example(snapshot, item)
        maps = {name: lookup[_class_map(engine, image, info)] for name, engine in engines.items()}
        pixels += truth.size
        for name, found in maps.items():
            matrices[name].update(truth, found)
            same[name] += int((found == maps["torch"]).sum())
    miou = {name: matrix.summary(len(items)).miou for name, matrix in matrices.items()}

    def figures(name: str) -> EngineFigures:
        agreement = same[name] / pixels
        decision = may_serve(miou[name], miou["torch"], agreement)
        return EngineFigures(miou=miou[name], agreement=agreement, serves=decision.act, reason=decision.reason)

    torch_alone = EngineFigures(miou=miou["torch"])
    return EngineReport(images=len(items), torch=torch_alone, openvino=figures(EXACT), openvino_int8=figures(INT8))


def _class_map(engine: Engine, image: UInt8, info: VersionInfo) -> UInt8:
    logits = windowed_logits(
        lambda windows: [engine.logits(window[None])[0] for window in windows],
        image,
        info.input_size,
        info.long_side,
    )
    return class_map_of(logits, *image.shape[:2])


def _inputs(snapshot: Path, items: Sequence[Item], info: VersionInfo) -> list[Float32]:
    """What the network sees of each image when it is served, float32 (1, 3, h, w): all of it, or one of its windows."""
    seen = (seen_pixels(read_example(snapshot, item)[0], info.input_size, info.long_side) for item in items)
    return [normalise(window_of(pixels, info.input_size, number))[None] for number, pixels in enumerate(seen)]


def main() -> int:
    """`python -m segloop.training.export`; see the module."""
    parser = argparse.ArgumentParser(
        prog="python -m segloop.training.export", description="Write a network's OpenVINO models."
    )
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--bundle", type=Path, help="a version's folder")
    source.add_argument("--pretrained", action="store_true", help="the network that the settings' weights give")
    parser.add_argument("--snapshot", type=Path, help="the snapshot folder it was trained on, for an int8 model")
    parser.add_argument(
        "--format", choices=["onnx", "torch"], help="write model.onnx or model.pt2 of the bundle instead"
    )
    parser.add_argument("--out", type=Path, required=True, help="folder to write into")
    parser.add_argument("--parent", type=int, help="process id of the caller: the export ends with it")
    given = parser.parse_args()
    if given.parent is not None:
        die_with_parent(signal.SIGKILL, given.parent)
    try:
        settings = load_settings()
        configure_logging(settings.log_level, settings.log_format, settings.secrets)
        if given.bundle is not None and given.format is not None:
            network, info = load_bundle(given.bundle)
            write, name = {"onnx": (to_onnx, "model.onnx"), "torch": (to_torch, "model.pt2")}[given.format]
            given.out.mkdir(parents=True, exist_ok=True)
            write(network, given.out / name, info.input_size)
            return 0
        if given.bundle is not None:
            export(given.bundle, given.snapshot, given.out, settings.guided_steps)
            return 0
        pretrained = pretrained_network(settings)
        if pretrained is None:
            return NOTHING_TO_EXPORT
        given.out.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix="segloop-export-") as scratch:
            to_onnx(pretrained, Path(scratch) / "network.onnx", settings.input_size or PRETRAINED_INPUT_SIZE)
            to_openvino(Path(scratch) / "network.onnx", given.out / f"{EXACT}.xml")
    except SegloopError as error:
        sys.exit(str(error))
    return 0


if __name__ == "__main__":
    sys.exit(main())
