"""The segmentation networks: torchvision's parts at output stride 8 or 16, their weights, and bundles on disk."""

from __future__ import annotations

import functools
import hashlib
import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import httpx
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torchvision.models import resnet50
from torchvision.models._utils import IntermediateLayerGetter
from torchvision.models.segmentation.deeplabv3 import DeepLabHead
from torchvision.models.segmentation.fcn import FCNHead

from segloop.errors import RegistryError, SettingsError
from segloop.files import replacing, write_bytes
from segloop.formats import VERSION_FILE, WEIGHTS_FILE
from segloop.network.voc_classes import VOC_CLASSES, voc_class
from segloop.settings import Settings
from segloop.versions import FileInfo, VersionInfo, read_version

log = logging.getLogger(__name__)


_PUBLISHED = {
    ("coco", "deeplabv3_resnet50"): "https://download.pytorch.org/models/deeplabv3_resnet50_coco-cd0a2569.pth",
    ("coco", "fcn_resnet50"): "https://download.pytorch.org/models/fcn_resnet50_coco-1167a1af.pth",
    ("imagenet", "deeplabv3_resnet50"): "https://download.pytorch.org/models/resnet50-0676ba61.pth",
    ("imagenet", "fcn_resnet50"): "https://download.pytorch.org/models/resnet50-0676ba61.pth",
}

State = dict[str, Tensor]


class SegmentationNetwork(nn.Module):
    """A ResNet-50 with a DeepLabV3 or FCN head; parameter names are torchvision's.

    Called on images float32 (B, 3, h, w), normalised, it gives logits float32 (B, C, h / s, w / s) with s the
    output stride: what resizes them decides how finely.
    """

    def __init__(self, backbone: nn.Module, classifier: nn.Module, aux_classifier: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone
        self.classifier = classifier
        self.aux_classifier = aux_classifier

    def forward(self, images: Tensor) -> Tensor:
        """Logits (B, C, h / s, w / s) of images (B, 3, h, w)."""
        logits: Tensor = self.classifier(self.backbone(images)["out"])
        return logits

    def with_auxiliary(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Logits as `forward` gives them, and the auxiliary head's, which only training uses."""
        features = self.backbone(images)
        return self.classifier(features["out"]), self.aux_classifier(features["aux"])


def build_network(arch: str, num_classes: int, output_stride: int) -> SegmentationNetwork:
    """A network with random weights; `num_classes` counts background, which is channel 0.

    At output stride 8 it is torchvision's own; at 16 only the last stage is dilated and the atrous rates are
    halved (Chen et al., 2017, arXiv:1706.05587, section 3).

    Raises:
        SettingsError: an unknown architecture or output stride.
    """
    if output_stride not in (8, 16):
        raise SettingsError(f"output_stride {output_stride}: use 8 or 16")
    # the residual branches begin at zero: a deep network trained from scratch on few images needs that to start well
    backbone = resnet50(
        weights=None, zero_init_residual=True, replace_stride_with_dilation=[False, output_stride == 8, True]
    )
    if arch == "deeplabv3_resnet50":
        classifier: nn.Module = DeepLabHead(2048, num_classes, [rate * 8 // output_stride for rate in (12, 24, 36)])
    elif arch == "fcn_resnet50":
        classifier = FCNHead(2048, num_classes)
    else:
        raise SettingsError(f"arch {arch!r}: use deeplabv3_resnet50 or fcn_resnet50")
    layers = IntermediateLayerGetter(backbone, return_layers={"layer4": "out", "layer3": "aux"})
    return SegmentationNetwork(layers, classifier, FCNHead(1024, num_classes))


def pick_device(settings: Settings) -> torch.device:
    """The device to compute on.

    Raises:
        SettingsError: a GPU is asked for and torch sees none.
    """
    if settings.device == "cuda" and not torch.cuda.is_available():
        raise SettingsError("device cuda: torch sees no GPU here; use auto or cpu")
    return torch.device("cuda" if settings.device != "cpu" and torch.cuda.is_available() else "cpu")


def pick_output_stride(settings: Settings, device: torch.device) -> int:
    """Output stride of a network trained on this device: 16 on a CPU, 8 on a GPU, unless the settings say."""
    if settings.output_stride != "auto":
        return int(settings.output_stride)
    return 8 if device.type == "cuda" else 16


# -- weights to begin with


@dataclass(frozen=True)
class InitialWeights:
    """Weights to begin with: a state under this module's parameter names, and the classes of its head.

    `classes` names channels 1 and up; None where the head's channels are unknown or there is no head.
    """

    name: str
    state: State
    classes: tuple[str, ...] | None


def initial_weights(settings: Settings) -> InitialWeights | None:
    """The weights that the settings name, or None: for `none`, and for published ones that cannot be downloaded.

    A failed download is logged once per process, and not tried again by it.

    Raises:
        SettingsError: a file that does not exist or holds no usable weights.
    """
    if settings.weights == "none":
        return None
    if settings.weights in ("coco", "imagenet"):
        path = _downloaded(_PUBLISHED[settings.weights, settings.arch])
        return weights_from_file(path, settings.weights) if path else None
    return weights_from_file(Path(settings.weights), settings.weights)


def weights_from_file(path: Path, name: str) -> InitialWeights:
    """The weights in a .safetensors or .pth file: of this module, of torchvision's networks, or of a ResNet-50.

    Its classes come from a version.json beside it; without one, a head of 21 channels is VOC's.

    Raises:
        SettingsError: the file does not exist or holds no usable weights. Pickled objects are refused.
    """
    try:
        state = load_file(path) if path.suffix == ".safetensors" else torch.load(path, "cpu", weights_only=True)
    except FileNotFoundError:
        raise SettingsError(f"weights {name}: there is no such file; use coco, imagenet, none, or a file") from None
    except Exception as error:  # torch and safetensors raise many kinds on a bad file
        raise SettingsError(f"weights {name}: not a file of weights ({type(error).__name__})") from error
    if isinstance(state, dict) and isinstance(state.get("model"), dict):  # as torchvision's references save them
        state = state["model"]
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise SettingsError(f"weights {name}: not a dictionary of tensors")
    if "conv1.weight" in state:
        state = {f"backbone.{key}": value for key, value in state.items() if not key.startswith("fc.")}
    if "backbone.conv1.weight" not in state:
        raise SettingsError(f"weights {name}: no ResNet-50 in it (no backbone.conv1.weight)")
    return InitialWeights(name, state, _head_classes(path, state))


def _head_classes(file: Path, state: State) -> tuple[str, ...] | None:
    heads = [key for key in state if re.fullmatch(r"classifier\.\d+\.weight", key) and state[key].shape[2:] == (1, 1)]
    if not heads:
        return None
    channels = len(state[heads[-1]])
    if file.with_name(VERSION_FILE).exists():
        try:
            classes = read_version(file.parent).classes
        except RegistryError as error:
            raise SettingsError(f"weights {file}: {error}") from error
        return classes if len(classes) + 1 == channels else None
    return VOC_CLASSES if channels == len(VOC_CLASSES) + 1 else None


@functools.cache
def _downloaded(url: str) -> Path | None:
    """A published file in torch.hub's cache, its hash checked against the one in its name; None if it can't be had."""
    target = Path(torch.hub.get_dir()) / "checkpoints" / url.rsplit("/", 1)[1]
    if target.exists():
        return target
    try:
        download(url, target, sha256_prefix=target.stem.rsplit("-", 1)[1])
    except (httpx.HTTPError, OSError, ValueError) as error:
        log.warning("%s cannot be downloaded (%s): going on without published weights", url, error)
        return None
    return target


def download(url: str, target: Path, sha256_prefix: str) -> None:
    """Fetch a file whose SHA-256 begins with `sha256_prefix`; `target` appears only when it is whole.

    Raises:
        httpx.HTTPError: it could not be fetched.
        OSError: it could not be written.
        ValueError: its hash is another.
    """
    digest = hashlib.sha256()
    with replacing(target) as temporary:
        with temporary.open("wb") as file, httpx.stream("GET", url, timeout=10, follow_redirects=True) as response:
            response.raise_for_status()
            for chunk in response.iter_bytes():
                digest.update(chunk)
                file.write(chunk)
        if not digest.hexdigest().startswith(sha256_prefix):
            raise ValueError(f"its SHA-256 is {digest.hexdigest()}, not {sha256_prefix}...")


# -- heads and classes


def load_matching(
    network: SegmentationNetwork, state: State, old_classes: Sequence[str] | None, new_classes: Sequence[str]
) -> int:
    """Copy into a network every tensor of a state that fits, and the rows of its heads by class name.

    `old_classes` and `new_classes` name channels 1 and up; channel 0 is background in both. A class that the
    state does not have keeps its random row, as does every row where `old_classes` is None. Names match exactly
    or, failing that, as `voc_class` reads them. Returns how many tensors were copied, whole or in part.
    """
    own = network.state_dict()
    rows = _matching_rows(old_classes, new_classes)
    copied = 0
    for key, tensor in own.items():
        old = state.get(key)
        if old is None or old.shape[1:] != tensor.shape[1:]:
            continue
        if re.fullmatch(r"(aux_)?classifier\.4\.(weight|bias)", key):
            if not rows or len(old) <= max(rows.values()):
                continue
            tensor[list(rows)] = old[list(rows.values())].to(tensor)
        elif old.shape == tensor.shape:
            tensor.copy_(old)
        else:
            continue
        copied += 1
    return copied


def _matching_rows(old_classes: Sequence[str] | None, new_classes: Sequence[str]) -> dict[int, int]:
    """New channel -> old channel, background included; empty where the old channels are unknown."""
    if old_classes is None:
        return {}
    exact = {name: row for row, name in enumerate(old_classes, start=1)}
    rows = {0: 0}
    for row, name in enumerate(new_classes, start=1):
        old_row = exact.get(name) or exact.get(voc_class(name) or "")
        if old_row:
            rows[row] = old_row
    return rows


def pretrained_network(settings: Settings) -> SegmentationNetwork | None:
    """The network of the settings' weights with their own head, whose channels are those of VOC_CLASSES; it answers
    before any training. None where the weights segment nothing yet, or cannot be had.

    Raises:
        SettingsError: a file that does not exist, holds no usable weights, or is of another architecture.
    """
    weights = initial_weights(settings)
    if weights is None or weights.classes != VOC_CLASSES:
        return None
    # Trained at stride 8, they serve at 16 too: there every layer but the head's last 3x3 computes the same, at
    # every second place (see the tests).
    stride = pick_output_stride(settings, pick_device(settings))
    network = build_network(settings.arch, len(VOC_CLASSES) + 1, stride)
    try:
        missing = network.load_state_dict(weights.state, strict=False).missing_keys
    except RuntimeError as error:
        raise SettingsError(f"weights {weights.name}: they are not of arch {settings.arch}") from error
    if any(not key.startswith("aux_classifier.") for key in missing):
        raise SettingsError(f"weights {weights.name}: {missing[0]} is missing; they are not of arch {settings.arch}")
    return network.eval()


# -- bundles: a folder with the weights and version.json


def save_bundle(folder: Path, network: SegmentationNetwork, info: VersionInfo) -> VersionInfo:
    """Write model.safetensors and, last, version.json: `info` with the weights' size and hash, which is returned."""
    folder.mkdir(parents=True, exist_ok=True)
    state = {key: tensor.detach().cpu().contiguous() for key, tensor in network.state_dict().items()}
    weights = folder / WEIGHTS_FILE
    with replacing(weights) as temporary:
        save_file(state, temporary)
    with weights.open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    info = info.model_copy(update={"files": {WEIGHTS_FILE: FileInfo(sha256=sha256, bytes=weights.stat().st_size)}})
    write_bytes(folder / VERSION_FILE, info.to_json())
    return info


def load_bundle(folder: Path) -> tuple[SegmentationNetwork, VersionInfo]:
    """The network of a bundle, on the CPU in evaluation mode, and its version.json.

    The weights are mapped from the file, which may be deleted or replaced afterwards, but not rewritten in place.

    Raises:
        RegistryError: a file is missing, unreadable, or not what it should be.
    """
    info = read_version(folder)
    with torch.device("meta"):  # no time for random weights that are replaced at once
        network = build_network(info.arch, len(info.classes) + 1, info.output_stride)
    try:
        network.load_state_dict(load_file(folder / WEIGHTS_FILE), assign=True)
    except (OSError, SafetensorError, RuntimeError) as error:
        raise RegistryError(f"{folder / WEIGHTS_FILE}: not the weights that {VERSION_FILE} describes") from error
    return network.eval(), info
