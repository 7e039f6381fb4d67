"""One training, measured on images that it has not seen: `python -m benchmarks.held_out_training BASE HELD_OUT OUT`.

BASE is a folder of the training contract, HELD_OUT a snapshot whose `val` is measured, and OUT the .npz file that
`Measured.load` reads. Besides the settings its hyperparameters say: `clock`, by which `train_minutes` is kept (`cpu` for
CPU time of this process, `wall`); `torch_threads`; and `peer`, a network of segmentation_models_pytorch to train in the place
of segloop's own, with the same views, loss, optimizer, schedule, BatchNorm statistics and time.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable
from itertools import islice
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import nn

from benchmarks.held_out import Effort, Measured
from segloop.dataset import load_manifest
from segloop.metrics import BoundaryScore
from segloop.network.network import pick_device
from segloop.training.adaptation import adapt
from segloop.training.container import Container
from segloop.training.distributed import form_team
from segloop.training.evaluation import EvaluatedImage, Network, evaluate
from segloop.training.examples import Examples, Views, stages, steps_per_pass
from segloop.training.finishing import finish
from segloop.training.learner import Learner, computes_bfloat16
from segloop.training.optimizers import for_random_weights
from segloop.training.recipe import (
    RANDOM_WEIGHTS_RATE,
    batches_of,
    steps_of_evaluation,
    train,
    train_one_epoch,
)
from segloop.training.run import Clock, Run

CLOCKS = {"cpu": time.process_time, "wall": time.monotonic}


def main(base: Path, held_out: Path, out: Path) -> None:
    """Train, measure, and write what was measured."""
    container = Container(base)
    given = container.hyperparameters()
    torch.set_num_threads(int(given["torch_threads"]))
    cv2.setNumThreads(int(given["torch_threads"]))
    now = CLOCKS[given["clock"]]
    if "peer" in given:
        network, effort = train_peer(peer_network(given["peer"], container), container, now)
    else:
        info = adapt(container) if container.recipe() == "quick" else train(container, now=now)
        effort = Effort(info.recipe.steps, info.recipe.batch_size, info.recipe.seconds)
        network = Network.load(container.model, pick_device(container.settings()))
    measure(network, held_out, effort).save(out)


def measure(network: Network, snapshot: Path, effort: Effort) -> Measured:
    """What a network is worth on the held-out images of a snapshot, at their full size."""
    classes = load_manifest(snapshot).classes
    outlines = []

    def watch(seen: EvaluatedImage) -> None:
        score = BoundaryScore(classes)
        score.update(seen.truth, seen.found)
        outlines.append([np.nan if value is None else value for value in score.summary().values()])

    evaluation = evaluate(network, snapshot, classes, watch=watch)
    return Measured(classes, evaluation.counts, np.array(outlines), effort)


def peer_network(name: str, container: Container) -> nn.Module:
    """A network of segmentation_models_pytorch on a ResNet-50, with random weights that the run's seed gives."""
    import segmentation_models_pytorch as smp  # in the environment of --peers alone

    torch.manual_seed(container.settings().train_seed)
    channels = len(load_manifest(container.snapshot).classes) + 1
    module: nn.Module = smp.create_model(name, encoder_name="resnet50", encoder_weights=None, classes=channels)
    return module


def train_peer(module: nn.Module, container: Container, now: Callable[[], float]) -> tuple[Network, Effort]:
    """Train a network, float32 (B, 3, h, w) to logits (B, C, h', w'), on a container's snapshot as segloop trains its own."""
    clock = Clock(now)
    settings = container.settings()
    manifest = load_manifest(container.snapshot)
    items, size = manifest.part("train"), settings.train_batch_size
    per_epoch = steps_per_pass(len(items), size)
    with form_team(settings) as team, tempfile.TemporaryDirectory(prefix="segloop-peer-") as cache:
        module = module.to(team.device).to(memory_format=torch.channels_last)
        channels = len(manifest.classes) + 1
        examples = Examples(container.snapshot, items, settings, Path(cache), channels)
        run = Run(
            module,
            for_random_weights(module, settings.train_lr * RANDOM_WEIGHTS_RATE),
            team.device,
            max(settings.train_epochs, -(-settings.train_min_steps // per_epoch)) * per_epoch,
            per_epoch,
            settings.train_minutes * 60,
            settings.train_seed,
            examples.class_weights(channels).to(team.device),
            clock=clock,
            evaluation_steps=steps_of_evaluation(len(items), 0, size),
        )
        learner = Learner(module, run.class_weights, bfloat16=computes_bfloat16(settings, team.device))
        run.begin()
        for stage in stages(*examples.served_size, team.device, from_scratch=True):
            views = Views(examples, settings.train_seed, stage)
            batches = batches_of(run, views, size, team)
            while run.done < stage.until:
                part = islice(batches, per_epoch - run.step % per_epoch)
                train_one_epoch(run, learner, part, team, lambda _loss: None)
        finish(module, module, views, run)
    effort = Effort(run.step, size, clock.elapsed_s)
    return Network(module, manifest.classes, settings.input_size, team.device, settings.long_side), effort


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
