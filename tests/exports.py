"""Versions with exported models in them, made by the real command of networks whose answers are known."""

from __future__ import annotations

import base64
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch

from demo.stack import clean_environment
from segloop.network.network import SegmentationNetwork, build_network, save_bundle
from segloop.versions import EngineReport, VersionInfo
from tests.snapshots import write_snapshot
from tests.toys import half_red_half_blue, toy_info

PROJECT = "1.1795382829"
CLASSES = ("Road", "Sky")
ROOT = Path(__file__).parents[1]
EXACT = {"openvino.xml", "openvino.bin"}
INT8 = {"openvino-int8.xml", "openvino-int8.bin"}

BRUSH = '<View><Image name="image" value="$image"/><BrushLabels name="tag" toName="image">{labels}</BrushLabels></View>'


def steadfast(channel: int, channels: int = 3, arch: str = "deeplabv3_resnet50") -> SegmentationNetwork:
    """A network that sees one class everywhere: no engine can lose anything of it."""
    torch.manual_seed(channel)
    network = build_network(arch, channels, 16)
    with torch.no_grad():
        network.classifier[-1].weight.zero_()
        network.classifier[-1].bias.copy_(torch.eye(channels)[channel] * 5)
    return network.eval()


def fickle() -> SegmentationNetwork:
    """A network whose classes all but tie everywhere: int8 sees others than fp32."""
    torch.manual_seed(0)
    network = build_network("deeplabv3_resnet50", 3, 16)
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = None
            torch.nn.init.uniform_(module.weight, 0.5, 1.0)
    network.train()
    noise = torch.from_numpy(np.random.default_rng(0).standard_normal((4, 3, 64, 96)).astype(np.float32))
    with torch.no_grad():
        logits = network(noise)
        network.classifier[-1].bias -= logits.mean(dim=(0, 2, 3))
    return network.eval()


def noisy(seed: int) -> np.ndarray:
    coarse = np.random.default_rng(seed).integers(0, 256, (8, 12, 3), dtype=np.uint8)
    return cv2.resize(coarse, (96, 64), interpolation=cv2.INTER_CUBIC)


@dataclass(frozen=True)
class Version:
    """A bundle with its exported models in it, and what version.json says of it."""

    network: SegmentationNetwork
    folder: Path
    info: VersionInfo

    @property
    def report(self) -> EngineReport:
        return self.info.engines


def run_export(*arguments: object, **settings: object) -> subprocess.CompletedProcess[str]:
    environment = clean_environment() | {f"SEGLOOP_{name.upper()}": str(value) for name, value in settings.items()}
    return subprocess.run(
        [sys.executable, "-m", "segloop.training.export", *map(str, arguments)],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=800,
    )


def exported(network: SegmentationNetwork, arch: str, folder: Path) -> Version:
    """What the worker does: a bundle, exported by the command on its snapshot; the files added, the report set aside."""
    snapshot, bundle, out = folder / "snapshot", folder / "bundle", folder / "engines"
    examples = [(noisy(seed), np.full((64, 96), 1 + seed % 2, np.uint8), "train") for seed in range(3)]
    examples += [(noisy(seed), np.full((64, 96), 1 + seed % 2, np.uint8), "val") for seed in range(3, 5)]
    write_snapshot(snapshot, CLASSES, examples)
    info = toy_info(CLASSES, arch=arch)
    save_bundle(bundle, network, info)
    done = run_export("--bundle", bundle, "--snapshot", snapshot, "--out", out)
    assert done.returncode == 0, done.stderr[-2000:]
    assert {file.name for file in out.iterdir()} == EXACT | INT8 | {"engines.json"}
    engines = EngineReport.model_validate_json((out / "engines.json").read_bytes())
    for name in EXACT | INT8:
        (out / name).rename(bundle / name)
    return Version(network, bundle, info.model_copy(update={"engines": engines}))


def body_of(classes: tuple[str, ...]) -> dict[str, Any]:
    png = cv2.imencode(".png", half_red_half_blue(48, 64))[1].tobytes()
    task = {"id": 1, "data": {"image": "data:image/png;base64," + base64.b64encode(png).decode()}}
    labels = "".join(f'<Label value="{name}"/>' for name in classes)
    return {"tasks": [task], "project": PROJECT, "label_config": BRUSH.format(labels=labels), "params": {}}
