"""What active learning saves: mIoU by number of labelled images, for each acquisition: `python -m benchmarks.acquisition`.

Annotators are simulated on CamVid, with whole drives held out as in benchmarks.camvid: `dusk` labels images of 0006R0
and 0016E5 and measures on 0001TP, `day` labels images of 0001TP and 0006R0 and measures on 0016E5. All begin with the
same few random images; then each acquisition picks the next ones, by a head that is trained on those so far, and the
numbers of labels double. The head is a small one, at stride 8, on the features of `benchmarks.stand_in`, which are
really pretrained.

Beside segloop's acquisitions there are `k-means` and `k-center`, which look at what the images are by the pooled
features and know nothing of the head (k-center begins with the labelled images), `k-means first`, which goes on as
entropy+diversity after the first batch, and `class entropy+diversity`, where the entropy is a sum over the predicted classes
of its mean in each.

Prints a JSON line for each simulation, and then for each acquisition the means over the seeds and the difference to random
order, with a 95 % interval over the seeds (Student's t); the interval says nothing of other drives. Takes a minute of
CPU time for a seed, so `make bench` leaves it out.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from scipy import stats
from scipy.cluster.vq import kmeans2
from torch import Tensor, nn

from benchmarks import stand_in
from benchmarks.camvid import FOLDER, SPLITS, THIN
from benchmarks.runs import without_groups
from demo.data import Example, from_folder
from demo.programs import ProgramFailed
from segloop.formats import IGNORED
from segloop.metrics import BoundaryScore, ConfusionMatrix
from segloop.metrics.uncertainty import certainty, embedding, k_center_greedy
from segloop.network.transforms import class_map_of, resize_mask
from worker.jobs.label_order import CANDIDATES

SEGLOOPS = ("confidence", "margin", "entropy", "entropy+diversity")
ACQUISITIONS = ("random", *SEGLOOPS, "class entropy+diversity", "k-means", "k-center", "k-means first")
LABELS = (5, 10, 20, 40, 80)
#: At most so many held-out images are measured, evenly spread, at this share of their size; outlines on one in OUTLINED.
HELD_OUT, MEASURED_SIZE, OUTLINED = 70, 0.5, 3
#: Principal components of the features at each stride.
COMPONENTS = 48
HIDDEN, STEPS, PIXELS, RATE = 64, 150, 512, 5e-3
FIGURES = ("mIoU", "thin IoU", "boundary F1")


@dataclass(frozen=True)
class Images:
    """What is known of N images.

    Attributes:
        features: float32 (N, h, w, F).
        pooled: unit vectors float32 (N, D).
        truth: class maps uint8 (N, H, W), i + 1 for class i and IGNORED where there is none.
    """

    features: Tensor
    pooled: np.ndarray
    truth: np.ndarray
    classes: tuple[str, ...]


@dataclass(frozen=True)
class Round:
    """What an acquisition knows as it picks `count` images: which are labelled, and the head that learnt from them."""

    pool: Images
    labelled: np.ndarray
    count: int
    head: nn.Module
    rng: np.random.Generator
    first: bool

    @property
    def rest(self) -> np.ndarray:
        """The images without a label."""
        return np.setdiff1d(np.arange(len(self.pool.truth)), self.labelled)


#: Trains a head on the images of a pool that are labelled (indices), by a seed.
Learner = Callable[[Images, np.ndarray, int], nn.Module]


def main() -> int:
    """Measure, and print the JSON lines."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=FOLDER, help="CamVid: train/ with images/ and masks/")
    parser.add_argument("--split", nargs="+", default=[*SPLITS], choices=SPLITS, help="the drives to hold out")
    parser.add_argument("--acquisitions", nargs="+", default=[*ACQUISITIONS], choices=ACQUISITIONS)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--labels", type=int, nargs="+", default=LABELS, help="numbers of labels, ascending")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    given = parser.parse_args()
    names = list(dict.fromkeys(["random", *given.acquisitions]))
    torch.set_num_threads(given.threads)
    if not (given.data / "train" / "images").is_dir():
        print(f"There are no photos in {given.data}: nothing is measured.", file=sys.stderr)
        return 0
    data = from_folder(given.data, 10**6, 10**6)
    try:
        layers = stand_in.features(data.train)
    except ProgramFailed as error:
        print(f"The network with published weights cannot be installed, nothing is measured: {error}", file=sys.stderr)
        return 0
    splits = {name: split_of(data.train, layers, SPLITS[name], data.classes) for name in given.split}
    curves: dict[tuple[str, str], list[np.ndarray]] = {}
    for seed in range(given.seeds):
        for split, (pool, held_out) in splits.items():
            for name, curve in simulate(names, (pool, held_out), given.labels, seed, learn_head):
                curves.setdefault((split, name), []).append(curve)
                miou, thin, f1 = np.round(curve.T, 4).tolist()
                line = {"labels": list(given.labels), "mIoU": miou, "thin IoU": thin, "boundary F1": f1[-1]}
                tell(split=split, acquisition=name, seed=seed, **line)
    for split in (*splits, *(["both"] if len(splits) > 1 else [])):
        for name in names:
            ours, theirs = (
                np.mean([curves[one, which] for one in (splits if split == "both" else [split])], axis=0)
                for which in (name, "random")
            )
            tell(split=split, acquisition=name, seeds=given.seeds, **summary(ours, theirs, given.labels))
    return 0


def split_of(
    examples: Sequence[Example], layers: Sequence[Tensor], groups: Sequence[str], classes: tuple[str, ...]
) -> tuple[Images, Images]:
    """The images to pick from, and those to measure on: some of the groups that are held out."""
    train, held_out = without_groups(examples, groups)
    held_out = held_out[:: -(-len(held_out) // HELD_OUT)]
    picked = [examples.index(one) for one in (*train, *held_out)]
    features, pooled = combined([layer[picked] for layer in layers], len(train))
    truth = np.stack([half_truth(examples[index], len(classes)) for index in picked])
    first, second = (
        Images(features[part].contiguous(), pooled[part], truth[part], classes)
        for part in (slice(len(train)), slice(len(train), None))
    )
    return first, second


def half_truth(example: Example, classes: int) -> np.ndarray:
    """The class map uint8 (H, W) of an example at MEASURED_SIZE."""
    truth = example.truth(classes)
    small = resize_mask(truth, *(round(side * MEASURED_SIZE) for side in truth.shape))
    return np.where(small == 0, IGNORED, small).astype(np.uint8)


def combined(layers: Sequence[Tensor], pool: int) -> tuple[Tensor, np.ndarray]:
    """Features float32 (N, h, w, F) of float16 (N, channels, h, w) at several strides, the finest first: of each at most
    COMPONENTS principal components, scaled to about the same variance; and the mean of the coarsest as a unit vector. All
    is relative to the first images, the pool."""
    size, found = layers[0].shape[2:], []
    for layer in layers:
        values = layer.float()
        sample = values[:pool].movedim(1, -1).flatten(0, 2)
        variance, axes = torch.linalg.eigh(torch.cov(sample[:: max(1, len(sample) // 20_000)].T))
        variance, axes = variance[-COMPONENTS:], axes[:, -COMPONENTS:]
        axes = axes / (variance + 0.02 * variance[-1]).sqrt()
        values = torch.einsum("nchw,ck->nkhw", values - sample.mean(0)[:, None, None], axes)
        found.append(nn.functional.interpolate(values, size, mode="bilinear").movedim(1, -1))
    pooled = layers[-1].float().mean((2, 3))
    pooled = (pooled - pooled[:pool].mean(0)) / (pooled[:pool].std(0) + 1e-3)
    return torch.cat(found, dim=-1), nn.functional.normalize(pooled).numpy()


def simulate(
    names: Sequence[str], images: tuple[Images, Images], labels: Sequence[int], seed: int, learn: Learner
) -> list[tuple[str, np.ndarray]]:
    """What each acquisition's head is worth after each number of labels, float64 (len(labels), len(FIGURES)), from images to
    label and images to measure on.

    Boundary F1 is measured at the last number alone, and NaN before.
    """
    pool, held_out = images
    start = np.random.default_rng(seed).permutation(len(pool.truth))[: labels[0]]
    first = learn(pool, start, seed)
    found = []
    for name in names:
        rng, labelled, head = np.random.default_rng(seed), start, first
        curve = [measure(head, held_out, outlines=len(labels) == 1)]
        for number in labels[1:]:
            known = Round(pool, labelled, number - len(labelled), head, rng, len(labelled) == len(start))
            labelled = np.concatenate([labelled, pick(name, known)])
            head = learn(pool, labelled, seed)
            curve.append(measure(head, held_out, outlines=number == labels[-1]))
        found.append((name, np.array(curve)))
    return found


def pick(name: str, known: Round) -> np.ndarray:
    """The next images to label."""
    rest, vectors = known.rest, known.pool.pooled
    if name == "random":
        return known.rng.permutation(rest)[: known.count]
    if name == "k-means" or (name == "k-means first" and known.first):
        return rest[nearest_to_means(vectors[rest], known.count, known.rng)]
    if name == "k-center":
        order = np.concatenate([known.labelled, rest])
        return order[k_center_greedy(vectors[order], known.count, range(len(known.labelled)))]
    # at stride 16: a look at every pixel costs as much as the training
    probabilities = known.head(known.pool.features[rest, ::2, ::2]).softmax(dim=-1).movedim(-1, 1).numpy()
    if name == "class entropy+diversity":
        scores = [-class_entropy(one) for one in probabilities]
    else:
        acquisition = "entropy+diversity" if name == "k-means first" else name
        scores = [certainty(one).score(acquisition) for one in probabilities]
    order = np.argsort(scores, kind="stable")
    if name not in ("confidence", "margin", "entropy"):
        order = order[: CANDIDATES * known.count]
        seen = np.stack([embedding(one) for one in probabilities[order]]).astype(np.float32)
        order = order[k_center_greedy(seen, known.count)]
    return rest[order[: known.count]]


def nearest_to_means(vectors: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """The rows of vectors float32 (N, D) that are nearest to the centres of `count` clusters; others in the place of those
    of empty ones."""
    centres, nearest = kmeans2(vectors.astype(np.float64), count, minit="++", rng=rng, missing="warn")
    order = np.argsort(np.square(vectors - centres[nearest]).sum(axis=1), kind="stable")
    _, firsts = np.unique(nearest[order], return_index=True)
    return np.concatenate([order[firsts], np.delete(order, firsts)])[:count]


def class_entropy(probabilities: np.ndarray) -> float:
    """The sum over classes of the mean entropy where they win, from probabilities float32 (C, h, w)."""
    entropy = -(probabilities * np.log(np.maximum(probabilities, 1e-12))).sum(axis=0).ravel()
    winners = probabilities.argmax(axis=0).ravel()
    pixels, total = np.bincount(winners), np.bincount(winners, entropy)
    return float((total / np.maximum(pixels, 1)).sum())


def learn_head(pool: Images, labelled: np.ndarray, seed: int) -> nn.Module:
    """A head of one hidden layer for features (..., F); rare classes weigh more, as in segloop's own training."""
    torch.manual_seed(seed)
    rows, columns, channels = pool.features.shape[1:]
    truth = np.stack([resize_mask(pool.truth[index], rows, columns) for index in labelled]).reshape(-1)
    places = torch.from_numpy(np.flatnonzero(truth != IGNORED))
    targets = torch.from_numpy(truth).long() - 1
    features = pool.features[labelled].reshape(-1, channels)
    counts = torch.bincount(targets[places], minlength=len(pool.classes)) + 1
    weights = (counts.sum() / counts).sqrt()
    head = nn.Sequential(nn.Linear(channels, HIDDEN), nn.ReLU(), nn.Dropout(0.2), nn.Linear(HIDDEN, len(pool.classes)))
    optimizer = torch.optim.AdamW(head.parameters(), RATE, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, total_steps=STEPS)
    for _ in range(STEPS):
        chosen = places[torch.randint(len(places), (PIXELS,))]
        loss = nn.functional.cross_entropy(head(features[chosen]), targets[chosen], weights)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return head.eval().requires_grad_(False)


def measure(head: nn.Module, images: Images, *, outlines: bool) -> tuple[float, float, float]:
    """FIGURES of a head on images; boundary F1 only with `outlines`, else NaN."""
    matrix, score = ConfusionMatrix(images.classes), BoundaryScore(images.classes)
    for place, (logits, truth) in enumerate(
        zip(head(images.features).movedim(-1, 1).numpy(), images.truth, strict=True)
    ):
        found = class_map_of(logits, *truth.shape) + 1
        matrix.update(truth, found)
        if outlines and place % OUTLINED == 0:
            score.update(truth, found)
    iou = matrix.summary(len(images.truth)).known_iou()
    thin = [value for name, value in iou.items() if name in THIN]
    f1 = [value for value in score.summary().values() if value is not None]
    return mean(list(iou.values())), mean(thin), mean(f1)


def mean(values: Sequence[float]) -> float:
    """The mean; NaN of nothing."""
    return float(np.mean(values)) if values else float("nan")


def summary(ours: np.ndarray, theirs: np.ndarray, labels: Sequence[int]) -> dict[str, object]:
    """What curves (seeds, numbers of labels, FIGURES) are worth, and how far they are ahead of others on the same seeds: each
    figure as the mean over the numbers after the first, boundary F1 at the last."""
    line: dict[str, object] = {
        "mIoU": {number: round(value, 4) for number, value in zip(labels, ours[..., 0].mean(axis=0), strict=True)}
    }
    for column, figure in enumerate(FIGURES):
        value, other = (
            curves[:, -1, column] if figure == "boundary F1" else curves[:, 1:, column].mean(axis=1)
            for curves in (ours, theirs)
        )
        gain, half = float((value - other).mean()), interval(value - other)
        line |= {
            f"mean {figure}": round(float(value.mean()), 4),
            f"{figure} to random": round(gain, 4),
            f"{figure} to random, 95 %": None if half is None else [round(gain - half, 4), round(gain + half, 4)],
        }
    return line


def interval(values: np.ndarray) -> float | None:
    """Half of the 95 % interval of a mean, by Student's t; None for a single value."""
    if len(values) < 2:
        return None
    return float(stats.t.ppf(0.975, len(values) - 1) * stats.sem(values))


def tell(**line: object) -> None:
    """Print one JSON line."""
    print(json.dumps({"benchmark": "acquisition", **line}), flush=True)


if __name__ == "__main__":
    sys.exit(main())
