"""What active learning saves: mIoU by number of labelled images, for each acquisition: `python -m benchmarks.acquisition`.

Annotators are simulated on CamVid. All begin with the same few random images; then each acquisition picks the next
ones, by a head that is trained on those so far, and the numbers of labels double. The head is a small one on features
that a backbone gives once. The backbone is trained first, for some minutes, on the sequences that are not picked from;
`--backbone` takes the bundle of another.

Takes about a quarter of an hour on 2 cores with what it does by default, so `make bench` leaves it out.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np
import torch
from scipy import stats
from torch import Tensor, nn

from benchmarks.runs import held_out, train, write_run
from demo.data import DemoData, Example, from_folder
from segloop.formats import IGNORED
from segloop.metrics import ConfusionMatrix
from segloop.metrics.uncertainty import Certainty, certainty, embedding, k_center_greedy
from segloop.network.network import load_bundle, pick_device
from segloop.network.transforms import (
    class_map_of,
    network_size,
    normalise,
    probability_grid,
    resize_image,
    resize_mask,
)
from segloop.settings import Settings
from worker.jobs.label_order import CANDIDATES

DATA = Path(__file__).resolve().parents[2] / "shared" / "data" / "camvid"
ACQUISITIONS = ("random", "confidence", "margin", "entropy", "entropy+diversity")
LABELS = (10, 20, 40, 80)
#: Sequences of the backbone, by how the names of their images begin; the others are the pool, and CamVid's val.
BACKBONE_SEQUENCES = ("0001TP", "0006R0")
INPUT_SIZE = 320
COMPONENTS = 64
HIDDEN, STEPS, BATCH, RATE = 64, 200, 8, 3e-3

#: Gives logits float32 (C, h, w) of features float32 (F, h, w).
Predict = Callable[[Tensor], np.ndarray]
#: Trains on the images of a pool that are labelled (indices), by a seed.
Learner = Callable[["Images", Sequence[int], int], Predict]


@dataclass(frozen=True)
class Images:
    """Features float32 (N, F, h, w), and class maps uint8 (N, H, W) with IGNORED where nothing is labelled."""

    features: Tensor
    truth: np.ndarray
    classes: tuple[str, ...]


def main() -> int:
    """Measure, and print one JSON line for each acquisition and number of labels."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=DATA, help="CamVid: train/ and val/ with images/ and masks/")
    parser.add_argument("--backbone", type=Path, help="a bundle; else one is trained now")
    parser.add_argument("--minutes", type=float, default=6.0, help="how long the backbone is trained")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--labels", type=int, nargs="+", default=LABELS, help="numbers of labels, ascending")
    given = parser.parse_args()
    if not (given.data / "train" / "images").is_dir():
        print(json.dumps({"benchmark": "acquisition", "skipped": f"CamVid is not in {given.data}: name it by --data"}))
        return 0
    data = from_folder(given.data, train=10**6, val=10**6)
    with backbone_at(given.backbone, data, given.minutes) as backbone:
        pool, val = features_of(backbone, (unseen(data.train), data.val), data.classes)
    curves = {name: np.empty((given.seeds, len(given.labels))) for name in ACQUISITIONS}
    for seed in range(given.seeds):
        start = np.random.default_rng(seed).permutation(len(pool.truth))[: given.labels[0]].tolist()
        first = learn_head(pool, start, seed)
        for name, curve in curves.items():
            curve[seed] = list(annotate(name, pool, val, given.labels, (start, first), seed, learn_head))
    report(curves, given.labels, len(pool.truth))
    return 0


def unseen(examples: Sequence[Example]) -> list[Example]:
    """The examples that a backbone trained here has not seen."""
    return [example for example in examples if not example.image.name.startswith(BACKBONE_SEQUENCES)]


@contextmanager
def backbone_at(folder: Path | None, data: DemoData, minutes: float) -> Iterator[Path]:
    """A bundle: the one given, or one trained now on BACKBONE_SEQUENCES and deleted afterwards."""
    if folder is not None:
        yield folder
        return
    with tempfile.TemporaryDirectory(prefix="segloop-backbone-") as made:
        seen = tuple(example for example in data.train if example.image.name.startswith(BACKBONE_SEQUENCES))
        split = replace(data, train=held_out(seen, 10)[0], val=held_out(seen, 10)[1])
        base = write_run(
            Path(made) / "run",
            split,
            input_size=INPUT_SIZE,
            output_stride=16,
            weights="none",
            train_epochs=1000,
            train_minutes=minutes,
        )
        train(base)
        yield base / "model"


def features_of(backbone: Path, parts: Sequence[Sequence[Example]], classes: tuple[str, ...]) -> list[Images]:
    """What a bundle's backbone gives for parts of the data, seen at INPUT_SIZE: its last two layers' features, each
    reduced to COMPONENTS principal components of the first part's and scaled to about the same variance."""
    device = pick_device(Settings())
    network = load_bundle(backbone)[0].backbone.eval().to(device, memory_format=torch.channels_last)
    layers: list[list[Tensor]] = [[], []]
    truths: list[np.ndarray] = []
    for example in (example for part in parts for example in part):
        image = cv2.cvtColor(cv2.imread(str(example.image)), cv2.COLOR_BGR2RGB)
        size = network_size(*image.shape[:2], INPUT_SIZE)
        pixels = torch.from_numpy(normalise(resize_image(image, *size)))[None].to(device)
        with torch.inference_mode():
            for found, layer in zip(network(pixels).values(), layers, strict=True):
                layer.append(found[0].permute(1, 2, 0).half().cpu())
        truth = example.truth(len(classes))
        truths.append(resize_mask(np.where(truth > 0, truth - 1, IGNORED).astype(np.uint8), *size))
    features = torch.cat([principal(torch.stack(layer), len(parts[0])) for layer in layers], dim=-1)
    ends = np.cumsum([len(part) for part in parts])
    return [
        Images(
            features[end - len(part) : end].permute(0, 3, 1, 2).contiguous(),
            np.stack(truths[end - len(part) : end]),
            classes,
        )
        for end, part in zip(ends, parts, strict=True)
    ]


def principal(features: Tensor, first: int) -> Tensor:
    """Principal components float32 (N, h, w, COMPONENTS) of features float16 (N, h, w, F), by some of the `first`."""
    torch.manual_seed(0)
    sample = features[: first : max(1, first // 32)].float().flatten(0, 2)
    mean = sample.mean(0)
    _, scale, axes = torch.svd_lowrank(sample - mean, COMPONENTS, niter=2)
    deviation = (scale + 0.02 * scale[0]) / len(sample) ** 0.5
    return torch.stack([(one.float() - mean) @ axes / deviation for one in features])


def annotate(
    acquisition: str,
    pool: Images,
    val: Images,
    labels: Sequence[int],
    start: tuple[Sequence[int], Predict],
    seed: int,
    learn: Learner,
) -> Iterator[float]:
    """The mIoU on `val` after each number of labels, from what is labelled at the start and the head that it gave."""
    rng = np.random.default_rng(seed)
    labelled, predict = [*start[0]], start[1]
    yield miou(predict, val)
    for number in labels[1:]:
        labelled += pick(acquisition, pool, labelled, number - len(labelled), predict, rng)
        predict = learn(pool, labelled, seed)
        yield miou(predict, val)


def pick(
    acquisition: str,
    pool: Images,
    labelled: Sequence[int],
    count: int,
    predict: Predict,
    rng: np.random.Generator,
) -> list[int]:
    """The next images to label."""
    rest = np.setdiff1d(np.arange(len(pool.truth)), labelled)
    if acquisition == "random":
        return [int(index) for index in rng.permutation(rest)[:count]]
    sure, vectors = look(pool, rest, predict)
    order = np.argsort([one.score(acquisition) for one in sure], kind="stable")
    if acquisition == "entropy+diversity":
        order = order[: CANDIDATES * count]
        order = order[k_center_greedy(vectors[order], count)]
    return [int(index) for index in rest[order[:count]]]


def look(pool: Images, indices: Sequence[int], predict: Predict) -> tuple[list[Certainty], np.ndarray]:
    """How sure the network is of some images, and their embeddings float32 (N, D), as segloop computes them."""
    grids = [probability_grid(predict(pool.features[index]), *pool.truth.shape[1:]) for index in indices]
    return [certainty(grid) for grid in grids], np.stack([embedding(grid) for grid in grids]).astype(np.float32)


def learn_head(pool: Images, labelled: Sequence[int], seed: int) -> Predict:
    """A head of one hidden layer; rare classes weigh more, as in segloop's own training."""
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    channels, rows, columns = pool.features.shape[1:]
    classes = len(pool.classes)
    hidden = nn.Conv2d(channels, HIDDEN, 3, padding=1)
    head = nn.Sequential(hidden, nn.ReLU(), nn.Dropout2d(0.1), nn.Conv2d(HIDDEN, classes, 1))
    optimizer = torch.optim.AdamW(head.parameters(), RATE, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, total_steps=STEPS)
    size = (2 * rows, 2 * columns)
    targets = torch.from_numpy(np.stack([resize_mask(pool.truth[index], *size) for index in labelled])).long()
    counts = torch.bincount(targets[targets != IGNORED], minlength=classes) + 1
    weights = (counts.sum() / counts).sqrt()
    inputs = pool.features[list(labelled)]
    for _ in range(STEPS):
        chosen = rng.integers(len(labelled), size=BATCH)
        logits = nn.functional.interpolate(head(inputs[chosen]), size, mode="bilinear")
        loss = nn.functional.cross_entropy(logits, targets[chosen], weights, ignore_index=IGNORED)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    head.eval()

    def predict(features: Tensor) -> np.ndarray:
        with torch.inference_mode():
            logits: np.ndarray = head(features[None])[0].numpy()
        return logits

    return predict


def miou(predict: Predict, val: Images) -> float:
    """Mean IoU over the classes, of all images."""
    matrix = ConfusionMatrix(val.classes)
    for features, truth in zip(val.features, val.truth, strict=True):
        found = class_map_of(predict(features), *truth.shape)
        matrix.update(np.where(truth == IGNORED, IGNORED, truth + 1).astype(np.uint8), found + 1)
    return matrix.summary(len(val.truth)).miou or 0.0


def report(curves: dict[str, np.ndarray], labels: Sequence[int], pool: int) -> None:
    """Print the curves (seeds, numbers of labels), each with its difference from random on the same seeds."""
    facts = {"seeds": len(curves["random"]), "pool": pool}
    for name, curve in curves.items():
        for column, number in enumerate(labels):
            tell(
                f"mIoU at {number} labels, {name}",
                curve[:, column],
                curve[:, column] - curves["random"][:, column],
                facts,
            )
        after = slice(1, None)
        gain = (curve - curves["random"])[:, after].mean(axis=1)
        tell(f"mean mIoU after the first {labels[0]} labels, {name}", curve[:, after].mean(axis=1), gain, facts)


def tell(figure: str, values: np.ndarray, gains: np.ndarray, facts: dict[str, int]) -> None:
    """Print one figure: the mean of `values` and of `gains`, each with its 95 % interval."""
    line = {"benchmark": "acquisition", "figure": figure, "unit": "mIoU", "value": None}
    for name, numbers in (("value", values), ("against_random", gains)):
        half = interval(numbers)
        line[name] = round(float(numbers.mean()), 4)
        line[f"{name}_95"] = None if half is None else [round(line[name] - half, 4), round(line[name] + half, 4)]
    print(json.dumps({**line, **facts}), flush=True)


def interval(values: np.ndarray) -> float | None:
    """Half of the 95 % interval of a mean, by Student's t; None for a single value."""
    if len(values) < 2:
        return None
    return float(stats.t.ppf(0.975, len(values) - 1) * stats.sem(values))


if __name__ == "__main__":
    sys.exit(main())
