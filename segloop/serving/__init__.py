"""Serving: engines that run a network, the served model of each project, its replacement, and predictions."""

from segloop.serving.batching import Batcher
from segloop.serving.cache import PredictionCache
from segloop.serving.engines import Engine
from segloop.serving.gpu import gpu_memory
from segloop.serving.model import Segmentation, ServedModel, load_served_model
from segloop.serving.pretrained import PretrainedModels
from segloop.serving.swap import UNTRAINED, Loader, ServedModels

__all__ = [
    "UNTRAINED",
    "Batcher",
    "Engine",
    "Loader",
    "PredictionCache",
    "PretrainedModels",
    "Segmentation",
    "ServedModel",
    "ServedModels",
    "gpu_memory",
    "load_served_model",
]
