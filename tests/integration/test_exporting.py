"""Versions that are taken along: predict.py, without segloop, gives the class maps that segloop serves."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image as Pillow

from segloop.cli import main
from segloop.exchange.script import predict_script
from segloop.images import Blob, Image
from segloop.masks import remove_specks
from segloop.network.network import build_network, save_bundle
from segloop.registry import Registry, open_registry
from segloop.serving import load_served_model
from segloop.settings import Settings
from segloop.versions import VersionInfo
from tests.exports import CLASSES, PROJECT
from tests.predicting import predict_alone
from tests.toys import toy_info

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

SIZE, WINDOWS = 128, 320


def decided() -> torch.nn.Module:
    """A network of random weights that are normalised to its activations: it sees every class somewhere."""
    torch.manual_seed(3)
    network = build_network("fpn_resnet50", len(CLASSES) + 1, 4)
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = None
            torch.nn.init.uniform_(module.weight, 0.5, 1.0)
    network.train()
    photos = torch.stack(
        [torch.from_numpy(photo(seed, 128, 96)).permute(2, 0, 1).float() / 64 - 2 for seed in range(4)]
    )
    with torch.no_grad():
        network(photos)
        network.eval()
        last = network.classifier.last
        last.weight *= 20
        last.bias -= network(photos).mean(dim=(0, 2, 3))
    return network.eval()


def photo(seed: int, width: int, height: int) -> np.ndarray:
    """Soft blobs of colour, uint8 (height, width, 3)."""
    coarse = np.random.default_rng(seed).integers(0, 256, (7, 9, 3), dtype=np.uint8)
    return np.asarray(cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC), dtype=np.uint8)


@pytest.fixture(scope="module")
def own(tmp_path_factory) -> Settings:
    folder = tmp_path_factory.mktemp("exporting")
    return Settings(_env_file=None, data_dir=folder / "data", weights="none", device="cpu", engine="openvino")


@pytest.fixture(scope="module")
def versions(own: Settings, tmp_path_factory) -> dict[int, VersionInfo]:
    """A version that sees whole images, and one that sees windows, by their long side."""
    registry, network = open_registry(own), decided()
    found = {}
    for long_side in (0, WINDOWS):
        bundle = tmp_path_factory.mktemp("bundle")
        info = toy_info(CLASSES, arch="fpn_resnet50").model_copy(
            update={"output_stride": 4, "input_size": SIZE, "long_side": long_side}
        )
        info = save_bundle(bundle, network, info)
        if long_side:  # a name of its own comes with other weights
            with torch.no_grad():
                network.classifier.last.bias += 1e-3
            info = save_bundle(bundle, network, info)
        name = registry.add(PROJECT, bundle, info)
        found[long_side] = registry.get(PROJECT, name)
    registry.promote(PROJECT, found[0].version, "test")
    return found


@pytest.fixture(scope="module")
def photos(tmp_path_factory) -> list[Path]:
    """A small PNG; one with a palette; a JPEG so large that it is decoded smaller, and one that lies on its side; a PNG
    that is half transparent, and one of 16-bit greys."""
    folder = tmp_path_factory.mktemp("photos")
    files = [folder / name for name in ("small.png", "palette.png", "large.jpg", "turned.jpg", "clear.png", "grey.png")]
    Pillow.fromarray(photo(11, 211, 97)).save(files[0])
    Pillow.fromarray(photo(12, 300, 200)).convert("P").save(files[1])
    Pillow.fromarray(photo(13, 1501, 1003)).save(files[2], quality=92)
    exif = Pillow.Exif()
    exif[274] = 6
    Pillow.fromarray(photo(14, 640, 427)).save(files[3], quality=92, exif=exif)
    clear = np.dstack([photo(15, 150, 110), np.linspace(0, 255, 150 * 110).reshape(110, 150).astype(np.uint8)])
    Pillow.fromarray(clear).save(files[4])
    Pillow.fromarray(photo(16, 160, 120)[..., 0].astype(np.uint16) * 257).save(files[5])
    return files


@pytest.fixture
def environment(own: Settings, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Registry:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SEGLOOP_DATA_DIR", str(own.data_dir))
    monkeypatch.setenv("SEGLOOP_DEVICE", "cpu")
    return open_registry(own)


def served(own: Settings, info: VersionInfo, engine: str, files: list[Path]) -> list[np.ndarray]:
    """The class maps that /predict makes its regions of."""
    settings = own.model_copy(update={"engine": engine})
    model = load_served_model(open_registry(own), PROJECT, info.version, settings)
    images = [Image(Blob(file.read_bytes(), file.name), max_pixels=10**8, name=file.name) for file in files]
    return [model.segment(image).class_map for image in images]


#: Of the pixels, those that may have another class where another runtime than segloop's computes: near-ties alone.
TIES = {"openvino": 0.0, "torch": 1e-4}


# tests/e2e/test_data_in_and_out.py exports for ONNX Runtime
@pytest.mark.parametrize(("kind", "long_side"), [("openvino", 0), ("openvino", WINDOWS), ("torch", WINDOWS)])
def test_class_maps_are_those_of_predict(
    own: Settings,
    versions: dict[int, VersionInfo],
    photos: list[Path],
    environment,
    tmp_path: Path,
    kind: str,
    long_side: int,
) -> None:
    info = versions[long_side]
    result = CliRunner().invoke(main, ["export", info.version, f"--{kind}", "model", "--json"], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    [written] = json.loads(result.stdout)["exports"]
    assert {"model.json", "predict.py", "README.md"} < set(written["files"])
    assert "segloop" not in (tmp_path / "model" / "predict.py").read_text().replace("as segloop does", "")
    description = json.loads((tmp_path / "model" / "model.json").read_text())
    assert description["classes"] == {"0": "background", "1": CLASSES[0], "2": CLASSES[1]}
    ours, theirs = served(own, info, written["engine"], photos), predict_alone(tmp_path / "model", photos)
    for file, expected, found in zip(photos, ours, theirs, strict=True):
        assert found.shape == expected.shape
        assert len(np.unique(expected)) == 3, file.name
        assert float((found != expected).mean()) <= TIES[kind], file.name


def test_small_pieces_are_left_out_as_the_project_has_it(
    own: Settings, versions: dict[int, VersionInfo], photos: list[Path], environment: Registry, tmp_path: Path
) -> None:
    environment.write_json(PROJECT, "project.json", {"extra_params": {"min_area_px": 400}})
    result = CliRunner().invoke(main, ["export", "served", "--openvino", "model", "--json"], catch_exceptions=False)
    environment.write_json(PROJECT, "project.json", {})
    engine = json.loads(result.stdout)["exports"][0]["engine"]
    assert json.loads((tmp_path / "model" / "model.json").read_text())["min_area_px"] == 400
    assert "fewer than 400 pixels become background" in (tmp_path / "model" / "README.md").read_text()
    [found] = predict_alone(tmp_path / "model", photos[:1])
    [whole] = served(own, versions[0], engine, photos[:1])
    assert np.array_equal(found, remove_specks(whole, 400))
    assert not np.array_equal(found, whole)


def test_the_served_version_by_its_name_and_mistakes_in_a_line(versions, environment, tmp_path: Path) -> None:
    run = CliRunner().invoke
    assert run(main, ["export", "served"]).exit_code == 2, "no folder is named"
    unknown = run(main, ["export", "v9-00000000", "--openvino", "model"])
    assert (unknown.exit_code, unknown.stderr.count("\n")) == (1, 1)
    (tmp_path / "file").write_text("")
    assert run(main, ["export", "served", "--openvino", "file"]).exit_code == 2
    done = run(main, ["export", "served", "--openvino", "model"])
    assert versions[0].version in done.stdout


def test_the_scripts_are_short() -> None:
    for kind in ("onnx", "openvino", "torch"):
        lines = predict_script(kind, windows=False).splitlines()
        assert sum(bool(line.strip()) and not line.strip().startswith(('"""', "#")) for line in lines) < 65
