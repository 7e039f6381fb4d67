"""Quick adaptation: a head trained within about a minute on features that a frozen backbone gives once."""

from __future__ import annotations

import logging
import math
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import update_bn

from segloop.dataset import Item, load_manifest
from segloop.errors import NothingToTrain, TrainingError
from segloop.network.checkpoint import initial_weights
from segloop.network.network import (
    SegmentationNetwork,
    pick_device,
    pick_output_stride,
    save_bundle,
)
from segloop.network.transforms import normalise, resize_image, resize_mask
from segloop.progress import Progress
from segloop.settings import Settings
from segloop.training.container import Container
from segloop.training.evaluation import Network, evaluate
from segloop.training.examples import Examples, Stage, Views
from segloop.training.finishing import AREA_SHARE, match_areas
from segloop.training.input_size import choose_input_size
from segloop.training.learner import computes_bfloat16, criterion
from segloop.training.optimizers import Optimizers, make_head_optimizer
from segloop.training.recipe import (
    TerminatedError,
    describe,
    learning_rate,
    recipe_of,
    report_evaluation,
    starting_network,
)
from segloop.training.run import Clock, Run
from segloop.training.tracking import tracking
from segloop.versions import VersionInfo

log = logging.getLogger(__name__)

#: Images in a step: the head is small, and its batch normalisation likes more than the whole network's batches hold.
BATCH = 8
#: Least and most steps, whatever the time allows.
LEAST_STEPS = 20
MOST_STEPS = 400
#: Images that features are computed of, at most; half of them are those labelled last.
MOST_IMAGES = 128
#: Images whose features are computed in any case, however slow the machine is.
LEAST_IMAGES = 16
#: Share of the time that features are computed in, beyond those of LEAST_IMAGES. Steps are worth more than views: of 20
#: steps on CamVid, those on 20 views of 10 images gave a mIoU of 0.34, those on 44 views 0.30; of 40 steps these 0.35.
FEATURES_SHARE = 0.25
#: Views of an image, at most: as it is, mirrored, and random ones.
MOST_VIEWS = 12
#: Size of the features on disk, at most.
MOST_BYTES = 2**30


def adapt(container: Container, stop_asked: Callable[[], bool] = lambda: False) -> VersionInfo:
    """Train the head of the served version, or of the weights, on the container's snapshot; returns its version.json.

    Keeps to `adapt_minutes`, features included, but for LEAST_IMAGES and LEAST_STEPS; the evaluation comes after it.
    There is no checkpoint: a run that was killed begins again.

    Raises:
        SegloopError: it cannot be done; the text is the reason.
        TerminatedError: `stop_asked` said so.
    """
    clock = Clock()
    settings = container.settings()
    manifest = load_manifest(container.snapshot)
    items = choose(manifest.part("train"), settings.train_seed)
    if not items:
        raise NothingToTrain("the snapshot has no task to train on: label more")
    device = pick_device(settings)
    stride = pick_output_stride(settings.arch, settings, device)
    if served := container.served():
        kept = {"arch": served.arch, "input_size": settings.input_size or served.input_size}
        settings, stride = settings.model_copy(update=kept), served.output_stride
    elif initial_weights(settings) is None:
        raise TrainingError("a quick adaptation needs weights or a served version: there is neither")
    torch.manual_seed(settings.train_seed)
    network, backbone_rate = starting_network(settings, manifest.classes, stride, container.champion)
    network = network.to(device).to(memory_format=torch.channels_last).eval()
    input_size = container.input_size(lambda: choose_input_size(settings, network, items))
    settings = settings.model_copy(update={"input_size": input_size})
    channels = len(manifest.classes) + 1
    budget_s = settings.adapt_minutes * 60
    bfloat16 = computes_bfloat16(settings, device)

    with (
        tempfile.TemporaryDirectory(prefix="segloop-adaptation-") as cache,
        tracking(settings, container, manifest) as tracker,
    ):
        examples = Examples(container.snapshot, items, settings, Path(cache), channels)
        features = Features(Path(cache), network, examples.served_size, MOST_VIEWS * len(items), bfloat16=bfloat16)
        for image, target in views_of(examples, settings):
            enough = features.count >= LEAST_IMAGES and clock.elapsed_s >= budget_s * FEATURES_SHARE
            if features.is_full or enough:
                break
            features.add(image, target)
            message = f"Quick adaptation: features of {features.count} views."
            report(container, stop_asked, Progress(phase="training", message=message))
        left_s = max(budget_s - clock.elapsed_s, 1e-3)
        optimizer = make_head_optimizer(network.classifier, settings.train_lr, backbone_rate)
        run = make_run(network, optimizer, examples.class_weights(channels), settings, left_s)
        for loss in train_head(run, features, bfloat16):
            step = Progress(phase="training", step=run.step, steps=MOST_STEPS, loss=round(loss, 4))
            report(container, stop_asked, step)
            tracker.step(run.step, loss, run.optimizer.param_groups[-1]["lr"])
        finish_head(run, features, min(features.count, len(items)))
        seconds = clock.elapsed_s
        message = "Measuring the new version on the held-out tasks."
        container.report(Progress(phase="evaluating", message=message))
        ready = Network(network, manifest.classes, settings.input_size, device, settings.long_side)
        final = evaluate(ready, container.snapshot, manifest.classes)
        tracker.evaluation(run.step, final.summary)
    log.info("project %s: mIoU %s after %d steps", manifest.project, final.summary.miou, run.step)
    report_evaluation(container, run.step, final.summary.miou)
    recipe = recipe_of(settings, run, backbone_rate, bfloat16=bfloat16)
    quick = {"kind": "quick", "batch_size": BATCH, "views": features.count, "seconds": round(seconds, 1)}
    info = describe(settings, manifest, stride, final, recipe.model_copy(update=quick))
    return save_bundle(container.model, network, info.model_copy(update={"curves": container.curves()}))


def report(container: Container, stop_asked: Callable[[], bool], progress: Progress) -> None:
    """Add a line to the progress, or end the run if that is asked for.

    Raises:
        TerminatedError: it is.
    """
    if stop_asked():
        raise TerminatedError
    container.report(progress)


def choose(items: Sequence[Item], seed: int) -> list[Item]:
    """At most MOST_IMAGES items: those labelled last and some of the others in turns, the latest first."""
    latest = sorted(items, key=lambda item: max((one.updated_at for one in item.annotations), default=""), reverse=True)
    newer, older = latest[: MOST_IMAGES // 2], latest[MOST_IMAGES // 2 :]
    picked = np.random.default_rng(seed).permutation(len(older))[: MOST_IMAGES - len(newer)]
    chosen = [older[index] for index in picked]
    turns = [item for pair in zip(newer, chosen, strict=False) for item in pair]
    return [*turns, *newer[len(chosen) :]]


def views_of(examples: Examples, settings: Settings) -> Iterator[tuple[Tensor, Tensor]]:
    """The views to compute features of, image float32 (3, h, w) and class map int64 (h, w): every image as it is
    served, every one mirrored, then random ones without end.

    Where images are served in windows each is seen in one of its windows, another one of the next image.
    """
    height, width = examples.served_size
    for mirrored in (False, True):
        for index in range(len(examples)):
            image, mask = examples.served_view(index, index)
            view = normalise(resize_image(image, height, width)), resize_mask(mask, height, width)
            pixels, target = torch.from_numpy(view[0]), torch.from_numpy(view[1].astype(np.int64))
            yield (pixels.flip(-1), target.flip(-1)) if mirrored else (pixels, target)
    random = Views(examples, settings.train_seed, Stage(examples.served_size))
    yield from (random[position] for position in count())


class Features:
    """A frozen backbone's features of views, and their class maps, in files that are mapped to memory.

    Each level that the head takes is kept in 8 bits, with a scale for each view and channel: features are what a ReLU
    gives, and so 0 or more.
    """

    def __init__(
        self,
        folder: Path,
        network: SegmentationNetwork,
        view_size: tuple[int, int],
        most: int,
        *,
        bfloat16: bool = False,
    ) -> None:
        self._network = network
        self.device = next(network.parameters()).device
        self._bfloat16 = bfloat16
        shapes = [tuple(level.shape[1:]) for level in self._compute(torch.zeros(1, 3, *view_size))]
        self._most = max(LEAST_IMAGES, min(most, MOST_BYTES // sum(map(math.prod, shapes))))
        # in the order of channels_last, which the head's convolutions want
        self._levels = [
            np.memmap(folder / f"features-{index}", np.uint8, "w+", shape=(self._most, *grid, channels))
            for index, (channels, *grid) in enumerate(shapes)
        ]
        self._scales = [np.zeros((self._most, 1, 1, channels), np.float32) for channels, *_ in shapes]
        self._targets = np.memmap(folder / "targets", np.uint8, "w+", shape=(self._most, *view_size))
        self.count = 0

    @property
    def is_full(self) -> bool:
        """Whether no more fit."""
        return self.count == self._most

    def add(self, image: Tensor, target: Tensor) -> None:
        """Compute a view's features: image float32 (3, h, w), class map int64 (h, w)."""
        for level, scales, features in zip(self._levels, self._scales, self._compute(image[None]), strict=True):
            values = features[0].permute(1, 2, 0).cpu().numpy()
            scale = np.maximum(values.max(axis=(0, 1)) / 255, 1e-12)
            scales[self.count] = scale
            level[self.count] = np.rint(values / scale)
        self._targets[self.count] = target.numpy()
        self.count += 1

    def batch(self, indices: Sequence[int]) -> tuple[list[Tensor], Tensor]:
        """Features of each level float32 (B, F, h', w') and class maps int64 (B, h, w) of some views."""
        levels = [
            torch.from_numpy(level[indices] * scales[indices]).to(self.device).permute(0, 3, 1, 2)
            for level, scales in zip(self._levels, self._scales, strict=True)
        ]
        return levels, torch.from_numpy(self._targets[indices]).to(self.device).long()

    def only(self, views: Sequence[int]) -> SomeFeatures:
        """Those of some views alone."""
        return SomeFeatures(self, tuple(views))

    def _compute(self, images: Tensor) -> list[Tensor]:
        images = images.to(self.device, memory_format=torch.channels_last)
        with torch.inference_mode(), torch.autocast(self.device.type, torch.bfloat16, enabled=self._bfloat16):
            return [level.float() for level in self._network.features(images)]


@dataclass(frozen=True)
class SomeFeatures:
    """The features of some views, counted from 0."""

    features: Features
    views: tuple[int, ...]

    @property
    def count(self) -> int:
        """How many there are."""
        return len(self.views)

    def batch(self, indices: Sequence[int]) -> tuple[list[Tensor], Tensor]:
        """As `Features.batch`."""
        return self.features.batch([self.views[index] for index in indices])


class Head(nn.Module):
    """A network's head as a module of one argument, as `update_bn` calls it."""

    def __init__(self, network: SegmentationNetwork) -> None:
        super().__init__()
        self.classifier = network.classifier

    def forward(self, levels: Sequence[Tensor]) -> Tensor:
        """Logits (B, C, h, w) of features of each level."""
        logits: Tensor = self.classifier(*levels)
        return logits


def make_run(
    network: SegmentationNetwork,
    optimizer: Optimizers,
    class_weights: Tensor,
    settings: Settings,
    budget_s: float = 0.0,
) -> Run:
    """A run of the network's head alone, by its optimizer: of MOST_STEPS or as long as the budget lasts, in seconds (0: none)."""
    device = next(network.parameters()).device
    return Run(network, optimizer, device, MOST_STEPS, 1, budget_s, settings.train_seed, class_weights.to(device))


def train_head(run: Run, features: Features | SomeFeatures, bfloat16: bool) -> Iterator[float]:
    """Take the head's optimizer through random batches of features; gives the loss of each step.

    Raises:
        TrainingError: the loss is not finite.
    """
    rng = np.random.default_rng(run.seed)
    head = run.network.classifier.train()
    order: list[int] = []
    while (done := min(run.done, run.step / LEAST_STEPS) if run.step < LEAST_STEPS else run.done) < 1:
        for group in run.optimizer.param_groups:
            group["lr"] = learning_rate(group["base_lr"], done)
        while len(order) < BATCH:
            order += rng.permutation(features.count).tolist()
        chosen, order = order[:BATCH], order[BATCH:]
        levels, target = features.batch(chosen)
        with torch.autocast(run.device.type, torch.bfloat16, enabled=bfloat16):
            logits = head(*levels)
        loss = criterion(logits, target, run.class_weights)
        value = loss.item()
        if not value < float("inf"):
            raise TrainingError(f"the loss is {value} after {run.step} steps: lower train_lr")
        run.optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        run.optimizer.step()
        run.step += 1
        yield value


def finish_head(run: Run, features: Features, views: int) -> None:
    """Make a trained head ready to be served, by the first `views` views: as `segloop.training.finishing.finish`."""
    estimate_head_statistics(run.network, features, views)
    head = Head(run.network)
    batches = (features.batch(range(begin, min(begin + BATCH, views))) for begin in range(0, views, BATCH))
    with torch.inference_mode():
        match_areas(head, ((head(levels), target) for levels, target in batches), AREA_SHARE)


def estimate_head_statistics(network: SegmentationNetwork, features: Features | SomeFeatures, views: int) -> None:
    """Replace the running averages of the head's batch normalisation by plain means over the first `views` views.

    Leaves the network in evaluation mode.
    """
    places = [place % views for place in range(-(-views // BATCH) * BATCH)]
    batches = (features.batch(places[begin : begin + BATCH])[:1] for begin in range(0, len(places), BATCH))
    update_bn(batches, Head(network))
    network.eval()
