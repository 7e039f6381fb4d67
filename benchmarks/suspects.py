"""How many of the suspected labels are wrong indeed: `python -m benchmarks.suspects`.

A share of CamVid's masks (5 %) is damaged in five known ways in turns: a piece's class swapped, a piece missing, a piece
added, the whole mask shifted, the mask of another image. Then suspects are looked for as segloop does after a training,
and it is counted how many of the first 20, 50 and 100 are damage (precision; at least half of a piece's pixels), and how many
of the damaged masks they point to (recall). What CamVid's own annotators did wrong counts as a false alarm.

`--judge held-out` damages the masks of a drive that the network of `--bundle` was not trained on; `--judge folds`
those of the other drives, which heads of folds judge; with `--minutes` a network is first trained on these damaged masks,
as segloop's worker does, else the folds read the backbone of `--bundle`. `--scenes N` takes N drawn scenes instead of
CamVid, and without `--bundle` a network with random weights.

Beside segloop's there are, from the same probabilities and in the same run: images by segloop's soft minimum, images by
cleanlab's (`cleanlab.segmentation`, in an environment of the benchmark's own, left out where it cannot be installed), and the
pieces of cleanlab's pixels, ordered as segloop orders its own, as cleanlab makes none.

Prints a JSON line for each of them, the mean over `--seeds`.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.camvid import FOLDER, SPLITS
from benchmarks.damage import KINDS, UInt8, damage_masks
from benchmarks.runs import shuffled, train, without_groups, write_run, write_snapshot
from demo.data import DemoData, from_folder
from demo.programs import ProgramFailed, cache_folder, installed
from demo.scenes import write_scenes
from segloop.dataset import Item, load_manifest
from segloop.formats import IGNORED
from segloop.masks import label_pieces
from segloop.network.network import build_network, save_bundle
from segloop.network.transforms import Float32, resize_mask
from segloop.settings import Settings
from segloop.suspects.confident import LEAST_SHARE, PieceOfPixels, ranked
from segloop.training.adaptation import MOST_STEPS
from segloop.training.evaluation import Network
from segloop.training.examples import read_example
from segloop.training.folds import FoldInputs, fold_logits
from segloop.training.suspects import Panel, SeenImage, room_in, worst
from segloop.versions import Metrics, VersionInfo, read_version

REQUIREMENTS = Path(__file__).with_name("requirements-cleanlab.txt")
AT = (20, 50, 100)
#: A piece is damage if so much of it is.
HIT = 0.5
#: cleanlab is given every so manieth pixel, and pieces of its issues that have segloop's least size.
STEP = 4

Order = list[tuple[int, bool]]
"""Suspects in their order: the place of the image of each, and whether it is damage."""


@dataclass(frozen=True)
class Truth:
    """What is known of the judged images: damaged and true class maps at the judged size, and how each is damaged."""

    labels: list[UInt8]
    changed: list[NDArray[np.bool_]]
    how: dict[int, str]


def main(arguments: Sequence[str] | None = None) -> int:
    """Damage, judge, count, and print the JSON lines."""
    given = parse(arguments)
    torch.set_num_threads(given.threads)
    cv2.setNumThreads(given.threads)
    with tempfile.TemporaryDirectory(prefix="segloop-suspects-") as name:
        folder = Path(name)
        if given.scenes:
            write_scenes(folder / "scenes", train=given.scenes, val=4, size=(160, 120))
            data = replace(from_folder(folder / "scenes", 10**6, 10**6), unlabelled="background")
        elif (given.data / "train" / "images").is_dir():
            data = from_folder(given.data, 10**6, 10**6)
            others, held_out = without_groups(data.train, SPLITS[given.split])
            data = replace(data, train=held_out if given.judge == "held-out" else others)
        else:
            print(f"There are no photos in {given.data}: nothing is measured.", file=sys.stderr)
            return 0
        data = replace(data, train=shuffled(data.train, given.most, 0), val=data.val[:1])
        Benchmark(folder, data, given).run()
    return 0


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """What is asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=FOLDER, help="folder with train and val, each images and masks")
    parser.add_argument("--split", default="dusk", choices=SPLITS, help="CamVid's drive that is held out")
    parser.add_argument("--scenes", type=int, default=0, help="so many drawn scenes in the place of --data")
    parser.add_argument("--judge", choices=("held-out", "folds"), default="held-out")
    parser.add_argument("--bundle", type=Path, help="a network that was trained without the drive held out")
    parser.add_argument("--minutes", type=float, help="with folds: train on the damaged masks first, so long")
    parser.add_argument("--budget-s", type=float, default=120.0, help="seconds that the folds may take")
    parser.add_argument("--steps", type=int, default=MOST_STEPS, help="of each head of a fold, at most")
    parser.add_argument("--share", type=float, default=0.05, help="of the masks that are damaged")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0], help="of the damage")
    parser.add_argument("--most", type=int, default=10**6, help="images, at most")
    parser.add_argument("--input-size", type=int, default=320, help="of networks that are trained or made here")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--no-cleanlab", action="store_true", help="leave cleanlab out")
    given = parser.parse_args(arguments)
    if given.judge == "held-out" and given.bundle is None:
        parser.error("a held-out drive is judged by a network: name one by --bundle")
    return given


class Benchmark:
    """The damage of each seed, and what every method makes of it."""

    def __init__(self, folder: Path, data: DemoData, given: argparse.Namespace) -> None:
        self._folder, self._data, self._given = folder, data, given
        self._clean = write_snapshot(folder / "clean", data)
        self._items = self._clean.part("train")
        self._truths = [read_example(folder / "clean", item)[1] for item in self._items]
        self._logits: list[Float32] = []
        self._cleanlab = None if given.no_cleanlab else cleanlab_python()

    def run(self) -> None:
        """Print the means over the seeds."""
        rows: dict[str, list[dict[str, float]]] = {}
        kinds: dict[str, list[float]] = {}
        for seed in self._given.seeds:
            began = time.perf_counter()
            damaged, how = damage_masks(self._truths, self._given.share, seed)
            with tempfile.TemporaryDirectory(dir=self._folder) as name:
                panel, judged, place = self._judge(Path(name), damaged, seed)
                seen = panel.look(held_out=self._given.judge == "held-out")
                truth = self._truth(seen, place, damaged, how)
                orders = {"segloop": pieces_order(seen, truth), "segloop, images": images_order(seen, truth)}
                if self._cleanlab is not None:
                    orders |= cleanlab_orders(self._cleanlab, panel, seen, truth, Path(name))
            for method, order in orders.items():
                rows.setdefault(method, []).append(counted(order, truth))
            found = {image for image, is_damage in orders["segloop"][: AT[-1]] if is_damage}
            for image, kind in truth.how.items():
                kinds.setdefault(kind, []).append(float(image in found))
            print(f"seed {seed}: {judged} images, {time.perf_counter() - began:.0f} s", file=sys.stderr, flush=True)
        facts = {"judge": self._given.judge, "images": judged, "damaged": len(how), "seeds": len(self._given.seeds)}
        for method, figures in rows.items():
            means = {name: round(float(np.mean([one[name] for one in figures])), 3) for name in figures[0]}
            print(json.dumps({"benchmark": "suspects", "method": method, **facts, **means}), flush=True)
        by_kind = {kind: round(float(np.mean(kinds[kind])), 3) for kind in KINDS if kind in kinds}
        print(
            json.dumps(
                {"benchmark": "suspects", "method": f"segloop, recall at {AT[-1]} by damage", **facts, **by_kind}
            )
        )

    def _judge(self, folder: Path, damaged: list[UInt8], seed: int) -> tuple[Panel, int, dict[int, int]]:
        """The damaged masks as a network judges them that never saw them; how many; and the place of each task."""
        place = {item.task: number for number, item in enumerate(self._items)}
        panel = Panel(room_in(folder), len(self._data.classes) + 1)
        if self._given.judge == "held-out":
            network = Network.load(self._given.bundle, torch.device("cpu"))
            if not self._logits:
                self._logits = [network.logits(read_example(self._folder / "clean", item)[0]) for item in self._items]
            for item, mask, logits in zip(self._items, damaged, self._logits, strict=True):
                panel.hear(item, mask, logits)
            panel.calibrate(network.temperature)
            return panel, len(panel), place
        for item, logits, temperature in self._fold(folder, damaged, seed):
            panel.hear(item, damaged[place[item.task]], logits)
            panel.calibrate(temperature)
        return panel, len(panel), place

    def _fold(self, folder: Path, damaged: list[UInt8], seed: int) -> Iterator[tuple[Item, Float32, float]]:
        data = self._with_masks(folder / "masks", damaged)
        given = self._given
        bundle = given.bundle or self._random_bundle(folder / "random")
        if given.minutes:
            base = write_run(
                folder / "run",
                data,
                arch="fpn_resnet50",
                weights="none",
                input_size=given.input_size,
                train_minutes=given.minutes,
                train_epochs=1000,
                train_seed=seed,
            )
            train(base)
            bundle, snapshot = base / "model", base / "input" / "data" / "snapshot"
        else:
            snapshot = folder / "snapshot"
            write_snapshot(snapshot, data)
        network = Network.load(bundle, torch.device("cpu"))
        items = load_manifest(snapshot).part("train")
        settings = Settings(train_seed=seed, device="cpu")
        inputs = FoldInputs(read_version(bundle), network, snapshot, items, settings, given.budget_s, given.steps)
        for fold in fold_logits(inputs):
            yield from ((item, logits, fold.temperature) for item, logits in zip(fold.items, fold.logits, strict=True))

    def _with_masks(self, folder: Path, masks: Sequence[UInt8]) -> DemoData:
        """The data with other masks, class maps as a snapshot has them, to train on."""
        folder.mkdir()
        examples = []
        for number, (example, mask) in enumerate(zip(self._data.train, masks, strict=True)):
            path = folder / f"{number}.png"
            indices = np.where((mask == 0) | (mask == IGNORED), IGNORED, mask - 1)
            cv2.imwrite(str(path), indices.astype(np.uint8))
            examples.append(replace(example, mask=path))
        return replace(self._data, train=tuple(examples))

    def _random_bundle(self, folder: Path) -> Path:
        torch.manual_seed(0)
        info = VersionInfo(
            created_at="2026-11-22T00:00:00+00:00",
            arch="fpn_resnet50",
            output_stride=4,
            input_size=self._given.input_size,
            classes=self._data.classes,
            snapshot=self._clean.hash,
            metrics=Metrics(),
        )
        save_bundle(folder, build_network(info.arch, len(info.classes) + 1, info.output_stride), info)
        return folder

    def _truth(
        self, seen: Sequence[SeenImage], place: dict[int, int], damaged: list[UInt8], how: dict[int, str]
    ) -> Truth:
        """What is known of the images that were judged, by their places among those."""
        places = [place[one.item.task] for one in seen]
        changed = [
            resize_mask((damaged[number] != self._truths[number]).astype(np.uint8), *one.heard.labels.shape) > 0
            for number, one in zip(places, seen, strict=True)
        ]
        known = {row: how[number] for row, number in enumerate(places) if number in how}
        return Truth([one.heard.labels for one in seen], changed, known)


def pieces_order(seen: Sequence[SeenImage], truth: Truth) -> Order:
    """The suspects as a version lists them."""
    place = {one.item.task: number for number, one in enumerate(seen)}
    found = [(piece, place[one.item.task]) for one in worst(seen) for piece in one.pieces]
    found.sort(key=lambda one: -one[0].score)
    return [(image, is_hit(piece, truth.changed[image])) for piece, image in found]


def is_hit(piece: PieceOfPixels, changed: NDArray[np.bool_]) -> bool:
    """Whether a piece is damage."""
    left, top, across, down = piece.box
    return bool(changed[top : top + down, left : left + across][piece.pixels].mean() >= HIT)


def images_order(seen: Sequence[SeenImage], truth: Truth) -> Order:
    """The images, those of the worst quality first."""
    order = np.argsort([one.quality for one in seen], kind="stable")
    return [(int(image), int(image) in truth.how) for image in order]


def counted(order: Order, truth: Truth) -> dict[str, float]:
    """Precision and recall of the first suspects."""
    figures = {}
    for at in AT:
        first = order[:at]
        hits = [image for image, is_damage in first if is_damage]
        figures[f"precision at {at}"] = len(hits) / at
        figures[f"recall at {at}"] = len({*hits} & truth.how.keys()) / max(len(truth.how), 1)
    return figures


def cleanlab_python() -> Path | None:
    """The python that has cleanlab; None where it cannot be installed."""
    try:
        return installed(cache_folder("cleanlab"), REQUIREMENTS) / "bin" / "python"
    except ProgramFailed as error:
        print(f"cleanlab is left out, because it cannot be installed: {' '.join(str(error).split())}", file=sys.stderr)
        return None


def cleanlab_orders(
    python: Path, panel: Panel, seen: Sequence[SeenImage], truth: Truth, folder: Path
) -> dict[str, Order]:
    """Images and pieces as cleanlab finds them in the same probabilities. It knows no ignored pixels: there it is given
    the label that the network sees."""
    images, issues = run_cleanlab(python, (one.probabilities() for one in panel.heard), truth.labels, folder)
    order = [(int(image), int(image) in truth.how) for image in np.argsort(images, kind="stable")]
    found = []
    for image, one in enumerate(panel.heard):
        pieces = ranked(pieces_of(issues[image], one.probabilities(), truth.labels[image]))
        found += [(piece, image) for piece in pieces]
    found.sort(key=lambda one: -one[0].score)
    return {
        "cleanlab, images": order,
        "cleanlab, pieces of its pixels": [(image, is_hit(piece, truth.changed[image])) for piece, image in found],
    }


def run_cleanlab(
    python: Path, probabilities: Iterable[Float32], labels: Sequence[UInt8], folder: Path
) -> tuple[NDArray[np.float64], list[NDArray[np.bool_]]]:
    """The quality of each image (N,), and bool (H, W) of each image's issues, by cleanlab."""
    small = np.stack([one[:, ::STEP, ::STEP] for one in probabilities]).astype(np.float32)
    given = np.stack([one[::STEP, ::STEP] for one in labels])
    present = np.flatnonzero([(given == channel).any() for channel in range(small.shape[1])])
    small = small[:, present] / small[:, present].sum(axis=1, keepdims=True)
    known = np.full(256, -1)
    known[present] = np.arange(len(present))
    numbers = np.where(given == IGNORED, small.argmax(axis=1), known[given])
    np.savez(folder / "in.npz", labels=numbers, probabilities=small)
    script = Path(__file__).with_name("cleanlab_scores.py")
    subprocess.run([python, script, folder / "in.npz", folder / "out.npz"], check=True, stdout=subprocess.DEVNULL)
    with np.load(folder / "out.npz") as found:
        images, issues = found["images"], found["issues"]
    whole = [resize_mask(issue.astype(np.uint8), *one.shape) > 0 for issue, one in zip(issues, labels, strict=True)]
    return images, whole


def pieces_of(issues: NDArray[np.bool_], probabilities: Float32, labels: UInt8) -> list[PieceOfPixels]:
    """The connected pieces of an image's issues, with the margin of the class that wins there over the label."""
    issues = issues & (labels != IGNORED)
    _, numbers, stats = label_pieces(issues)
    own = np.take_along_axis(probabilities, np.minimum(labels, len(probabilities) - 1)[None].astype(int), 0)[0]
    gap = probabilities.max(axis=0) - own
    found = []
    for number in np.flatnonzero(stats[1:, 4] >= LEAST_SHARE * labels.size) + 1:
        left, top, across, down = (int(side) for side in stats[number, :4])
        place = np.s_[top : top + down, left : left + across]
        pixels = numbers[place] == number
        area = int(stats[number, 4]) / labels.size
        found.append(PieceOfPixels(0, 0, (left, top, across, down), pixels, area, float(gap[place][pixels].mean())))
    return found


if __name__ == "__main__":
    sys.exit(main())
