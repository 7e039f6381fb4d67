"""What the gate promotes, by the rule before and by segloop's own: `python -m benchmarks.gate`.

Networks of known worth (`benchmarks.heads`) meet on a few held-out images drawn at random: one is the champion, the
other a candidate that is worse by 0.01 to 0.03 of mIoU on all held-out images, equal within 0.01, better by 0.01 to
0.03, or much better by 0.03 to 0.08. Each rule decides on the same draws. In the last column the candidate has the lower
mIoU on the drawn images, and the champion's prediction has one stray pixel of a class that no image has.

Prints a JSON line for each figure and the table of docs/training.md. It takes about three minutes on 2 cores with drawn
scenes; `--camvid FOLDER` takes CamVid's images. The exit status is 1 where a stray pixel promotes.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.heads import camvid, confusions, scenes
from segloop.metrics import ConfusionMatrix, miou_of
from segloop.policy import should_promote
from segloop.settings import Settings
from segloop.training.evaluation import resample
from segloop.versions import Metrics

TASKS = (2, 4, 10, 20, 50)
#: How much better than the champion a candidate is on all held-out images.
CANDIDATES = {"worse": (-0.03, -0.01), "equal": (-0.01, 0.01), "better": (0.01, 0.03), "much better": (0.03, 0.08)}
STRAY = "worse, with a stray pixel"
#: What the rule before let a class lose, whatever the noise.
CLASS_LIMIT_BEFORE = 0.15

Counts = NDArray[np.int64]


@dataclass(frozen=True)
class Rules:
    """Whether a candidate is promoted, by confusion matrices by image of both, int64 (T, C, C)."""

    classes: tuple[str, ...]
    settings: Settings

    def before(self, ours: Counts, theirs: Counts) -> bool:
        """The rule that this one replaced: a higher mIoU, each over the classes in truth or prediction, and no class that
        loses more than a limit."""
        mine, before = (iou_before(counts.sum(axis=0)) for counts in (ours, theirs))
        return bool(np.nanmean(mine) > np.nanmean(before) and not (before - mine > CLASS_LIMIT_BEFORE).any())

    def now(self, ours: Counts, theirs: Counts) -> bool:
        """segloop's own, as a retrain asks it."""
        return should_promote(
            self.summary(ours),
            self.summary(theirs),
            tolerance=self.settings.promote_tolerance,
            class_limit=self.settings.promote_class_limit,
            evidence=resample(ours, theirs, self.classes),
        ).act

    def summary(self, counts: Counts) -> Metrics:
        matrix = ConfusionMatrix(self.classes)
        matrix.counts += counts.sum(axis=0)
        return matrix.summary(len(counts))


def iou_before(counts: Counts) -> NDArray[np.float64]:
    """IoU by class of a confusion matrix; NaN for a class in neither truth nor prediction."""
    hits = counts.diagonal()[1:]
    unions = (counts.sum(axis=0) + counts.sum(axis=1))[1:] - hits
    return np.divide(hits, unions, out=np.full(hits.shape, np.nan), where=unions > 0)


def main() -> int:
    """Simulate, and print; 1 where a stray pixel promotes."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--camvid", type=Path, help="CamVid: train/ and val/ with images/ and masks/")
    parser.add_argument("--lineages", type=int, default=10, help="networks, six each")
    parser.add_argument("--trials", type=int, default=1000, help="for each number of tasks and kind of candidate")
    given = parser.parse_args()
    train, held_out, classes = camvid(given.camvid) if given.camvid else scenes()
    counts = confusions(train, held_out, len(classes), given.lineages)
    # a class that neither the truth nor any network knows
    counts = np.pad(counts, ((0, 0), (0, 0), (0, 1), (0, 1)))
    rules = Rules((*classes, "Nowhere"), Settings(_env_file=None))
    shares = {tasks: simulate(counts, rules, tasks, given.trials) for tasks in TASKS}
    for tasks, found in shares.items():
        for kind, share in found.items():
            tell(f"{kind}, promoted, {tasks} held-out tasks", share, given.trials)
    print(f"\n{table(shares)}")
    return int(any(found[STRAY][1] > 0 for found in shares.values()))


def simulate(counts: Counts, rules: Rules, tasks: int, trials: int) -> dict[str, tuple[float, float]]:
    """The share that is promoted of each kind of candidate, by the rule before and now."""
    worth = miou_of(counts.sum(axis=1))
    gains = worth[:, None] - worth[None]
    rng = np.random.default_rng(tasks)
    found: dict[str, list[tuple[bool, bool]]] = {kind: [] for kind in (*CANDIDATES, STRAY)}
    for kind, (low, high) in CANDIDATES.items():
        pairs = np.argwhere((gains > low) & (gains <= high) & ~np.eye(len(worth), dtype=bool))
        for candidate, champion in pairs[rng.integers(len(pairs), size=trials)]:
            images = rng.choice(counts.shape[1], tasks, replace=False)
            ours, theirs = counts[candidate, images], counts[champion, images]
            found[kind].append((rules.before(ours, theirs), rules.now(ours, theirs)))
            if miou_of(ours.sum(axis=0)) < miou_of(theirs.sum(axis=0)):
                theirs = with_stray_pixel(theirs)
                found[STRAY].append((rules.before(ours, theirs), rules.now(ours, theirs)))
    return {kind: tuple(np.mean(promoted, axis=0)) for kind, promoted in found.items()}


def with_stray_pixel(counts: Counts) -> Counts:
    """The matrices of a prediction that has one pixel of the last class besides, where it was wrong anyhow.

    The pixel was none of its true class before, so that no class's IoU falls by it.
    """
    image, true, predicted = np.argwhere(counts * (1 - np.eye(counts.shape[-1], dtype=np.int64)))[0]
    strayed = counts.copy()
    strayed[image, true, predicted] -= 1
    strayed[image, true, -1] += 1
    return strayed


def tell(figure: str, share: tuple[float, float], trials: int) -> None:
    """Print one figure."""
    line = {"benchmark": "gate", "figure": figure, "unit": "share", "value": round(share[1], 3)}
    print(json.dumps({**line, "before": round(share[0], 3), "trials": trials}), flush=True)


def table(shares: dict[int, dict[str, tuple[float, float]]]) -> str:
    """Markdown: a row for each number of held-out tasks, "before, now" in each cell."""
    kinds = (*CANDIDATES, STRAY)
    lines = [("held-out tasks", *kinds), ("---",) * (len(kinds) + 1)]
    for tasks, found in shares.items():
        lines.append((str(tasks), *(f"{found[kind][0]:.2f}, {found[kind][1]:.2f}" for kind in kinds)))
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


if __name__ == "__main__":
    sys.exit(main())
