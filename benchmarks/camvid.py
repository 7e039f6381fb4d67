"""What labels buy on CamVid: `python -m benchmarks.camvid`.

mIoU on the 101 validation frames by the number of labelled training frames, from scratch (nothing is downloaded): full
retrains, each within the same wall-clock budget, cold (random weights) and warm (from the version before, as a project's
retrains are), and a quick adaptation of the version before. Each run is the training entry point in a process of its own.

Published networks trained from scratch reach 51 (ENet) to 60 (SegNet) on the test frames, after hours on a GPU;
`--minutes` says how long a run may take here, or `--steps` how many steps it makes, whatever else the machine does.
Without the data there is nothing to measure, and it says so.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks.runs import shuffled, train, write_run
from demo.data import DemoData, from_folder

#: Where the photos are looked for.
FOLDER = Path(__file__).resolve().parents[2] / "shared" / "data" / "camvid"
SIZES = (20, 50, 100, 200, 367)
MINUTES = 4.0
#: The photos' long side is 480 pixels.
INPUT_SIZE = 480


def main() -> int:
    """Train, and print one JSON line for each version."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=FOLDER, help="folder with train and val, each images and masks")
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES, help="numbers of labelled images")
    parser.add_argument("--minutes", type=float, default=MINUTES, help="wall-clock budget of each full retrain")
    parser.add_argument("--steps", type=int, help="steps of each full retrain, in the place of --minutes")
    parser.add_argument("--kinds", nargs="+", default=("cold", "warm", "quick"), choices=("cold", "warm", "quick"))
    parser.add_argument("--epochs", type=int, default=1000, help="passes over the images, if the budget allows")
    parser.add_argument("--input-size", type=int, default=INPUT_SIZE, help="long side of what the network sees")
    parser.add_argument("--batch-size", type=int, default=4)
    parser.add_argument("--seed", type=int, default=0, help="order of the images, and of training")
    parser.add_argument("--champion", type=Path, help="a bundle to begin with, in the place of the version before")
    parser.add_argument("--keep", type=Path, help="a new folder that the trained bundles stay in")
    given = parser.parse_args()
    if not (given.data / "train" / "images").is_dir():
        print(f"There are no photos in {given.data}: nothing is measured.", file=sys.stderr)
        return 0
    with tempfile.TemporaryDirectory(prefix="segloop-camvid-") as name:
        Curve(given.keep or Path(name), from_folder(given.data, 10**6, 10**6), given).run()
    return 0


class Curve:
    """The runs, one after the other."""

    def __init__(self, folder: Path, data: DemoData, given: argparse.Namespace) -> None:
        self._folder, self._data, self._given = folder, data, given
        self._before: Path | None = given.champion

    def run(self) -> None:
        """Each size with each kind; a kind that begins with a version waits for the first one."""
        for size in sorted({min(size, len(self._data.train)) for size in self._given.sizes}):
            made = {
                kind: self._train(size, kind)
                for kind in ("quick", "cold", "warm")
                if kind in self._given.kinds and (kind == "cold" or self._before is not None)
            }
            # what a project would serve: the retrain from the version before, once there is one
            self._before = next(made[kind] for kind in ("warm", "cold", "quick") if kind in made)

    def _train(self, size: int, kind: str) -> Path:
        given = self._given
        long = {"train_minutes": given.minutes, "train_epochs": given.epochs}
        if given.steps is not None:
            long = {"train_minutes": 24 * 60, "train_epochs": 1, "train_min_steps": given.steps}
        data = replace(self._data, train=shuffled(self._data.train, size, given.seed))
        base = write_run(
            self._folder / f"{size}-{kind}",
            data,
            None if kind == "cold" else self._before,
            recipe="quick" if kind == "quick" else "full",
            weights="none",
            input_size=given.input_size,
            **long,
            train_batch_size=given.batch_size,
            train_seed=given.seed,
        )
        info, seconds = train(base)
        tell(size, kind, info, seconds)
        return base / "model"


def tell(size: int, kind: str, info: dict[str, Any], seconds: float) -> None:
    """One JSON line of a version."""
    metrics, recipe = info["metrics"], info["recipe"]
    line = {
        "benchmark": "camvid",
        "figure": f"{size} labelled images, {kind}",
        "miou": round(metrics["miou"], 4),
        "pixel_accuracy": round(metrics["pixel_accuracy"], 4),
        "boundary_f1": round(metrics["boundary_f1"], 4),
        "calibration_error": round(metrics["calibration_error"], 4),
        "seconds": round(seconds, 1),
        "steps": recipe["steps"],
        "images_per_s": round(recipe["steps"] * recipe["batch_size"] / recipe["seconds"], 2),
        "iou": {name: None if iou is None else round(iou, 3) for name, iou in metrics["iou"].items()},
        "cores": len(os.sched_getaffinity(0)),
    }
    print(json.dumps(line), flush=True)


if __name__ == "__main__":
    sys.exit(main())
