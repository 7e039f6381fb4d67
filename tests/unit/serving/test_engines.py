"""Engines: the same logits from torch and OpenVINO at any size, exact and int8, and which of them serves."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from torch import nn
from torchvision.models.segmentation.deeplabv3 import ASPP

from segloop.errors import EngineError, RegistryError, SettingsError
from segloop.network.network import FPNHead, SegmentationNetwork, build_network
from segloop.network.transforms import normalise
from segloop.serving import engines
from segloop.serving.engines import OpenVINOEngine, TorchEngine, on_gpu, pick_engine
from segloop.settings import Settings
from segloop.training.export import PooledAsSum, quantize, to_onnx, to_openvino, without_resize
from segloop.versions import EngineFigures, EngineReport

#: Height and width of what one exported model is asked; the first is that of its calibration.
SHAPES = [(64, 96), (96, 64), (32, 32), (32, 160), (160, 256), (256, 160)]


def photo(height: int, width: int, seed: int = 0) -> np.ndarray:
    """A smooth network input, float32 (1, 3, h, w)."""
    coarse = np.random.default_rng(seed).integers(0, 256, (max(2, height // 8), max(2, width // 8), 3), dtype=np.uint8)
    return normalise(cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC))[None]


def lively(arch: str, output_stride: int = 16) -> SegmentationNetwork:
    """A network of random weights whose residual branches and batch statistics are not those of a new one."""
    torch.manual_seed(0)
    network = build_network(arch, 3, output_stride)
    for name, module in network.named_modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None
            nn.init.uniform_(module.weight, 0.5, 1.0)
            nn.init.uniform_(module.bias, -0.3, 0.3)
            if name.endswith("bn3"):
                nn.init.constant_(module.weight, 0.25)
    network.train()
    with torch.no_grad():
        network(torch.from_numpy(np.concatenate([photo(96, 128, seed) for seed in range(4)])))
    return network.eval()


@dataclass(frozen=True)
class Exported:
    network: SegmentationNetwork
    onnx: Path
    exact: Path


STRIDES = {"fpn_resnet50": 4, "deeplabv3_resnet50": 16, "fcn_resnet50": 16}


@pytest.fixture(scope="module")
def export_of(tmp_path_factory) -> Callable[[str], Exported]:
    """The export of an architecture, which is made once."""
    return cache(lambda arch: export(arch, tmp_path_factory.mktemp(arch)))


@pytest.fixture(params=STRIDES)
def exported(request, export_of) -> Exported:
    return export_of(request.param)


@pytest.fixture
def deeplab(export_of) -> Exported:
    return export_of("deeplabv3_resnet50")


def export(arch: str, folder: Path) -> Exported:
    network = lively(arch, STRIDES[arch])
    to_onnx(network, folder / "network.onnx", 96)
    to_openvino(folder / "network.onnx", folder / "exact.xml")
    return Exported(network, folder / "network.onnx", folder / "exact.xml")


def relative_error(found: np.ndarray, expected: np.ndarray) -> float:
    """Mean difference, as a share of how much the logits vary over the image and its classes."""
    assert found.shape == expected.shape
    assert found.dtype == np.float32
    return float(np.abs(found - expected).mean() / expected.std())


# -- exact


@pytest.mark.slow
def test_torch_and_openvino_agree_at_any_size(exported):
    torch_engine, openvino_engine = TorchEngine(exported.network, "cpu"), OpenVINOEngine(exported.exact)
    for height, width in [*SHAPES, *SHAPES]:
        batch = np.concatenate([photo(height, width, 1), photo(height, width, 2)])
        expected, found = torch_engine.logits(batch), openvino_engine.logits(batch)
        stride = 4 if isinstance(exported.network.classifier, FPNHead) else 16
        assert expected.shape == (2, 3, height // stride, width // stride)
        assert relative_error(found, expected) < 1e-3
        assert not np.allclose(found[0], found[1], atol=1e-3), "two images have two answers"


@pytest.mark.slow
def test_a_model_outlives_the_answers_it_gave(deeplab):
    engine = OpenVINOEngine(deeplab.exact)
    first = engine.logits(photo(64, 96, 1))
    kept = first.copy()
    engine.logits(photo(64, 96, 2))
    assert (first == kept).all(), "an answer is not a view of the engine's memory"


@pytest.mark.slow
def test_an_export_leaves_the_network_as_it_was(deeplab):
    before = TorchEngine(lively("deeplabv3_resnet50"), "cpu").logits(photo(64, 96))
    np.testing.assert_allclose(TorchEngine(deeplab.network, "cpu").logits(photo(64, 96)), before, atol=1e-5)


@pytest.mark.slow
def test_what_cannot_be_exported_is_an_error_of_one_line(tmp_path):
    class Undecided(nn.Module):
        def forward(self, images):
            return images if images.sum() > 0 else -images

    network = build_network("fcn_resnet50", 3, 16)
    network.classifier = Undecided()
    with pytest.raises(EngineError, match=r"^torch cannot export the network: .+") as caught:
        to_onnx(network, tmp_path / "network.onnx", 64)
    assert "\n" not in str(caught.value)
    (tmp_path / "network.onnx").write_bytes(b"no ONNX")
    with pytest.raises(EngineError, match=r"^OpenVINO cannot read the network: .*network.onnx.*") as caught:
        to_openvino(tmp_path / "network.onnx", tmp_path / "exact.xml")
    assert "\n" not in str(caught.value)
    with pytest.raises(EngineError, match=r"^ONNX Runtime cannot quantize the network: .+"):
        quantize(tmp_path / "network.onnx", tmp_path / "int8.onnx", [photo(64, 64)])


# -- int8


@pytest.mark.slow
@pytest.mark.parametrize("arch", ["fpn_resnet50", "deeplabv3_resnet50"])
def test_an_int8_model_of_any_size_gives_what_one_of_that_size_gives(arch, export_of, tmp_path):
    """OpenVINO 2026.4 once ran int8 models wrongly whose height and width are open, because of ASPP's resize."""
    import openvino
    from onnxruntime import InferenceSession

    network = export_of(arch)
    quantize(network.onnx, tmp_path / "int8.onnx", [photo(*SHAPES[0], seed) for seed in range(4)])
    to_openvino(tmp_path / "int8.onnx", tmp_path / "int8.xml")
    dynamic, exact = OpenVINOEngine(tmp_path / "int8.xml"), OpenVINOEngine(network.exact)
    assert (tmp_path / "int8.bin").stat().st_size < 0.3 * network.exact.with_suffix(".bin").stat().st_size
    core, onnx_runtime = openvino.Core(), InferenceSession(tmp_path / "int8.onnx")
    for height, width in SHAPES:
        image = photo(height, width, 9)
        model = core.read_model(tmp_path / "int8.xml")
        model.reshape([1, 3, height, width])
        static = core.compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})(image)[0]
        found, expected = dynamic.logits(image), exact.logits(image)
        # A random network multiplies what rounding does. What the open size adds to it must stay small beside that,
        # and OpenVINO's answer must not lie further from ONNX Runtime's, of the same file, than that of a fixed size.
        rounding = relative_error(static, expected)
        assert relative_error(found, static) < rounding / 2
        assert relative_error(found, expected) < 1.25 * rounding
        [theirs] = onnx_runtime.run(None, {"images": image})
        assert relative_error(found, theirs) < 1.5 * relative_error(static, theirs) + 0.01


@pytest.mark.parametrize("rates", [(12, 24, 36), (6, 12, 18)])
@pytest.mark.parametrize(("height", "width"), [(1, 1), (4, 6), (6, 4), (9, 5)])
def test_pooled_as_sum_is_aspp(rates, height, width):
    torch.manual_seed(height)
    aspp = ASPP(32, list(rates))
    for module in aspp.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor in (module.weight, module.running_var):
                nn.init.uniform_(tensor, 0.5, 2.0)
            for tensor in (module.bias, module.running_mean):
                nn.init.normal_(tensor)
    aspp.eval()
    features = torch.randn(2, 32, height, width)
    state = {key: value.clone() for key, value in aspp.state_dict().items()}
    with torch.inference_mode():
        torch.testing.assert_close(PooledAsSum(aspp)(features), aspp(features), atol=1e-4, rtol=1e-4)
    for key, value in aspp.state_dict().items():
        assert torch.equal(value, state[key]), f"{key} of the original was changed"


@pytest.mark.slow
@pytest.mark.parametrize("arch", ["deeplabv3_resnet50", "fcn_resnet50"])
def test_a_network_without_resize_is_the_same_function(arch):
    network = lively(arch, 8)
    changed = without_resize(network)
    assert not changed.training
    assert not any(isinstance(module, ASPP) for module in changed.modules())
    image = torch.from_numpy(photo(64, 96))
    with torch.inference_mode():
        torch.testing.assert_close(changed(image), network(image), atol=1e-4, rtol=1e-3)


# -- which one serves


NONE = EngineReport()
PASSED = EngineReport(openvino_int8=EngineFigures(serves=True, reason="It is as good as torch."))
DECLINED = EngineReport(openvino_int8=EngineFigures(reason="It loses more than 0.005 of mIoU."))


def settings(**values: str) -> Settings:
    return Settings(_env_file=None, weights="none", **values)


@pytest.mark.parametrize(
    ("engine", "exported", "picked", "warning"),
    [
        ("auto", NONE, "openvino", None),
        ("auto", DECLINED, "openvino", None),
        ("auto", PASSED, "openvino-int8", None),
        ("openvino", NONE, "openvino", None),
        ("openvino", DECLINED, "openvino", None),
        ("openvino", PASSED, "openvino", None),
        ("openvino-int8", NONE, "openvino", "fp32 serves instead of int8: the version has no int8 model"),
        ("openvino-int8", DECLINED, "openvino", "fp32 serves instead of int8: It loses more than 0.005 of mIoU."),
        ("openvino-int8", PASSED, "openvino-int8", None),
        ("torch", NONE, "torch", None),
        ("torch", PASSED, "torch", None),
        # what the endpoint does not serve, as before any training
        ("sagemaker:street", NONE, "openvino", None),
        ("sagemaker:street", PASSED, "openvino-int8", None),
    ],
)
def test_the_engine_on_a_cpu(caplog, engine, exported, picked, warning):
    with caplog.at_level(logging.WARNING):
        assert pick_engine(settings(engine=engine, device="cpu"), exported) == picked
    assert caplog.messages == ([] if warning is None else [warning])


@pytest.mark.parametrize("device", ["auto", "cuda"])
@pytest.mark.parametrize("exported", [NONE, DECLINED, PASSED])
@pytest.mark.parametrize(("engine", "picked"), [("auto", "torch"), ("torch", "torch"), ("openvino", "openvino")])
def test_the_engine_on_a_gpu(monkeypatch, device, exported, engine, picked):
    monkeypatch.setattr(engines, "on_gpu", lambda settings: settings.device != "cpu")
    assert pick_engine(settings(engine=engine, device=device), exported) == picked


@pytest.mark.parametrize("engine", ["auto", "openvino", "openvino-int8"])
def test_a_version_that_could_not_be_exported_runs_on_torch(caplog, engine):
    with caplog.at_level(logging.WARNING):
        assert pick_engine(settings(engine=engine, device="cpu"), EngineReport(error="the export failed")) == "torch"
    assert caplog.messages == ["torch serves: the version could not be exported: the export failed"]


def test_without_a_driver_no_gpu_is_looked_for(monkeypatch, tmp_path):
    monkeypatch.setattr(engines, "_GPU_DEVICES", (str(tmp_path / "none"),))
    assert on_gpu(settings(device="auto")) is False
    assert on_gpu(settings(device="cpu")) is False


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_driver_without_a_usable_gpu_leaves_the_cpu(monkeypatch, tmp_path):
    monkeypatch.setattr(engines, "_GPU_DEVICES", (str(tmp_path),))
    assert on_gpu(settings(device="auto")) is False
    assert pick_engine(settings(device="auto"), PASSED) == "openvino-int8"
    with pytest.raises(SettingsError, match="device cuda"):
        pick_engine(settings(device="cuda"), NONE)


# -- files that are no model


XML = b'<?xml version="1.0"?>\n<net name="Model0" version="11">'


@pytest.mark.parametrize(
    ("xml", "reason"),
    [
        (None, "Could not open the file"),
        (b"", "Unable to read the model"),
        (b"<html></html>", "Unable to read the model"),
        (XML, "Start-end tags mismatch"),
    ],
)
def test_a_file_that_is_no_model_is_named_with_what_is_wrong(tmp_path, capfd, xml, reason):
    path = tmp_path / "openvino.xml"
    if xml is not None:
        path.write_bytes(xml)
        path.with_suffix(".bin").write_bytes(b"")
    with pytest.raises(RegistryError, match=reason) as caught:
        OpenVINOEngine(path)
    assert str(caught.value).startswith(f"{path} is no OpenVINO model: ")
    assert "\n" not in str(caught.value)


@pytest.mark.slow
def test_weights_that_are_cut_off_or_gone_are_an_error(deeplab, tmp_path):
    path = tmp_path / "openvino.xml"
    shutil.copy(deeplab.exact, path)
    with pytest.raises(RegistryError, match="is no OpenVINO model"):
        OpenVINOEngine(path)
    path.with_suffix(".bin").write_bytes(deeplab.exact.with_suffix(".bin").read_bytes()[:1000])
    with pytest.raises(RegistryError, match="Incorrect weights"):
        OpenVINOEngine(path)
    path.write_bytes(deeplab.exact.read_bytes()[:5000])
    with pytest.raises(RegistryError, match=r"is no OpenVINO model: (?!Exception from)"):
        OpenVINOEngine(path)
