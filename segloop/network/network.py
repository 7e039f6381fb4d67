"""The segmentation networks: a ResNet-50 with a decoder at stride 4, torchvision's own at 8 or 16; bundles on disk."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F
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

ARCHITECTURES: Final = ("fpn_resnet50", "deeplabv3_resnet50", "fcn_resnet50")
#: Channels of the decoder at stride 4.
FPN_CHANNELS: Final = 128
FPN_STRIDE: Final = 4


class FPNHead(nn.Module):
    """A feature pyramid (Lin et al., 2017, arXiv:1612.03144) that ends in one map at stride 4.

    The coarsest level also gets the mean of the whole image, as in PSPNet and ASPP. Each level is added to the coarser
    one at twice its size and smoothed by a 3x3 convolution.
    """

    def __init__(self, in_channels: Sequence[int], num_classes: int) -> None:
        super().__init__()
        self.laterals = nn.ModuleList(nn.Conv2d(width, FPN_CHANNELS, 1) for width in in_channels)
        self.pooled = nn.Conv2d(in_channels[-1], FPN_CHANNELS, 1)
        self.smooth = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(FPN_CHANNELS, FPN_CHANNELS, 3, padding=1, bias=False),
                nn.BatchNorm2d(FPN_CHANNELS),
                nn.ReLU(inplace=True),
            )
            for _ in in_channels
        )
        self.last = nn.Conv2d(FPN_CHANNELS, num_classes, 1)

    def forward(self, *levels: Tensor) -> Tensor:
        """Logits (B, C, h, w) of features (B, F, h, w), the finest first, each half the size of the one before."""
        *finer, coarsest = levels
        mean = coarsest.mean(dim=(2, 3), keepdim=True)
        merged = self.smooth[-1](self.laterals[-1](coarsest) + self.pooled(mean))
        for lateral, smooth, level in zip(self.laterals[-2::-1], self.smooth[-2::-1], finer[::-1], strict=True):
            merged = smooth(lateral(level) + F.interpolate(merged, scale_factor=2.0, mode="nearest"))
        logits: Tensor = self.last(merged)
        return logits


class SegmentationNetwork(nn.Module):
    """A ResNet-50 with an FPN, DeepLabV3 or FCN head; parameter names of the last two are torchvision's, whose auxiliary head
    is left out (docs/adr/0016).

    Called on images float32 (B, 3, h, w), normalised, it gives logits float32 (B, C, h / s, w / s) with s the
    output stride: what resizes them decides how finely.

    `levels` names the backbone's outputs that `classifier` takes, the finest first.
    """

    def __init__(self, backbone: nn.Module, classifier: nn.Module, levels: Sequence[str] = ("out",)) -> None:
        super().__init__()
        self.backbone = backbone
        self.classifier = classifier
        self.levels = tuple(levels)
        self.register_load_state_dict_pre_hook(_forget_auxiliary_head)  # type: ignore[no-untyped-call]

    def forward(self, images: Tensor) -> Tensor:
        """Logits (B, C, h / s, w / s) of images (B, 3, h, w)."""
        logits: Tensor = self.classifier(*self.features(images))
        return logits

    def features(self, images: Tensor) -> list[Tensor]:
        """What the classifier takes of images (B, 3, h, w): features (B, F, h / s, w / s) of each level."""
        found = self.backbone(images)
        return [found[level] for level in self.levels]


def _forget_auxiliary_head(_network: nn.Module, state: State, *_others: object) -> None:
    """Leave out what only training uses of torchvision's networks, and used of segloop's earlier versions."""
    for key in [key for key in state if key.startswith("aux_classifier.")]:
        del state[key]


def build_network(arch: str, num_classes: int, output_stride: int) -> SegmentationNetwork:
    """A network with random weights; `num_classes` counts background, which is channel 0.

    `fpn_resnet50` has output stride 4. torchvision's networks have 8, as published, or 16, where only the last stage is
    dilated and the atrous rates are halved (Chen et al., 2017, arXiv:1706.05587, section 3).

    Raises:
        SettingsError: an unknown architecture, or an output stride that it does not have.
    """
    if arch not in ARCHITECTURES:
        raise SettingsError(f"arch {arch!r}: use {', '.join(ARCHITECTURES)}")
    strides = (FPN_STRIDE,) if arch == "fpn_resnet50" else (8, 16)
    if output_stride not in strides:
        raise SettingsError(f"output_stride {output_stride}: {arch} has {' or '.join(map(str, strides))}")
    # the residual branches begin at zero: a deep network trained from scratch on few images needs that to start well
    dilated = [False, output_stride == 8, output_stride > FPN_STRIDE]
    backbone = resnet50(weights=None, zero_init_residual=True, replace_stride_with_dilation=dilated)
    outputs = {"layer4": "out"}
    classifier: nn.Module
    if arch == "fpn_resnet50":
        outputs = {"layer1": "stride4", "layer2": "stride8", "layer3": "stride16"} | outputs
        classifier = FPNHead((256, 512, 1024, 2048), num_classes)
    elif arch == "deeplabv3_resnet50":
        classifier = DeepLabHead(2048, num_classes, [rate * 8 // output_stride for rate in (12, 24, 36)])
    else:
        classifier = FCNHead(2048, num_classes)
    layers = IntermediateLayerGetter(backbone, return_layers=outputs)
    return SegmentationNetwork(layers, classifier, tuple(outputs.values()))


def pick_device(settings: Settings) -> torch.device:
    """The device to compute on.

    Raises:
        SettingsError: a GPU is asked for and torch sees none.
    """
    if settings.device == "cuda" and not torch.cuda.is_available():
        raise SettingsError("device cuda: torch sees no GPU here; use auto or cpu")
    return torch.device("cuda" if settings.device != "cpu" and torch.cuda.is_available() else "cpu")


def pick_output_stride(arch: str, settings: Settings, device: torch.device) -> int:
    """Output stride of a network trained on this device: that of the arch; of torchvision's, 16 on a CPU, 8 on a GPU,
    unless the settings say."""
    if arch == "fpn_resnet50":
        return FPN_STRIDE
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
