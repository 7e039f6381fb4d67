"""The training recipe, top to bottom: learning rate, train_one_epoch, train. What was tried is in docs/adr/0006."""

from __future__ import annotations

import logging
import math
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from itertools import islice, takewhile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader
from tqdm import tqdm

from segloop.dataset import Manifest, load_manifest
from segloop.errors import NothingToTrain, TrainingError
from segloop.formats import VERSION_FILE
from segloop.network.checkpoint import initial_weights, load_matching
from segloop.network.network import (
    SegmentationNetwork,
    build_network,
    load_bundle,
    pick_output_stride,
    save_bundle,
)
from segloop.progress import Progress
from segloop.settings import Settings
from segloop.training.consistency import UnannotatedViews, unannotated_batches
from segloop.training.container import Container
from segloop.training.distributed import Team, form_team
from segloop.training.evaluation import Evaluation, Network, evaluate
from segloop.training.examples import Examples, Views, stages, steps_per_pass
from segloop.training.finishing import finish, steps_to_finish
from segloop.training.input_size import choose_input_size
from segloop.training.learner import (
    Learner,
    computes_bfloat16,
    is_compiled,
    target_weight,
)
from segloop.training.optimizers import make_optimizer
from segloop.training.run import Clock, Run, restore, save_checkpoint
from segloop.training.tracking import tracking
from segloop.versions import RecipeInfo, VersionInfo

log = logging.getLogger(__name__)

#: Published weights know images already: the backbone that has them moves this much slower than the new head, in the
#: trainings that go on from its versions too.
PRETRAINED_BACKBONE_RATE = 0.1
#: Random weights learn faster than those that know something: their learning rate is this many times the setting's.
RANDOM_WEIGHTS_RATE = 2.0
#: Share of the run in which the learning rate rises to its base.
WARMUP = 0.05


class TerminatedError(Exception):
    """SIGTERM came, and the checkpoint is saved."""


def learning_rate(base: float, done: float) -> float:
    """Learning rate after a share `done` of the run: a linear rise, then a polynomial fall (power 0.9)."""
    return base * min((done + 1e-3) / WARMUP, 1.0) * math.pow(1 - done, 0.9)


def train_one_epoch(
    run: Run, learner: nn.Module, batches: Iterator[tuple[Tensor, Tensor]], team: Team, report: Callable[[float], None]
) -> None:
    """Take the optimizer through `batches`: this process's share of each, images float32 (b, 3, h, w) and class maps
    int64 (b, h, w). `report` is told the loss of every whole batch.

    Raises:
        TrainingError: the loss is not finite.
    """
    learner.train()
    for images, target in batches:
        done = run.done
        for group in run.optimizer.param_groups:
            group["lr"] = learning_rate(group["base_lr"], done)
        torch.manual_seed(run.seed + run.step * team.size + team.rank)  # dropout, the same after a resumption
        images = images.to(run.device, memory_format=torch.channels_last, non_blocking=True)
        target = target.to(run.device, non_blocking=True)
        total = team.total(target_weight(target, run.class_weights)).clamp(min=1)
        unannotated = next(run.unannotated, None)
        loss = learner(images, target, total, *([unannotated] if unannotated else []))
        run.optimizer.zero_grad()
        (loss * team.size).backward()  # whose mean over the processes is the gradient of the losses' sum
        run.optimizer.step()
        value = team.total(loss.detach()).item()
        if not value < float("inf"):
            raise TrainingError(f"the loss is {value} after {run.step} steps: lower train_lr")
        run.step += 1
        report(value)


def train(
    container: Container, stop_asked: Callable[[], bool] = lambda: False, now: Callable[[], float] = time.monotonic
) -> VersionInfo | None:
    """Train on the container's snapshot and write the bundle; returns its version.json, or None in a process that is not
    the main one.

    A checkpoint in the container is gone on from. `stop_asked` is looked at after each step. `now` gives the seconds
    that `train_minutes` is kept by: preparation, evaluations and checkpoints are within it.

    Raises:
        SegloopError: it cannot be done; the text is the reason.
        TerminatedError: `stop_asked` said so; the checkpoint is saved.
    """
    clock = Clock(now)
    settings = container.settings()
    manifest = load_manifest(container.snapshot)
    items = manifest.part("train")
    if not items:
        raise NothingToTrain("the snapshot has no task to train on: label more")
    with (
        form_team(settings) as team,
        tempfile.TemporaryDirectory(prefix="segloop-training-") as cache,
        tracking(settings, container, manifest, is_main=team.is_main) as tracker,
    ):
        device = team.device
        stride = pick_output_stride(settings.arch, settings, device)
        torch.manual_seed(settings.train_seed)
        network, backbone_rate = starting_network(settings, manifest.classes, stride, container.champion)
        network = network.to(device).to(memory_format=torch.channels_last)
        served = container.served()
        before = served.input_size if served else None
        from_scratch = served is None and backbone_rate == 1.0

        def choose() -> int:
            return choose_input_size(settings, network, items, before, from_scratch=from_scratch)

        input_size = team.broadcast(container.input_size(choose) if team.is_main else 0)
        settings = settings.model_copy(update={"input_size": input_size})
        channels = len(manifest.classes) + 1
        examples = Examples(container.snapshot, items, settings, Path(cache), channels)
        others = None
        if manifest.unannotated:
            others = Examples(container.snapshot, manifest.unannotated, settings, Path(cache) / "others", channels)
        rate = settings.train_lr * (RANDOM_WEIGHTS_RATE if from_scratch else 1.0)
        parts = stages(*examples.served_size, device, from_scratch=from_scratch)
        views = Views(examples, settings.train_seed, parts[-1])
        per_epoch = steps_per_pass(len(examples), settings.train_batch_size)
        run = Run(
            network,
            make_optimizer(network, rate, backbone_rate),
            device,
            max(settings.train_epochs, -(-settings.train_min_steps // per_epoch)) * per_epoch,
            per_epoch,
            settings.train_minutes * 60,
            settings.train_seed,
            examples.class_weights(channels).to(device),
            clock=clock,
            patience=settings.train_patience,
            evaluation_steps=steps_of_evaluation(len(examples), len(manifest.part("val")), settings.train_batch_size),
        )
        restore(run, container.checkpoint)
        bfloat16 = computes_bfloat16(settings, device)
        learner = team.wrap(Learner(network, run.class_weights, bfloat16=bfloat16))
        if is_compiled(settings, device, run.steps - run.step):
            learner.compile()
        twin = build_network(settings.arch, channels, stride).to(device).to(memory_format=torch.channels_last)

        def evaluation() -> Evaluation:
            container.report(Progress(phase="evaluating", message="Measuring the network on the held-out tasks."))
            twin.load_state_dict(network.state_dict())
            finish(twin, twin.classifier, views, run)
            ready = Network(twin, manifest.classes, settings.input_size, device, settings.long_side)
            return evaluate(ready, container.snapshot, manifest.classes, container.report)

        def measure() -> None:
            started_s = clock.elapsed_s
            miou = None
            if team.is_main:
                summary = evaluation().summary
                miou = summary.miou
                report_evaluation(container, run.step, miou)
                tracker.evaluation(run.step, summary)
            run.note(*team.broadcast((miou, clock.elapsed_s - started_s)))

        def sync() -> bool:
            run.agreed_s, stop = team.sync_clock(clock.elapsed_s, stop_asked())
            return stop

        sync()
        run.begin()
        with tqdm(
            total=run.steps, initial=run.step, unit="step", file=sys.stderr, mininterval=2, disable=not team.is_main
        ) as bar:

            def report(loss: float) -> None:
                stop = sync()
                if team.is_main:
                    bar.update()
                    bar.set_postfix(loss=f"{loss:.3f}", miou=run.miou)
                    report_step(container, run, loss)
                    tracker.step(run.step, loss, run.optimizer.param_groups[-1]["lr"])
                if stop:
                    if team.is_main:
                        save_checkpoint(run, container.checkpoint)
                    team.broadcast(None)  # the first to exit ends the others
                    raise TerminatedError

            for stage in parts:
                batches = batches_of(run, Views(examples, settings.train_seed, stage), settings.train_batch_size, team)
                if others is not None and stage is parts[-1]:  # before it, networks from scratch are sure of little
                    pairs = UnannotatedViews(others, settings.train_seed, stage)
                    run.unannotated = unannotated_batches(
                        batches_of(run, pairs, settings.train_batch_size, team), device, team
                    )
                while run.done < stage.until:
                    train_one_epoch(run, learner, islice(batches, per_epoch - run.step % per_epoch), team, report)
                    if run.is_evaluation_due():
                        measure()
                    if team.is_main and run.done < 1 and run.is_checkpoint_due:
                        save_checkpoint(run, container.checkpoint)
                    sync()
        if not team.is_main:
            return None
        final = evaluation()
        report_evaluation(container, run.step, final.summary.miou)
        tracker.evaluation(run.step, final.summary)
        recipe = recipe_of(settings, run, backbone_rate, bfloat16=bfloat16)
        info = describe(settings, manifest, stride, final, recipe.model_copy(update={"processes": team.size}))
        info = info.model_copy(update={"parent": (served and served.version) or None, "curves": container.curves()})
        info = save_bundle(container.model, twin, info)
    log.info("project %s: mIoU %s after %d steps", manifest.project, final.summary.miou, run.step)
    return info


def starting_network(
    settings: Settings, classes: Sequence[str], output_stride: int, champion: Path
) -> tuple[SegmentationNetwork, float]:
    """A network for these classes that begins with the champion's weights, else the settings', else random ones;
    and the factor on its backbone's learning rate."""
    network = build_network(settings.arch, len(classes) + 1, output_stride)
    if (champion / VERSION_FILE).exists():
        old, info = load_bundle(champion)
        copied = load_matching(network, old.state_dict(), info.classes, classes)
        log.info("beginning with the served version: %d tensors", copied)
        return network, backbone_rate_of(info.recipe)
    if weights := initial_weights(settings):
        copied = load_matching(network, weights.state, weights.classes, classes, has_background=weights.has_background)
        log.info("beginning with the weights %s: %d tensors", weights.name, copied)
        return network, PRETRAINED_BACKBONE_RATE
    return network, 1.0


def backbone_rate_of(recipe: RecipeInfo) -> float:
    """The factor on the backbone's learning rate in a training that goes on from a version with this recipe."""
    if recipe.backbone_rate is not None:
        return recipe.backbone_rate
    return 1.0 if recipe.weights == "none" else PRETRAINED_BACKBONE_RATE


def batches_of(run: Run, views: Views | UnannotatedViews, batch_size: int, team: Team) -> Iterator[Any]:
    """This process's shares of the batches that are left of a run's stage. A CPU has no core to spare for loading.

    Raises:
        SettingsError: a batch can't be shared out evenly.
    """
    share = team.share(batch_size)
    firsts = range(run.step * batch_size + team.rank * share, run.steps * batch_size, batch_size)
    positions = [first + place for first in firsts for place in range(share)]
    on_gpu = run.device.type == "cuda"
    batches = DataLoader(views, share, sampler=positions, num_workers=4 if on_gpu else 0, pin_memory=on_gpu)
    return takewhile(lambda _: run.done < views.stage.until, batches)


def steps_of_evaluation(examples: int, held_out: int, batch_size: int) -> float:
    """About how many training steps an evaluation takes as long as: `finish`, and a forward pass of each held-out image,
    its resizing to full size included."""
    return steps_to_finish(examples, batch_size) + held_out / batch_size


def report_step(container: Container, run: Run, loss: float) -> None:
    """Add a step to the progress."""
    done = run.done
    container.report(
        Progress(
            phase="training",
            epoch=run.step // run.steps_per_epoch,
            epochs=-(-run.expected_steps // run.steps_per_epoch),
            step=run.step,
            steps=run.expected_steps,
            loss=round(loss, 4),
            miou=run.miou,
            eta_s=round(run.elapsed_s * (1 - done) / done, 1) if done else None,
        )
    )


def report_evaluation(container: Container, step: int, miou: float | None) -> None:
    """Add an evaluation's mIoU to the progress, and so to the run's curves."""
    told = "no mIoU: no label occurs in them" if miou is None else f"mIoU {miou:.3f}"
    message = f"On the held-out tasks after {step} steps: {told}."
    container.report(Progress(phase="evaluated", step=step, evaluated=miou, message=message))


def describe(settings: Settings, manifest: Manifest, stride: int, final: Evaluation, recipe: RecipeInfo) -> VersionInfo:
    """The version.json of a trained bundle, as far as training knows it."""
    return VersionInfo(
        project=manifest.project,
        created_at=datetime.now(UTC).isoformat(timespec="seconds"),
        arch=settings.arch,
        output_stride=stride,
        input_size=settings.input_size,
        long_side=settings.long_side,
        classes=manifest.classes,
        snapshot=manifest.hash,
        temperature=final.temperature,
        metrics=final.summary,
        recipe=recipe,
    )


def recipe_of(settings: Settings, run: Run, backbone_rate: float, *, bfloat16: bool) -> RecipeInfo:
    """How a run was trained."""
    return RecipeInfo(
        kind="full",
        weights=settings.weights,
        steps=run.step,
        batch_size=settings.train_batch_size,
        learning_rate=run.optimizer.param_groups[-1]["base_lr"],
        backbone_rate=backbone_rate,
        seed=settings.train_seed,
        seconds=round(run.clock.elapsed_s, 1),
        torch=torch.__version__,
        precision="bfloat16" if bfloat16 else "float32",
    )
