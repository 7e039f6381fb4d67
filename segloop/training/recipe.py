"""The training recipe, top to bottom: criterion, learning rate, train_one_epoch, train."""

from __future__ import annotations

import logging
import math
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.optim.swa_utils import update_bn
from torch.utils.data import DataLoader
from tqdm import tqdm

from segloop.dataset import Manifest, load_manifest
from segloop.errors import NothingToTrain, TrainingError
from segloop.network import (
    INFO_FILE,
    SegmentationNetwork,
    build_network,
    initial_weights,
    load_bundle,
    load_matching,
    pick_device,
    pick_output_stride,
    save_bundle,
)
from segloop.settings import Settings
from segloop.training.container import Container
from segloop.training.evaluation import Evaluation, Network, evaluate
from segloop.training.examples import Examples, Views, steps_per_pass
from segloop.training.run import Run, restore, save_checkpoint
from segloop.transforms import IGNORED

log = logging.getLogger(__name__)

AUX_WEIGHT = 0.4
WEIGHT_DECAY = 0.01
#: Published weights know images already: the backbone that has them moves this much slower than the new head.
PRETRAINED_BACKBONE_RATE = 0.1
#: Share of the run in which the learning rate rises to its base.
WARMUP = 0.05
#: Evaluations within a run, evenly spread; the last one is its result.
EVALUATIONS = 4
#: Batches that BatchNorm's statistics are estimated from, at most.
STATISTICS_BATCHES = 32
#: Least time between two checkpoints, in seconds: one holds hundreds of megabytes.
CHECKPOINT_S = 60.0


class TerminatedError(Exception):
    """SIGTERM came, and the checkpoint is saved."""


def criterion(logits: Tensor, target: Tensor, class_weights: Tensor) -> Tensor:
    """Weighted cross-entropy of logits (B, C, h', w'), resized to the target's size, with int64 (B, h, w).

    0 where every pixel is IGNORED (the usual mean would be 0 / 0).
    """
    logits = F.interpolate(logits.float(), size=target.shape[1:], mode="bilinear", align_corners=False)
    total = F.cross_entropy(logits, target, class_weights, ignore_index=IGNORED, reduction="sum")
    return total / class_weights[target[target != IGNORED]].sum().clamp(min=1)


def learning_rate(base: float, done: float) -> float:
    """Learning rate after a share `done` of the run: a linear rise, then a polynomial fall (power 0.9)."""
    return base * min((done + 1e-3) / WARMUP, 1.0) * math.pow(1 - done, 0.9)


def train_one_epoch(run: Run, batches: Iterator[tuple[Tensor, Tensor]], report: Callable[[float], None]) -> None:
    """Take the optimizer through `batches`: images float32 (B, 3, h, w), class maps int64 (B, h, w).

    Raises:
        TrainingError: the loss is not finite.
    """
    run.network.train()
    for images, target in batches:
        if run.done >= 1:
            return
        for group in run.optimizer.param_groups:
            group["lr"] = learning_rate(group["base_lr"], run.done)
        torch.manual_seed(run.seed + run.step)  # dropout, the same after a resumption
        images = images.to(run.device, memory_format=torch.channels_last)
        target = target.to(run.device)
        with torch.autocast("cuda", torch.bfloat16, enabled=run.device.type == "cuda"):
            logits, auxiliary = run.network.with_auxiliary(images)
        loss = criterion(logits, target, run.class_weights)
        loss += AUX_WEIGHT * criterion(auxiliary, target, run.class_weights)
        value = loss.item()
        if not value < float("inf"):
            raise TrainingError(f"the loss is {value} after {run.step} steps: lower train_lr")
        run.optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        run.optimizer.step()
        run.step += 1
        report(value)


def train(container: Container, stop_asked: Callable[[], bool] = lambda: False) -> dict[str, Any]:
    """Train on the container's snapshot and write the bundle; returns its version.json.

    A checkpoint in the container is gone on from. `stop_asked` is looked at after each step.

    Raises:
        SegloopError: it cannot be done; the text is the reason.
        TerminatedError: `stop_asked` said so; the checkpoint is saved.
    """
    settings = container.settings()
    manifest = load_manifest(container.snapshot)
    items = manifest.part("train")
    if not items:
        raise NothingToTrain("the snapshot has no task to train on: label more")
    device = pick_device(settings)
    stride = pick_output_stride(settings, device)
    torch.manual_seed(settings.train_seed)
    network, backbone_rate = starting_network(settings, manifest.classes, stride, container.champion)
    network = network.to(device).to(memory_format=torch.channels_last)

    with tempfile.TemporaryDirectory(prefix="segloop-training-") as cache:
        channels = len(manifest.classes) + 1
        examples = Examples(container.snapshot, items, settings.input_size, settings.long_side, Path(cache), channels)
        per_epoch = steps_per_pass(len(examples), settings.train_batch_size)
        epochs = max(settings.train_epochs, -(-settings.train_min_steps // per_epoch))
        run = Run(
            network,
            make_optimizer(network, settings.train_lr, backbone_rate),
            device,
            epochs * per_epoch,
            per_epoch,
            settings.train_minutes * 60,
            settings.train_seed,
            examples.class_weights(channels).to(device),
        )
        restore(run, container.checkpoint)
        batches = iter(loader(Views(examples, settings.train_seed), settings.train_batch_size, run, device))
        plain = Views(examples, settings.train_seed, augmented=False)

        def evaluation() -> Evaluation:
            estimate_statistics(network, plain, settings.train_batch_size, device)
            served = Network(network, manifest.classes, settings.input_size, device, settings.long_side)
            return evaluate(served, container.snapshot, manifest.classes)

        with tqdm(total=run.steps, initial=run.step, unit="step", file=sys.stderr, mininterval=2) as bar:

            def report(loss: float) -> None:
                bar.update()
                bar.set_postfix(loss=f"{loss:.3f}", miou=run.miou)
                report_step(container, run, epochs, loss)
                if stop_asked():
                    save_checkpoint(run, container.checkpoint)
                    raise TerminatedError

            while run.done < 1:
                evaluations = int(run.done * EVALUATIONS)
                train_one_epoch(run, islice(batches, per_epoch - run.step % per_epoch), report)
                if evaluations < int(run.done * EVALUATIONS) < EVALUATIONS:
                    run.miou = evaluation().summary["miou"]
                if run.clock.elapsed_s - run.saved_s >= CHECKPOINT_S and run.done < 1:
                    save_checkpoint(run, container.checkpoint)
        container.report(phase="evaluating", message="Measuring the new version on the held-out tasks.")
        final = evaluation()
    log.info("project %s: mIoU %s after %d steps", manifest.project, final.summary["miou"], run.step)
    info = describe(settings, manifest, stride, final, run)
    save_bundle(container.model, network, info)
    return info


def starting_network(
    settings: Settings, classes: Sequence[str], output_stride: int, champion: Path
) -> tuple[SegmentationNetwork, float]:
    """A network for these classes that begins with the champion's weights, else the settings', else random ones;
    and the factor on its backbone's learning rate."""
    network = build_network(settings.arch, len(classes) + 1, output_stride)
    if (champion / INFO_FILE).exists():
        old, info = load_bundle(champion)
        copied = load_matching(network, old.state_dict(), info["classes"], classes)
        log.info("beginning with the served version: %d tensors", copied)
    elif weights := initial_weights(settings):
        copied = load_matching(network, weights.state, weights.classes, classes)
        log.info("beginning with the weights %s: %d tensors", weights.name, copied)
        return network, PRETRAINED_BACKBONE_RATE
    return network, 1.0


def make_optimizer(network: SegmentationNetwork, base_lr: float, backbone_rate: float) -> torch.optim.Optimizer:
    """AdamW: from random weights it learns in half the steps that SGD needs (fused, a step costs the same)."""
    backbone = list(network.backbone.parameters())
    heads = [*network.classifier.parameters(), *network.aux_classifier.parameters()]
    groups = [{"params": backbone, "base_lr": base_lr * backbone_rate}, {"params": heads, "base_lr": base_lr}]
    return torch.optim.AdamW(groups, base_lr, weight_decay=WEIGHT_DECAY, fused=True)


def loader(views: Views, batch_size: int, run: Run, device: torch.device) -> DataLoader[tuple[Tensor, Tensor]]:
    """The batches that are left of a run. A CPU has no core to spare for loading beside training."""
    positions = range(run.step * batch_size, run.steps * batch_size)
    return DataLoader(views, batch_size, sampler=positions, num_workers=4 if device.type == "cuda" else 0)


def estimate_statistics(network: SegmentationNetwork, views: Views, batch_size: int, device: torch.device) -> None:
    """Replace BatchNorm's running averages by plain means over the images as they will be served.

    Running averages of few small batches lag behind the weights and mix in augmentation: evaluation with them can
    be far below what the network has learnt. Leaves the network in evaluation mode.
    """
    batches = min(STATISTICS_BATCHES, steps_per_pass(len(views.examples), batch_size))
    chosen = DataLoader(views, batch_size, sampler=range(batches * batch_size))
    with torch.autocast("cuda", torch.bfloat16, enabled=device.type == "cuda"):
        update_bn((images.to(memory_format=torch.channels_last) for images, _ in chosen), network, device)
    network.eval()


def report_step(container: Container, run: Run, epochs: int, loss: float) -> None:
    """Add a step to the progress."""
    done = run.done
    container.report(
        phase="training",
        epoch=run.step // run.steps_per_epoch,
        epochs=epochs,
        step=run.step,
        steps=run.steps,
        loss=round(loss, 4),
        miou=run.miou,
        eta_s=round(run.clock.elapsed_s * (1 - done) / done, 1) if done else None,
    )


def describe(settings: Settings, manifest: Manifest, stride: int, final: Evaluation, run: Run) -> dict[str, Any]:
    """The version.json of a trained bundle, as far as training knows it."""
    return {
        "format": 1,
        "version": None,
        "project": manifest.project,
        "created_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "arch": settings.arch,
        "output_stride": stride,
        "input_size": settings.input_size,
        "long_side": settings.long_side,
        "classes": list(manifest.classes),
        "parent": None,
        "snapshot": manifest.hash,
        "temperature": final.temperature,
        "metrics": final.summary,
        "champion_metrics": None,
        "decision": None,
        "recipe": {
            "weights": settings.weights,
            "steps": run.step,
            "batch_size": settings.train_batch_size,
            "learning_rate": settings.train_lr,
            "seed": settings.train_seed,
            "seconds": round(run.clock.elapsed_s, 1),
            "torch": torch.__version__,
        },
    }
