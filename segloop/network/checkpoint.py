"""Files of weights as states of this package's networks: published ones, one's own, and their heads by class name."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from safetensors.torch import load_file
from torch import Tensor

from segloop.errors import WeightsError, WeightsUnavailable
from segloop.network.network import (
    SegmentationNetwork,
    State,
    build_network,
    pick_device,
    pick_output_stride,
)
from segloop.network.voc_classes import VOC_CLASSES, class_channel
from segloop.network.weights import PUBLISHED, head_channels, head_layout, named_channels, weights_file
from segloop.settings import Settings

log = logging.getLogger(__name__)

#: Under which of these keys trainings save the state among other things, the first one that is there.
_NESTED: Final = ("model", "state_dict", "model_state_dict", "model_state", "net", "network", "module")
# The first convolution's name, after what wrappers (DataParallel, torch.compile, Lightning modules) put before each.
_FIRST_LAYER: Final = re.compile(
    r"((?:\w+\.)*?(?=backbone\.)|(?:(?:module|model|net|network|_orig_mod)\.)*)(?:backbone\.)?conv1\.weight"
)
#: Logit of a background that a head does not have, below that of any class.
_NEVER: Final = -30.0
#: At most so many names or shapes are told of in an error.
_NAMED: Final = 3
#: The first layer of each architecture's head: what tells them apart.
_FIRST_OF_HEAD: Final = {
    "fpn_resnet50": "classifier.laterals.0.weight",
    "deeplabv3_resnet50": "classifier.0.convs.0.0.weight",
    "fcn_resnet50": "classifier.0.weight",
}
#: The weight and the bias of a head's last layer.
_LAST_OF_HEAD: Final = re.compile(r"classifier\.(4|last)\.(weight|bias)")


@dataclass(frozen=True)
class InitialWeights:
    """Weights to begin with: a state under this package's parameter names, and the classes of its head.

    `classes` names channels 1 and up; None where the head's channels are unknown or there is no head. Channel 0 is
    background: where the file has none, a row of zeros that never wins (`has_background` is false).
    """

    name: str
    state: State
    classes: tuple[str, ...] | None
    has_background: bool = True


def initial_weights(settings: Settings) -> InitialWeights | None:
    """The weights that the settings name, or None: for `none`, and for published ones that cannot be had.

    What cannot be had is logged with its reason.

    Raises:
        WeightsError: a file of one's own that does not exist or cannot be used.
    """
    try:
        path = weights_file(settings)
    except WeightsUnavailable as error:
        log.warning("going on with random weights: %s", error)
        return None
    return None if path is None else read_weights(path, settings)


def read_weights(path: Path, settings: Settings) -> InitialWeights:
    """The weights in a .safetensors or .pth file: of this package, of torchvision's networks, or of a ResNet-50.

    A .pth file may be nested and its names prefixed, as usual trainings save them. Nothing of it is executed.

    Raises:
        WeightsError: it holds no usable weights, or what names its classes does not fit.
    """
    name = settings.weights
    state = _named_plainly(_state_in(_loaded(path, name), name))
    if "conv1.weight" in state:
        state = {f"backbone.{key}": value for key, value in state.items() if not key.startswith("fc.")}
    if "backbone.conv1.weight" not in state:
        raise WeightsError(
            f"weights {name}: no ResNet-50 in it (no backbone.conv1.weight, but {_some(state)})",
            "use segloop's fpn_resnet50, or torchvision's deeplabv3_resnet50, fcn_resnet50 or resnet50",
        )
    channels = head_channels(_shapes(state))
    names = None
    if channels and settings.weights not in PUBLISHED:
        names = named_channels(path, settings.weights_classes)
    if names is None:
        return InitialWeights(name, state, VOC_CLASSES if channels == len(VOC_CLASSES) + 1 else None)
    layout = head_layout(path, names, channels)
    if layout.background == 0:
        return InitialWeights(name, state, layout.classes)
    state = {
        key: _with_background(key, value, layout.background, layout.channels)
        if _is_head(key, value, channels)
        else value
        for key, value in state.items()
    }
    return InitialWeights(name, state, layout.classes, has_background=layout.background is not None)


def _loaded(path: Path, name: str) -> Any:
    try:
        if path.suffix.lower() == ".safetensors":
            return load_file(path)
        return torch.load(path, "cpu", weights_only=True)
    except Exception as error:  # torch and safetensors raise many kinds on a bad file
        fix = "save the network's state_dict() alone (torch.save(network.state_dict(), FILE)): segloop runs no code of a file"
        raise WeightsError(f"weights {name}: not a file of weights ({type(error).__name__})", fix) from error


def _state_in(value: Any, name: str) -> State:
    """The dictionary of tensors in a file, which may lie under another key beside an optimizer's and the like."""
    for _ in range(_NAMED):
        if not isinstance(value, Mapping) or any(isinstance(one, Tensor) for one in value.values()):
            break
        value = next((value[key] for key in _NESTED if isinstance(value.get(key), Mapping)), None)
    if not isinstance(value, Mapping):
        raise WeightsError(
            f"weights {name}: not a dictionary of tensors",
            f"save the network's state_dict(), alone or under one of the keys {', '.join(_NESTED)}",
        )
    return {str(key): tensor for key, tensor in value.items() if isinstance(tensor, Tensor)}


def _named_plainly(state: State) -> State:
    """The part of a state that is the network, without what wrappers put before every name of it."""
    found = (match for key in state if (match := _FIRST_LAYER.fullmatch(key)))
    prefix = next((match[1] for match in found), "")
    return {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}


def _is_head(key: str, value: Tensor, channels: int) -> bool:
    """Whether a tensor is the weight or the bias of a head's last layer."""
    return bool(_LAST_OF_HEAD.fullmatch(key)) and len(value) == channels


def _with_background(key: str, value: Tensor, background: int | None, channels: Sequence[int]) -> Tensor:
    """A head's rows with background first: its own row, or one that never wins."""
    if background is not None:
        return value[[background, *channels]]
    row = torch.full_like(value[:1], _NEVER) if key.endswith(".bias") else torch.zeros_like(value[:1])
    return torch.cat([row, value])


def _some(names: Mapping[str, Any] | Sequence[str]) -> str:
    shown = sorted(names)
    return ", ".join(shown[:_NAMED]) + (f" and {len(shown) - _NAMED} more" if len(shown) > _NAMED else "")


# -- heads and classes


def load_matching(
    network: SegmentationNetwork,
    state: State,
    old_classes: Sequence[str] | None,
    new_classes: Sequence[str],
    *,
    has_background: bool = True,
) -> int:
    """Copy into a network every tensor of a state that fits, and the rows of its heads by class name.

    `old_classes` and `new_classes` name channels 1 and up; channel 0 is background in both. A class that the
    state does not have keeps its random row, as do background without `has_background`, and every row where
    `old_classes` is None. Names match exactly
    or, failing that, as `class_channel` reads them. Returns how many tensors were copied, whole or in part.
    """
    own = network.state_dict()
    rows = _matching_rows(old_classes, new_classes)
    if not has_background:
        rows.pop(0, None)
    copied = 0
    for key, tensor in own.items():
        old = state.get(key)
        if old is None or old.shape[1:] != tensor.shape[1:]:
            continue
        if _LAST_OF_HEAD.fullmatch(key):
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
        old_row = exact.get(name) or class_channel(name, old_classes)
        if old_row:
            rows[row] = old_row
    return rows


def pretrained_network(settings: Settings) -> SegmentationNetwork | None:
    """The network of the settings' weights with their own head, whose channels are background and the classes of
    `segloop.network.weights.known_classes`; it answers before any training. None where the weights segment nothing yet.

    Raises:
        WeightsError: the weights cannot be had or used, are of no known architecture, or nothing names their classes.
    """
    path = weights_file(settings)
    weights = None if path is None else read_weights(path, settings)
    if weights is None or (channels := head_channels(_shapes(weights.state))) == 0:
        return None
    if weights.classes is None:
        raise WeightsError(
            f"weights {weights.name}: its head has {channels} channels, and nothing names their classes",
            f"write their names to {Path(weights.name).with_suffix('.json').name} beside it, or set SEGLOOP_WEIGHTS_CLASSES",
        )
    arch = next((arch for arch, key in _FIRST_OF_HEAD.items() if key in weights.state), settings.arch)
    # torchvision's, trained at stride 8, serve at 16 too: there every layer but the head's last 3x3 computes the same,
    # at every second place (see the tests).
    network = build_network(arch, len(weights.classes) + 1, pick_output_stride(arch, settings, pick_device(settings)))
    own = network.state_dict()
    missing = [key for key in own if key not in weights.state]
    other = [
        f"{key} is {tuple(weights.state[key].shape)}, not {tuple(value.shape)}"
        for key, value in own.items()
        if key in weights.state and value.shape != weights.state[key].shape
    ]
    if missing or other:
        misfit = f"{_some(missing)} missing" if missing else _some(other)
        raise WeightsError(
            f"weights {weights.name}: they are not of a {arch} ({misfit})",
            "use the network as torchvision makes it, or, for fpn_resnet50, as segloop does",
        )
    network.load_state_dict(
        {key: value for key, value in weights.state.items() if key in own and value.shape == own[key].shape},
        strict=False,
    )
    return network.eval()


def _shapes(state: State) -> dict[str, tuple[int, ...]]:
    return {key: tuple(value.shape) for key, value in state.items()}
