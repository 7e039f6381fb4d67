"""The segmentation networks: torchvision's parts at output stride 8 or 16, and bundles on disk."""

from __future__ import annotations

import hashlib
from pathlib import Path

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
from segloop.settings import Settings
from segloop.versions import FileInfo, VersionInfo, read_version

State = dict[str, Tensor]

ARCHITECTURES = ("deeplabv3_resnet50", "fcn_resnet50")


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
