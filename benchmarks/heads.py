"""Small networks of known worth, and what each makes of held-out images: what `benchmarks.gate` draws its trials from.

Each network is a head of two hidden layers on features that need no backbone: colour, texture and place. A lineage of
them is trained as a project goes: on a few images, then on from there with more. The images are drawn scenes of four
common classes and two rare ones, dark, blurred and noisy to different degrees; or CamVid's, with a drive held out.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from demo.data import Example, from_folder
from demo.scenes import NO_LABEL, Place, draw_scene
from segloop.formats import IGNORED

#: In what share of the drawn scenes a class may be: some have no car, most no sign.
SHARES = {"Sky": 1.0, "Road": 1.0, "Building": 1.0, "Tree": 1.0, "Car": 0.4, "Sign": 0.3}
WIDTH, HEIGHT = 240, 180
#: Places in an image at which features are computed and classes compared, rows and columns.
GRID = (45, 60)
#: Images to train on, and to hold out: the truth about a network is what it is worth on all of these.
TRAINED, HELD_OUT = 150, 500
#: How many images each network of a lineage has learnt from.
LABELLED = (8, 14, 20, 30, 45, 70)
FIRST_STEPS, STEPS, BATCH = 250, 120, 2048
#: CamVid's drive that is trained on; the others are held out.
TRAINED_DRIVE = "0016E5"

Image = NDArray[np.uint8]


@dataclass(frozen=True)
class Pixels:
    """Features float32 (N, P, F) of images at P places, and their classes int64 (N, P): 0 for none, or IGNORED."""

    features: Tensor
    truth: Tensor


def scenes() -> tuple[Pixels, Pixels, tuple[str, ...]]:
    """Drawn scenes to train on and to hold out, and their classes."""
    train, held_out = (
        pixels_of(draw(np.random.default_rng((part, index))) for index in range(count))
        for part, count in enumerate((TRAINED, HELD_OUT))
    )
    return train, held_out, tuple(SHARES)


def camvid(folder: Path) -> tuple[Pixels, Pixels, tuple[str, ...]]:
    """CamVid's images to train on (one drive) and to hold out (the others), and their classes."""
    data = from_folder(folder, train=10**6, val=10**6)

    def read(example: Example) -> tuple[Image, Image]:
        image = example.pixels()
        truth = example.truth(len(data.classes))
        small = cv2.resize(image, (WIDTH, HEIGHT), interpolation=cv2.INTER_AREA)
        return np.asarray(small, np.uint8), np.where(truth > 0, truth, IGNORED).astype(np.uint8)

    examples = (*data.train, *data.val)
    train, held_out = (
        pixels_of(read(one) for one in examples if one.image.name.startswith(TRAINED_DRIVE) is trained)
        for trained in (True, False)
    )
    return train, held_out, data.classes


def draw(rng: np.random.Generator) -> tuple[Image, Image]:
    """A scene RGB uint8 (HEIGHT, WIDTH, 3) and its classes uint8: 0 for none, i + 1 for the i-th of SHARES."""
    classes = [name if rng.random() < share else "" for name, share in SHARES.items()]
    image, mask = draw_scene(rng, WIDTH, HEIGHT, Place.of(int(rng.integers(2**32))), classes)
    return spoil(image.astype(np.float32), rng), np.where(mask == NO_LABEL, 0, mask + 1).astype(np.uint8)


def spoil(image: NDArray[np.float32], rng: np.random.Generator) -> Image:
    """An image as a worse camera or a later hour would have it; most are spoilt a little, some a lot."""
    how = rng.beta(1, 2.5)
    mean = image.mean((0, 1))
    dim = (mean + (image - mean) * (1 - 0.75 * how)) * (1 - 0.6 * how * rng.random())
    noise = rng.normal(0, 4 + 25 * how * rng.random(), image.shape)
    return np.clip(cv2.GaussianBlur(dim, (0, 0), 0.3 + 2 * how) + noise, 0, 255).astype(np.uint8)


def pixels_of(examples: Iterator[tuple[Image, Image]]) -> Pixels:
    """Features and classes of images RGB uint8 (H, W, 3) with classes uint8 of any size."""
    features, truths = [], []
    for image, truth in examples:
        features.append(features_of(image).reshape(GRID[0] * GRID[1], -1))
        truths.append(cv2.resize(truth, GRID[::-1], interpolation=cv2.INTER_NEAREST).ravel())
    return Pixels(torch.from_numpy(np.stack(features)), torch.from_numpy(np.stack(truths)).long())


def features_of(image: Image) -> NDArray[np.float32]:
    """Colours at three scales, edges and contrast at two, and the place: float32 (GRID, F)."""

    def shrunk(plane: NDArray[np.float32]) -> NDArray[np.float32]:
        small = np.asarray(cv2.resize(plane, GRID[::-1], interpolation=cv2.INTER_AREA), np.float32)
        return small.reshape(*GRID, -1)

    colours = image.astype(np.float32) / 255
    grey = cv2.cvtColor(colours, cv2.COLOR_RGB2GRAY)
    edges = np.stack([cv2.Sobel(grey, -1, 1, 0) ** 2, cv2.Sobel(grey, -1, 0, 1) ** 2], -1)
    planes = [shrunk(colours), *(shrunk(cv2.GaussianBlur(colours, (0, 0), scale)) for scale in (4, 15))]
    for scale in (2, 6):
        variance = cv2.GaussianBlur(grey**2, (0, 0), scale) - cv2.GaussianBlur(grey, (0, 0), scale) ** 2
        planes += [shrunk(cv2.GaussianBlur(edges, (0, 0), scale) ** 0.5), shrunk(np.maximum(variance, 0) ** 0.5)]
    row, column = np.mgrid[0 : 1 : GRID[0] * 1j, 0 : 1 : GRID[1] * 1j].astype(np.float32)
    whole = np.broadcast_to(planes[0].mean((0, 1)), (*GRID, 3))
    return np.concatenate([*planes, np.stack([row, column, row**2], -1), whole], -1).astype(np.float32)


def confusions(train: Pixels, held_out: Pixels, classes: int, lineages: int) -> NDArray[np.int64]:
    """Confusion matrices int64 (networks, held-out images, C, C) of all networks of some lineages."""
    mean, deviation = train.features.mean((0, 1)), train.features.std((0, 1)) + 1e-6
    train, held_out = (Pixels((part.features - mean) / deviation, part.truth) for part in (train, held_out))
    found = []
    for lineage in range(lineages):
        torch.manual_seed(lineage)
        rng = np.random.default_rng(lineage)
        order, width = rng.permutation(len(train.truth)), int(rng.choice((16, 32, 64)))
        network: nn.Module = nn.Sequential(
            nn.Linear(train.features.shape[-1], width),
            nn.ReLU(),
            nn.Linear(width, width),
            nn.ReLU(),
            nn.Linear(width, classes + 1),
        )
        for labelled in LABELLED:
            network = copy.deepcopy(network)
            learn(network, train, order[:labelled], rng)
            found.append(measure(network, held_out, classes + 1))
    return np.stack(found)


def learn(network: nn.Module, train: Pixels, images: NDArray[np.int64], rng: np.random.Generator) -> None:
    """Train a network on the pixels of some images; rare classes weigh more, as in segloop's own training."""
    features, truth = train.features[images].flatten(0, 1), train.truth[images].flatten()
    features, truth = features[truth != IGNORED], truth[truth != IGNORED]
    first = len(images) == LABELLED[0]
    rate, steps = (3e-3, FIRST_STEPS) if first else (1.5e-3, STEPS)
    channels = [*network.children()][-1].out_features
    weights = (len(truth) / (torch.bincount(truth, minlength=channels) + 1.0)).sqrt()
    optimizer = torch.optim.AdamW(network.parameters(), rate, weight_decay=1e-3)
    schedule = torch.optim.lr_scheduler.PolynomialLR(optimizer, steps, 0.9)
    for _ in range(steps):
        chosen = torch.from_numpy(rng.integers(len(truth), size=BATCH))
        loss = nn.functional.cross_entropy(network(features[chosen]), truth[chosen], weights)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()


@torch.inference_mode()
def measure(network: nn.Module, held_out: Pixels, channels: int) -> NDArray[np.int64]:
    """A confusion matrix for each held-out image, int64 (N, channels, channels)."""
    counts = np.zeros((len(held_out.truth), channels**2), np.int64)
    for row, features, truth in zip(counts, held_out.features, held_out.truth, strict=True):
        pairs = truth * channels + network(features).argmax(-1)
        row += torch.bincount(pairs[truth != IGNORED], minlength=channels**2).numpy()
    return counts.reshape(-1, channels, channels)
