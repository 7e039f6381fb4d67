"""A version's guided head: trained on its snapshot, exported, and judged by clicks at held-out annotations."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import numpy as np
import torch

from segloop.dataset import load_manifest
from segloop.formats import GUIDED_FILE, GUIDED_MAPS, GUIDED_MODEL
from segloop.network.guided import GuidedUNet, TorchHead, save_guided
from segloop.network.network import SegmentationNetwork
from segloop.network.transforms import UInt8, class_map_of, probability_grid, resize_image, resize_mask
from segloop.policy import may_guide
from segloop.results.clicks import next_mask
from segloop.results.guided import GuidedHead
from segloop.results.views import Asked, Float32, Mask, Place, Sight
from segloop.serving.guided import OpenVINOHead
from segloop.training.clicking import clicked
from segloop.training.conversions import to_openvino, write_traced
from segloop.training.evaluation import Network
from segloop.training.examples import evenly, read_example
from segloop.training.guided import Seen, pieces_of, train_guided
from segloop.versions import GuidedFigures, VersionInfo

log = logging.getLogger(__name__)

#: The fewest annotated images on either side that make a training worth while.
LEAST_IMAGES, LEAST_HELD_OUT = 8, 2
#: Images that are learnt from, and looked at to judge, at most, evenly spread; their longest side, in pixels.
MOST_IMAGES, _HELD_OUT, _SIDE_PX = 150, 30, 512
#: Pieces that are clicked at to judge, at most; clicks at each; and after how many the IoU is noted.
MOST_PIECES, _CLICKS, _AFTER = 60, 8, (1, 2, 3, 5, 8)
_RESAMPLES: Final = 1000


def export_guided(
    network: SegmentationNetwork, info: VersionInfo, snapshot: Path, out: Path, steps: int
) -> GuidedFigures | None:
    """Train a guided head on what a network sees of a snapshot, and write its weights and its OpenVINO model into `out` if it is
    better than what needs no training; what it is worth. None where there is too little to learn from.

    Raises:
        EngineError: the head cannot be exported.
        TrainingError: the snapshot cannot be read.
    """
    manifest = load_manifest(snapshot)
    train, held_out = manifest.part("train"), manifest.part("val")
    if not steps or len(train) < LEAST_IMAGES or len(held_out) < LEAST_HELD_OUT or info.classes != manifest.classes:
        return None
    served = Network(
        network.eval(), info.classes, info.input_size, torch.device("cpu"), info.long_side, info.temperature
    )
    examples = (read_example(snapshot, item) for item in evenly(train, MOST_IMAGES))
    head = train_guided([seen_of(served, *example) for example in examples], steps)
    if head is None:
        return None
    examples = (read_example(snapshot, item) for item in evenly(held_out, _HELD_OUT))
    figures = judged(TorchHead(head), [seen_of(served, *example) for example in examples])
    log.info("the guided head: %s", figures.reason)
    if figures.serves:
        exported(head, out)
        save_guided(head, out / GUIDED_FILE)
    return figures


def exported(head: GuidedUNet, out: Path) -> OpenVINOHead:
    """A head as it is served, of the OpenVINO model that this writes into `out`.

    Raises:
        EngineError: the head cannot be exported.
    """
    with tempfile.TemporaryDirectory(prefix="segloop-guided-") as scratch:
        to_openvino(to_onnx(head, Path(scratch) / "guided.onnx"), out / GUIDED_MODEL[0])
    return OpenVINOHead(out / GUIDED_MODEL[0])


def to_onnx(head: GuidedUNet, file: Path) -> Path:
    """Write a head as ONNX, for views of any size; the file.

    Raises:
        EngineError: torch cannot export it.
    """
    maps, evidence = torch.zeros(1, GUIDED_MAPS, 64, 96), torch.zeros(1, 1, 64, 96)
    write_traced(head, {"maps": maps, "evidence": evidence}, file, "found")
    return file


def judged(head: GuidedHead, held_out: Sequence[Seen]) -> GuidedFigures:
    """What a head is worth for clicks at pieces of held-out annotations, and whether it serves."""
    chosen = evenly(pieces_of(held_out), MOST_PIECES)
    if not chosen:
        return GuidedFigures(reason=may_guide(None, 0.0).reason)

    def measured(answer: GuidedHead | None) -> Float32:
        def mask_of(sight: Sight, clicks: tuple[Place, ...], value: int, mask: Mask | None) -> Mask:
            return next_mask(sight, Asked(clicks, value=value), mask, answer)

        found = [clicked(mask_of, held_out[one.image].sight, one.of(held_out), _CLICKS) for one in chosen]
        return np.array(found, np.float32)

    found, without = measured(head), measured(None)
    gains = (found - without).mean(axis=1)
    draws = np.random.default_rng(0).integers(0, len(gains), (_RESAMPLES, len(gains)))
    decision = may_guide(float(gains.mean()), float((gains[draws].mean(axis=1) > 0).mean()))
    iou, before = ({count: round(float(each[:, count - 1].mean()), 4) for count in _AFTER} for each in (found, without))
    return GuidedFigures(pieces=len(chosen), iou=iou, iou_without=before, serves=decision.act, reason=decision.reason)


def seen_of(network: Network, pixels: UInt8, truth: UInt8) -> Seen:
    """An annotated image, no larger than is needed, and what the network says of it."""
    scale = min(1.0, _SIDE_PX / max(truth.shape))
    height, width = (max(1, round(side * scale)) for side in truth.shape)
    logits = network.logits(pixels)
    sight = Sight(
        resize_image(pixels, height, width),
        class_map_of(logits, height, width),
        probability_grid(logits, height, width, network.temperature).astype(np.float16),
    )
    return Seen(sight, resize_mask(truth, height, width))
