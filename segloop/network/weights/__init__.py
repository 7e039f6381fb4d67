"""The weights to begin with: their file, the classes of their head, and why they cannot be had. Imports no torch."""

from segloop.network.weights.chosen import (
    PRETRAINED_INPUT_SIZE,
    WeightsState,
    known_classes,
    weights_file,
    weights_name,
    weights_state,
)
from segloop.network.weights.classes import head_channels, head_layout, named_channels, sidecars
from segloop.network.weights.published import PUBLISHED, fetch, published_file, published_path, published_url

__all__ = [
    "PRETRAINED_INPUT_SIZE",
    "PUBLISHED",
    "WeightsState",
    "fetch",
    "head_channels",
    "head_layout",
    "known_classes",
    "named_channels",
    "published_file",
    "published_path",
    "published_url",
    "sidecars",
    "weights_file",
    "weights_name",
    "weights_state",
]
