"""Small stand-ins at the seams: images without a network, engines without weights."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from segloop.errors import ImageError
from segloop.registry import Registry
from segloop.serving import Batcher, ServedModel
from segloop.settings import Settings
from segloop.versions import VersionInfo

if TYPE_CHECKING:
    from segloop.network.network import SegmentationNetwork

BRUSH = (
    '<View><Image name="image" value="$image"/><BrushLabels name="tag" toName="image">'
    '<Label value="Road"/><Label value="Sky"/></BrushLabels></View>'
)


class ToyImage:
    """Stands for segloop.images.Image."""

    def __init__(self, pixels: np.ndarray) -> None:
        self.pixels = pixels
        self.height, self.width = pixels.shape[:2]
        self.decoded_px = self.height * self.width
        self.sha256 = hashlib.sha256(pixels.tobytes()).hexdigest()

    def reduced(self, long_side: int) -> np.ndarray:
        return self.pixels


@dataclass
class ToyImages:
    """Gives a half red, half blue image of 40x30 for every address but those that contain `bad`."""

    asked: list[str] = field(default_factory=list)

    def load(self, uri: str, task_id: int | None) -> ToyImage:
        self.asked.append(uri)
        if "bad" in uri:
            raise ImageError(f"{uri} is broken")
        return ToyImage(half_red_half_blue())


def half_red_half_blue(height: int = 30, width: int = 40) -> np.ndarray:
    """uint8 (H, W, 3): red above, blue below."""
    pixels = np.zeros((height, width, 3), dtype=np.uint8)
    pixels[: height // 2, :, 0] = 255
    pixels[height // 2 :, :, 2] = 255
    return pixels


class ColourEngine:
    """Class 1 where red prevails, class 2 where blue does; as sure as `gain` makes it. Counts its passes."""

    def __init__(self, classes: int = 2, gain: float = 4.0, max_batch: int = 1) -> None:
        self.classes, self.gain, self.max_batch = classes, gain, max_batch
        self.batches: list[int] = []

    def logits(self, batch: np.ndarray) -> np.ndarray:
        self.batches.append(len(batch))
        logits = np.zeros((len(batch), self.classes + 1, *batch.shape[2:]), dtype=np.float32)
        logits[:, 1] = self.gain * (batch[:, 0] - batch[:, 2])
        if self.classes > 1:
            logits[:, 2] = self.gain * (batch[:, 2] - batch[:, 0])
        return logits


def toy_model(version: str = "v1-toy", project: str = "1", classes: tuple[str, ...] = ("Road", "Sky")) -> ServedModel:
    """A served model that tells red from blue."""
    return ServedModel(version, project, classes, 64, Batcher(ColourEngine(len(classes))))


def toy_loader(registry: object, project: str, version: str, settings: object) -> ServedModel:
    """Stands for segloop.serving.load_served_model."""
    return toy_model(version, project)


def toy_bundle(folder: Path, seed: int = 0, classes: tuple[str, ...] = ("Road", "Sky")) -> tuple[Path, VersionInfo]:
    """A bundle with a few bytes for weights, and its version.json: enough for a registry."""
    folder.mkdir(parents=True)
    (folder / "model.safetensors").write_bytes(np.random.default_rng(seed).bytes(64))
    return folder, toy_info(classes)


def toy_info(classes: tuple[str, ...] = ("Road", "Sky"), **changes: object) -> VersionInfo:
    """A version.json but for what the registry sets."""
    known = {
        "created_at": "2026-11-22T00:00:00+00:00",
        "arch": "deeplabv3_resnet50",
        "output_stride": 16,
        "input_size": 64,
        "classes": list(classes),
        "parent": None,
        "snapshot": "0" * 64,
        "metrics": {"miou": 0.5, "pixel_accuracy": 0.5, "iou": dict.fromkeys(classes, 0.5), "tasks": 1, "pixels": 1},
        "champion_metrics": None,
        "decision": None,
        "recipe": {},
    }
    return VersionInfo.model_validate({**known, **changes})


def sparse_network() -> SegmentationNetwork:
    """An untrained network for two classes. Most of its weights are zero: an archive of it is packed in a third of the time."""
    import torch

    from segloop.network.network import build_network

    torch.manual_seed(0)
    network = build_network("fcn_resnet50", 3, 16)
    with torch.no_grad():
        for name, weights in network.named_parameters():
            if weights.ndim != 4:
                continue
            if name.startswith(("backbone.layer3.", "backbone.layer4.")) and ".0." not in name:
                weights.zero_()  # what these blocks would add
            elif name.startswith("classifier.0."):
                weights[:, 256:] = 0
    return network


def toy_registry(folder: Path, project: str = "7.1795383040") -> Registry:
    """A registry with one version of a real network, untrained."""
    from segloop.network.network import save_bundle
    from segloop.registry import open_registry

    info = toy_info(arch="fcn_resnet50", engines={"error": "none here"})
    save_bundle(folder / "bundle", sparse_network(), info)
    made = open_registry(Settings(_env_file=None, data_dir=folder))
    made.add(project, folder / "bundle", info)
    return made
