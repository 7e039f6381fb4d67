"""What networks learn on CamVid, on drives that they have not seen: `python -m benchmarks.camvid`.

Whole drives are held out. `dusk` trains on the drives 0006R0 and 0016E5 and measures on 0001TP; `day` trains on 0001TP
and 0006R0 and measures on 0016E5. CamVid's `val`, 101 frames within seven seconds of 0016E5, is left out but for
`--with-val`: it would outweigh the drive's other frames, which are a second apart. Nothing is downloaded: networks begin
from random weights, or from `--champion`.

Each training is the product's own, in a process of its own, for the same minutes: a full retrain, cold (random weights)
or warm (from the version before, as a project's retrains are), or a quick adaptation of the version before. All of the
time is for training: what is held out is looked at once, afterwards. `--cpu-minutes` counts the CPU time of a training
with one thread, so that `--jobs` trainings side by side, and others, disturb each other little.

Prints a JSON line for each training, then for each network its means over the seeds and the differences to the first
network, each with a 95 % interval over seeds and held-out images. Published networks trained from scratch reach a mIoU
of 51 (ENet) to 60 (SegNet) on CamVid's test frames, after hours on a GPU. Without the data there is nothing to measure,
and it says so.

Any folder of the form of `demo.data.from_folder` will do (`--data`), where the names of files begin with a group and `_`:
`--hold-out` names the groups that are held out.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from benchmarks.held_out import Interval, Measured, Scores, differences, scores
from benchmarks.runs import ROOT, run_module, shuffled, without_groups, write_run, write_snapshot
from demo.data import DemoData, from_folder
from demo.programs import ProgramFailed, cache_folder, installed

#: Where the photos are looked for.
FOLDER = ROOT.parent / "shared" / "data" / "camvid"
#: The drives that are held out, by the split's name.
SPLITS = {"dusk": ("0001TP",), "day": ("0016E5",)}
KINDS = ("quick", "cold", "warm")
MINUTES = 6.0
INPUT_SIZE = 320
#: Classes of things a few pixels wide.
THIN = ("Pole", "SignSymbol", "Fence")
#: Networks of segmentation_models_pytorch.
PEERS = ("fpn", "unet")
REQUIREMENTS = Path(__file__).with_name("requirements-peers.txt")
MEASURED = "measured.npz"


@dataclass(frozen=True)
class Network:
    """What is trained: an `arch` of segloop with settings of its own, or a peer, by the python that has it."""

    name: str
    hyperparameters: dict[str, str]
    python: Path = Path(sys.executable)

    @classmethod
    def parse(cls, text: str) -> Network:
        """`ARCH` or `ARCH,SETTING=VALUE,...`.

        Raises:
            argparse.ArgumentTypeError: a part without `=`.
        """
        arch, *settings = text.split(",")
        if wrong := [one for one in settings if "=" not in one]:
            raise argparse.ArgumentTypeError(f"{wrong[0]!r} in {text!r} is no SETTING=VALUE")
        return cls(text, {"arch": arch, **dict(one.split("=", 1) for one in settings)})


@dataclass(frozen=True)
class Cell:
    """The trainings that differ in network and seed alone: a split, a number of labelled images, and how they began."""

    split: str
    size: int
    kind: str

    def __str__(self) -> str:
        return f"{self.split}, {self.size} labelled images, {self.kind}"


def main() -> int:
    """Train, and print the JSON lines."""
    given = parse()
    if not (given.data / "train" / "images").is_dir():
        print(f"There are no photos in {given.data}: nothing is measured.", file=sys.stderr)
        return 0
    splits = {name: split_of(given, groups) for name, groups in held_out_groups(given).items()}
    networks = [*given.arch, *(peers() if given.peers else ())]
    with tempfile.TemporaryDirectory(prefix="segloop-camvid-") as name:
        benchmark = Benchmark((given.keep or Path(name)).absolute(), splits, given)
        chains = [(split, seed, network) for split in splits for seed in given.seeds for network in networks]
        found: dict[Cell, dict[str, list[Measured]]] = {}
        with ThreadPoolExecutor(given.jobs) as pool:
            # in the order of the seeds, whichever was done first
            for (_, _, network), made in zip(
                chains, pool.map(lambda chain: benchmark.run(*chain), chains), strict=True
            ):
                for cell, measured in made.items():
                    found.setdefault(cell, {}).setdefault(network.name, []).append(measured)
    for cell, by_network in found.items():
        for line in summary(by_network, given.thin):
            tell(cell, **line)
    return 0


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """What is asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=FOLDER, help="folder with train and val, each images and masks")
    parser.add_argument("--split", nargs="+", default=[*SPLITS], choices=SPLITS, help="CamVid's drives to hold out")
    parser.add_argument("--hold-out", nargs="+", metavar="GROUP", help="groups to hold out, in the place of --split")
    parser.add_argument("--with-val", action="store_true", help="the images of val too (always with --hold-out)")
    parser.add_argument("--unlabelled", choices=("ignore", "background"), default="ignore", help="pixels of no class")
    parser.add_argument("--every", type=int, default=1, help="measure on every n-th held-out image")
    parser.add_argument("--thin", nargs="*", default=THIN, metavar="CLASS", help="classes that are told apart")
    parser.add_argument("--arch", type=Network.parse, nargs="+", default=[Network.parse("fpn_resnet50")])
    parser.add_argument("--peers", action="store_true", help="segmentation_models_pytorch's FPN and Unet too")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0], help="order of the images, and of training")
    parser.add_argument("--sizes", type=int, nargs="+", default=[10**6], help="numbers of labelled images; else all")
    parser.add_argument("--kinds", nargs="+", default=["cold"], choices=KINDS)
    parser.add_argument("--epochs", type=int, default=1000, help="passes over the images, if the time allows")
    parser.add_argument("--input-size", type=int, default=INPUT_SIZE, help="long side of what the network sees")
    parser.add_argument("--batch-size", type=int, default=4)
    parser.add_argument("--jobs", type=int, default=1, help="trainings at a time")
    parser.add_argument("--champion", type=Path, help="a bundle to begin with, in the place of the version before")
    parser.add_argument("--keep", type=Path, help="folder for the bundles; trainings that are there are not repeated")
    long = parser.add_mutually_exclusive_group()
    long.add_argument("--minutes", type=float, default=MINUTES, help="wall-clock budget of each full retrain")
    long.add_argument("--cpu-minutes", type=float, help="CPU time of each full retrain, with one thread")
    long.add_argument("--steps", type=int, help="steps of each full retrain")
    given = parser.parse_args(arguments)
    if given.cpu_minutes and "quick" in given.kinds:
        parser.error("a quick adaptation is kept by the wall clock: use --minutes")
    return given


def held_out_groups(given: argparse.Namespace) -> dict[str, tuple[str, ...]]:
    """The groups that each split holds out, by its name."""
    if given.hold_out:
        return {"+".join(given.hold_out): tuple(given.hold_out)}
    return {name: SPLITS[name] for name in given.split}


def split_of(given: argparse.Namespace, groups: Sequence[str]) -> DemoData:
    """The data with these groups as what is held out, and all others to train on."""
    data = from_folder(given.data, 10**6, 10**6)
    examples = (*data.train, *data.val) if given.with_val or given.hold_out else data.train
    train, held_out = without_groups(examples, groups)
    return replace(data, train=train, val=held_out[:: given.every], unlabelled=given.unlabelled)


def peers() -> list[Network]:
    """The networks of segmentation_models_pytorch, in an environment that is made on demand; none where it can't be."""
    folder = cache_folder("peers")
    folder.mkdir(parents=True, exist_ok=True)
    lock = folder / "requirements.lock"
    lock.write_bytes((ROOT / "requirements.lock").read_bytes() + REQUIREMENTS.read_bytes())
    try:
        python = installed(folder, lock) / "bin" / "python"
    except ProgramFailed as error:
        reason = " ".join(str(error).split())
        print(f"segmentation_models_pytorch is left out, because it cannot be installed: {reason}", file=sys.stderr)
        return []
    return [Network(f"smp-{name}", {"peer": name}, python) for name in PEERS]


class Benchmark:
    """The trainings."""

    def __init__(self, folder: Path, splits: dict[str, DemoData], given: argparse.Namespace) -> None:
        self._folder, self._splits, self._given = folder, splits, given
        for split, data in splits.items():
            shutil.rmtree(self._held_out(split), ignore_errors=True)
            write_snapshot(self._held_out(split), replace(data, train=()))

    def run(self, split: str, seed: int, network: Network) -> dict[Cell, Measured]:
        """A network's trainings of one seed, each size with each kind; a kind that begins with a version waits for the
        first one."""
        given, data, made = self._given, self._splits[split], {}
        before: Path | None = given.champion
        for size in sorted({min(size, len(data.train)) for size in given.sizes}):
            bundles = {}
            for kind in KINDS if "peer" not in network.hyperparameters else ("cold",):
                if kind in given.kinds and (kind == "cold" or before is not None):
                    cell = Cell(split, size, kind)
                    base = self._folder / split / f"seed-{seed}" / network.name / f"{size}-{kind}"
                    made[cell] = self._measure(base, cell, seed, (network, before))
                    bundles[kind] = base / "model"
            # what a project would serve: the retrain from the version before, once there is one
            before = next((bundles[kind] for kind in ("warm", "cold", "quick") if kind in bundles), before)
        if given.keep is None:  # a bundle has some 150 MB
            shutil.rmtree(self._folder / split / f"seed-{seed}" / network.name, ignore_errors=True)
        return made

    def _measure(self, base: Path, cell: Cell, seed: int, start: tuple[Network, Path | None]) -> Measured:
        """Train, unless that was done, and print what came of it."""
        network, before = start
        before = None if cell.kind == "cold" else before
        data = self._splits[cell.split]
        data = replace(data, train=shuffled(data.train, cell.size, seed), val=())
        wanted = self._hyperparameters(cell, seed) | network.hyperparameters
        wanted |= {"images": self._images_of(cell, data), "begins_with": before}
        if (base / MEASURED).is_file():
            config = json.loads((base / "input" / "config" / "hyperparameters.json").read_text("utf-8"))
            if config != {name: str(value) for name, value in wanted.items()}:
                raise SystemExit(f"{base} is of a training with other options or images: name another folder by --keep")
        else:
            shutil.rmtree(base, ignore_errors=True)
            write_run(base, data, before, **wanted)
            run_module(
                network.python, "benchmarks.held_out_training", base, self._held_out(cell.split), base / MEASURED
            )
            for large in (base / "input" / "data", base / "checkpoints"):
                shutil.rmtree(large, ignore_errors=True)
        measured = Measured.load(base / MEASURED)
        effort = measured.effort
        tell(
            cell,
            network=network.name,
            seed=seed,
            **rounded(scores([measured], self._given.thin)),
            held_out=len(measured.counts),
            steps=effort.steps,
            images_per_s=round(effort.images_per_s, 2),
            seconds=round(effort.seconds, 1),
            clock=wanted["clock"],
            threads=wanted["torch_threads"],
        )
        return measured

    def _hyperparameters(self, cell: Cell, seed: int) -> dict[str, object]:
        given = self._given
        long: dict[str, object] = {"train_minutes": given.cpu_minutes or given.minutes, "train_epochs": given.epochs}
        if given.steps is not None:
            long = {"train_minutes": 24 * 60, "train_epochs": 1, "train_min_steps": given.steps}
        return {
            "recipe": "quick" if cell.kind == "quick" else "full",
            "weights": "none",
            "input_size": given.input_size,
            **long,
            "train_batch_size": given.batch_size,
            "train_seed": seed,
            "clock": "cpu" if given.cpu_minutes else "wall",
            "torch_threads": 1 if given.cpu_minutes else max(1, len(os.sched_getaffinity(0)) // given.jobs),
        }

    def _images_of(self, cell: Cell, data: DemoData) -> str:
        """A digest of what is trained and measured on."""
        held_out = self._splits[cell.split].val
        names = [str(one.image.relative_to(self._given.data)) for part in (data.train, held_out) for one in part]
        return hashlib.sha256("\n".join([data.unlabelled, *names]).encode()).hexdigest()

    def _held_out(self, split: str) -> Path:
        return self._folder / split / "held-out"


def summary(by_network: dict[str, list[Measured]], thin: Sequence[str]) -> Iterator[dict[str, object]]:
    """For each network the means over the seeds, and what it is ahead of the first one, with intervals; `worse` are the
    classes whose IoU is lower by more than its interval."""
    first, *_ = by_network
    for name, measured in by_network.items():
        line: dict[str, object] = {"network": name, "seeds": len(measured), **rounded(scores(measured, thin))}
        line["images_per_s"] = round(sum(one.effort.images_per_s for one in measured) / len(measured), 2)
        if name != first:
            ahead = differences(measured, by_network[first], thin)
            worse = [one for one, gap in ahead.iou.items() if isinstance(gap, Interval) and gap.high < 0]
            line |= {"against": first, "difference": rounded(ahead), "worse": worse}
        yield line


def rounded(one: Scores) -> dict[str, object]:
    """Scores for a JSON line: a number, or a difference with the ends of its interval."""

    def brief(value: object) -> object:
        if isinstance(value, dict):
            return {name: brief(part) for name, part in value.items()}
        if isinstance(value, tuple):
            return [brief(part) for part in value]
        return round(value, 4) if isinstance(value, float) else value

    return {name: brief(value) for name, value in asdict(one).items()}


def tell(cell: Cell, **facts: object) -> None:
    """Print a JSON line, whole: several trainings may end at once."""
    sys.stdout.write(json.dumps({"benchmark": "camvid", "figure": str(cell), **facts}) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
