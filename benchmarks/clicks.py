"""What clicks are worth on a drive that the network has not seen: `python -m benchmarks.clicks --bundle NAME=FOLDER ...`.

Bundles come from `python -m benchmarks.camvid --split dusk --keep FOLDER` (FOLDER/dusk/seed-0/fpn_resnet50/305-cold/model, ...).
Each truth piece of at least 200 pixels of drive 0001TP is clicked at: the first click in its middle, each further one at the
centre of the largest error, up to 20. Prints a JSON line for each network and method: the mean IoU after 1, 2, 3, 5, 10 and 20
clicks, the mean number of clicks to an IoU of 0.80, 0.85 and 0.90 (20 where never), the largest fall of the mean IoU from one
click to the next, IoU after 5 clicks by class and by size of the piece, and the time of a click.

Beside segloop's tool, with the same clicks: what it was before (pieces of the class map); the tool with a network that sees
nothing, which is left with the picture; OpenCV's GrabCut; scikit-image's random walker; and geodesic distances alone. Times are
those of one thread of this process, the network's left out.

With `--guided STEPS`, NAME is the number of images that the bundle was trained on, and `guided` is the tool with a head that was
trained on the network's own images (150 of them at most), as a full retrain does it; the CPU time of that is printed.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.camvid import FOLDER
from benchmarks.clicks_peers import before, geodesic, grab_cut, random_walk, without_network
from benchmarks.runs import shuffled, without_groups
from demo.data import Example, from_folder
from segloop.formats import IGNORED
from segloop.network.transforms import class_map_of, probability_grid
from segloop.results.clicks import next_mask
from segloop.results.views import Asked, Mask, Place, Sight
from segloop.training.clicking import Method, clicked, pieces
from segloop.training.evaluation import Network
from segloop.training.examples import evenly
from segloop.training.guided import train_guided
from segloop.training.guided_export import MOST_IMAGES, exported, seen_of

DRIVE, LEAST_PX, MOST_CLICKS = "0001TP", 200, 20
AFTER, THRESHOLDS = (1, 2, 3, 5, 10, 20), (0.80, 0.85, 0.90)
#: Areas, in pixels, that part small, middling and large pieces.
SIZES = (1000, 5000)


def main() -> int:
    """Measure, and print the JSON lines."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--bundle", nargs="+", required=True, metavar="NAME=FOLDER", help="networks, by a name")
    parser.add_argument("--data", type=Path, default=FOLDER, help="folder with train and val, each images and masks")
    parser.add_argument("--drive", default=DRIVE, help="drive that no bundle was trained on")
    parser.add_argument("--every", type=int, default=1, help="measure on every n-th image of the drive")
    parser.add_argument("--first", type=int, default=0, help="number of the first of these images")
    parser.add_argument("--method", nargs="+", default=[*METHODS], choices=METHODS)
    parser.add_argument("--guided", type=int, default=0, metavar="STEPS", help="train a guided head for so many steps")
    parser.add_argument(
        "--seed", type=int, default=0, help="of the order of the images that the bundles were trained on"
    )
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
        methods = {method: METHODS[method] for method in given.method}
        if given.guided:
            others, _ = without_groups(data.train, [given.drive])
            methods["guided"] = guided(network, shuffled(others, int(name), given.seed), given.guided)
        for method, answer in methods.items():
            line = {"benchmark": "clicks", "network": name, "method": method}
            print(json.dumps({**line, **measured(answer, seen, data.classes)}))
            sys.stdout.flush()
    return 0


def guided(network: Network, examples: Sequence[Example], steps: int) -> Method:
    """The smart tool of a version with a guided head, trained on these images as a retrain does it, and exported."""
    began, seen = time.process_time(), []
    for example in evenly(examples, MOST_IMAGES):
        truth = example.truth(len(network.classes))
        seen.append(seen_of(network, example.pixels(), np.where(truth == 0, IGNORED, truth).astype(np.uint8)))
    looked = time.process_time()
    trained = train_guided(seen, steps)
    if trained is None:
        raise SystemExit("The images have no piece that is large enough to be clicked at.")
    times = {"looking_s": round(looked - began, 1), "training_s": round(time.process_time() - looked, 1)}
    print(json.dumps({"benchmark": "clicks", "head": {"images": len(seen), "steps": steps, **times}}))
    with tempfile.TemporaryDirectory(prefix="segloop-guided-") as name:
        head = exported(trained, Path(name))

    def answer(sight: Sight, clicks: tuple[Place, ...], value: int, mask: Mask | None) -> Mask:
        return next_mask(sight, Asked(clicks, value=value), mask, head)

    return answer


def sight_of(network: Network, example: Example) -> Sight:
    """An image and what a network says of it, as it is served."""
    pixels = example.pixels()
    logits = network.logits(pixels)
    size = pixels.shape[:2]
    chances = probability_grid(logits, *size, network.temperature).astype(np.float16)
    return Sight(pixels, class_map_of(logits, *size), chances)


def measured(method: Method, seen: Sequence[tuple[Sight, NDArray[np.uint8]]], classes: Sequence[str]) -> dict[str, Any]:
    """What a method is worth, for a JSON line."""
    found, values, areas, times = [], [], [], []

    def timed(sight: Sight, clicks: tuple[Place, ...], value: int, mask: Mask | None) -> Mask:
        start = time.thread_time()
        answer = method(sight, clicks, value, mask)
        times.append(time.thread_time() - start)
        return answer

    for sight, truth in seen:
        for piece in pieces(truth, truth > 0, LEAST_PX):
            found.append(clicked(timed, sight, piece, MOST_CLICKS))
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


def segloop(sight: Sight, clicks: tuple[Place, ...], value: int, mask: Mask | None) -> Mask:
    """The smart tool of a version without a head of its own."""
    return next_mask(sight, Asked(clicks, value=value), mask)


METHODS: dict[str, Method] = {
    "segloop": segloop,
    "before": before,
    "without-network": without_network,
    "grabcut": grab_cut,
    "random-walker": random_walk,
    "geodesic": geodesic,
}

if __name__ == "__main__":
    sys.exit(main())
