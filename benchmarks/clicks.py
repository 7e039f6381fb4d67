"""What clicks are worth on a drive that the network has not seen: `python -m benchmarks.clicks --bundle NAME=FOLDER ...`.

Bundles come from `python -m benchmarks.camvid --split dusk --keep FOLDER` (FOLDER/dusk/seed-0/fpn_resnet50/305-cold/model, ...).
Each truth piece of at least 200 pixels of drive 0001TP is clicked at: the first click in its middle, each further one at the
centre of the largest error, up to 20. Prints a JSON line for each network and method: the mean IoU after 1, 2, 3, 5, 10 and 20
clicks, the mean number of clicks to an IoU of 0.80, 0.85 and 0.90 (20 where never), the largest fall of the mean IoU from one
click to the next, IoU after 5 clicks by class and by size of the piece, and the time of a click.

Beside segloop's tool, with the same clicks: what it was before (pieces of the class map); the tool with a network that sees
nothing, which is left with the picture; OpenCV's GrabCut; and scikit-image's random walker. Times are those of one thread of this process, the network's left out.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.camvid import FOLDER
from benchmarks.clicks_peers import before, grab_cut, random_walk, without_network
from demo.data import Example, from_folder
from segloop.masks import label_pieces
from segloop.network.transforms import class_map_of, probability_grid
from segloop.results.clicks import Asked, Place, Sight, next_mask
from segloop.training.evaluation import Network

Mask = NDArray[np.bool_]
#: What answers the clicks on an image; it is given the chosen label's class value and the mask of before.
Method = Callable[[Sight, tuple[Place, ...], int, Mask | None], Mask]

DRIVE, LEAST_PX, MOST_CLICKS = "0001TP", 200, 20
AFTER, THRESHOLDS = (1, 2, 3, 5, 10, 20), (0.80, 0.85, 0.90)
#: Areas, in pixels, that part small, middling and large pieces.
SIZES = (1000, 5000)


@dataclass(frozen=True)
class Piece:
    """A connected piece of the truth, bool (H, W), of a class value; `counted` leaves out pixels of no class."""

    value: int
    wanted: Mask
    counted: Mask

    def iou(self, mask: Mask) -> float:
        found = mask & self.counted
        return float((found & self.wanted).sum() / (found | self.wanted).sum())

    def next_click(self, mask: Mask) -> Place:
        """A click at the centre of the largest error."""
        missed, extra = _depth(self.wanted & ~mask), _depth(mask & ~self.wanted & self.counted)
        depth = missed if missed.max() >= extra.max() else extra
        row, column = np.unravel_index(int(depth.argmax()), depth.shape)
        return Place(int(row), int(column), depth is missed)


def main() -> int:
    """Measure, and print the JSON lines."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--bundle", nargs="+", required=True, metavar="NAME=FOLDER", help="networks, by a name")
    parser.add_argument("--data", type=Path, default=FOLDER, help="folder with train and val, each images and masks")
    parser.add_argument("--drive", default=DRIVE, help="drive that no bundle was trained on")
    parser.add_argument("--every", type=int, default=1, help="measure on every n-th image of the drive")
    parser.add_argument("--first", type=int, default=0, help="number of the first of these images")
    parser.add_argument("--method", nargs="+", default=[*METHODS], choices=METHODS)
    given = parser.parse_args()
    if not (given.data / "train" / "images").is_dir():
        print(f"There are no photos in {given.data}: nothing is measured.", file=sys.stderr)
        return 0
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    data = from_folder(given.data, 10**6, 10**6)
    examples = [one for one in data.train if one.group == given.drive][given.first :: given.every]
    for name, folder in (one.split("=", 1) for one in given.bundle):
        network = Network.load(Path(folder), torch.device("cpu"))
        seen = [(sight_of(network, example), example.truth(len(data.classes))) for example in examples]
        for method in given.method:
            print(
                json.dumps(
                    {
                        "benchmark": "clicks",
                        "network": name,
                        "method": method,
                        **measured(METHODS[method], seen, data.classes),
                    }
                )
            )
            sys.stdout.flush()
    return 0


def sight_of(network: Network, example: Example) -> Sight:
    """An image and what a network says of it, as it is served."""
    bgr = cv2.imread(str(example.image))
    pixels = np.ascontiguousarray(bgr[:, :, ::-1], np.uint8)
    logits = network.logits(pixels)
    size = pixels.shape[:2]
    chances = probability_grid(logits, *size, network.temperature).astype(np.float16)
    return Sight(pixels, class_map_of(logits, *size), chances)


def pieces(truth: NDArray[np.uint8]) -> Iterator[Piece]:
    """The pieces of a truth that are large enough."""
    for value in np.unique(truth[truth > 0]).tolist():
        count, numbers, stats = label_pieces(truth == value)
        for number in range(1, count + 1):
            if stats[number, 4] >= LEAST_PX:
                yield Piece(value, numbers == number, truth > 0)


def clicked(method: Method, sight: Sight, piece: Piece) -> list[float]:
    """The IoU after each click; one that is all but perfect stays."""
    clicks: tuple[Place, ...] = ()
    mask, found = None, []
    while len(found) < MOST_CLICKS:
        clicks = (*clicks, piece.next_click(np.zeros_like(piece.wanted) if mask is None else mask))
        mask = method(sight, clicks, piece.value, mask)
        found.append(piece.iou(mask))
        if found[-1] > 0.98:
            found += [found[-1]] * (MOST_CLICKS - len(found))
    return found


def measured(method: Method, seen: Sequence[tuple[Sight, NDArray[np.uint8]]], classes: Sequence[str]) -> dict[str, Any]:
    """What a method is worth, for a JSON line."""
    found, values, areas, times = [], [], [], []

    def timed(sight: Sight, clicks: tuple[Place, ...], value: int, mask: Mask | None) -> Mask:
        start = time.thread_time()
        answer = method(sight, clicks, value, mask)
        times.append(time.thread_time() - start)
        return answer

    for sight, truth in seen:
        for piece in pieces(truth):
            found.append(clicked(timed, sight, piece))
            values.append(piece.value)
            areas.append(int(piece.wanted.sum()))
    iou, value, area = np.array(found), np.array(values), np.digitize(areas, SIZES)
    reached = {
        str(least): np.where((iou >= least).any(1), (iou >= least).argmax(1) + 1, MOST_CLICKS) for least in THRESHOLDS
    }
    mean = iou.mean(axis=0)
    return {
        "pieces": len(iou),
        "iou_after": {str(count): round(float(mean[count - 1]), 4) for count in AFTER},
        "clicks_to": {least: round(float(clicks.mean()), 2) for least, clicks in reached.items()},
        "largest_fall": round(float(max(0.0, -np.diff(mean).min())), 4),
        "iou_after_5_by_class": {
            name: round(float(iou[value == n, 4].mean()), 4) for n, name in enumerate(classes, 1) if (value == n).any()
        },
        "iou_after_5_by_size": {
            name: round(float(iou[area == n, 4].mean()), 4)
            for n, name in enumerate(("small", "middling", "large"))
            if (area == n).any()
        },
        "click_ms": {
            "median": round(float(np.median(times)) * 1000, 1),
            "p95": round(float(np.percentile(times, 95)) * 1000, 1),
        },
    }


def _depth(mask: Mask) -> NDArray[np.float32]:
    padded = np.pad(mask.astype(np.uint8), 1)
    return np.asarray(cv2.distanceTransform(padded, cv2.DIST_L2, 5)[1:-1, 1:-1], np.float32)


def segloop(sight: Sight, clicks: tuple[Place, ...], value: int, mask: Mask | None) -> Mask:
    """The smart tool of a version without a head of its own."""
    return next_mask(sight, Asked(clicks, value=value), mask)


METHODS: dict[str, Method] = {
    "segloop": segloop,
    "before": before,
    "without-network": without_network,
    "grabcut": grab_cut,
    "random-walker": random_walk,
}

if __name__ == "__main__":
    sys.exit(main())
