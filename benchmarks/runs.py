"""Training runs of the benchmarks: snapshots of labelled files, and the training entry point as the worker starts it."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from demo.data import DemoData, Example
from demo.stack import clean_environment
from segloop.dataset import AnnotationRef, Item, Manifest, Split, write_manifest
from segloop.formats import IGNORED, VERSION_FILE

ROOT = Path(__file__).resolve().parents[1]
PROJECT = "1.1795382829"
_MOMENT = "2026-11-22T00:00:00+00:00"


def write_run(base: Path, data: DemoData, champion: Path | None = None, **hyperparameters: object) -> Path:
    """A training run's folder: a snapshot of the data, the champion's bundle and the hyperparameters."""
    folder = base / "input" / "data"
    write_snapshot(folder / "snapshot", data)
    if champion is not None:
        (folder / "model").symlink_to(champion.absolute(), target_is_directory=True)
    config = base / "input" / "config" / "hyperparameters.json"
    config.parent.mkdir(parents=True)
    config.write_text(json.dumps({name: str(value) for name, value in hyperparameters.items()}), encoding="utf-8")
    return base


def train(base: Path) -> tuple[dict[str, Any], float]:
    """Run the training entry point in a process of its own; the bundle's version.json, and the seconds it took."""
    began = time.perf_counter()
    run_module(Path(sys.executable), "segloop.training", "--base", base)
    info: dict[str, Any] = json.loads((base / "model" / VERSION_FILE).read_text(encoding="utf-8"))
    return info, time.perf_counter() - began


def run_module(python: Path, module: str, *arguments: str | Path) -> None:
    """Run a module of this checkout that trains, in a process of its own, by some environment's python.

    Raises:
        SystemExit: it failed; the end of its log is the text.
    """
    done = subprocess.run(
        [python, "-m", module, *arguments],
        cwd=ROOT,
        env=clean_environment() | {"OMP_WAIT_POLICY": "PASSIVE"},
        capture_output=True,
        check=False,
    )
    if done.returncode:
        raise SystemExit(f"the training failed:\n{done.stderr.decode(errors='replace')[-2000:]}")


def write_snapshot(folder: Path, data: DemoData) -> Manifest:
    """A snapshot of labelled files, split as they are; task ids count from 1."""
    examples: list[tuple[Example, Split]] = [
        *((one, "train") for one in data.train),
        *((one, "val") for one in data.val),
    ]
    for name in ("images", "masks"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    items = [_item(folder, task, data, *example) for task, example in enumerate(examples, start=1)]
    manifest = Manifest(
        project=PROJECT,
        created_at=_MOMENT,
        label_config=data.label_config,
        classes=data.classes,
        unlabelled="ignore" if data.unlabelled == "ignore" else "background",
        items=tuple(items),
    ).sealed()
    write_manifest(folder, manifest)
    return manifest


def _item(folder: Path, task: int, data: DemoData, example: Example, split: Split) -> Item:
    truth = example.truth(len(data.classes))
    if data.unlabelled == "ignore":
        truth = np.where(truth == 0, IGNORED, truth).astype(np.uint8)
    content = example.image.read_bytes()
    image = f"images/{hashlib.sha256(content).hexdigest()}{example.image.suffix.lower()}"
    (folder / image).write_bytes(content)
    drawn = folder / f"masks/{task}.png"
    Image.fromarray(truth).save(drawn)
    mask = f"masks/{hashlib.sha256(drawn.read_bytes()).hexdigest()}.png"
    drawn.replace(folder / mask)
    height, width = truth.shape
    return Item(
        task=task,
        image_tag="image",
        annotations=(AnnotationRef(id=task, updated_at=_MOMENT),),
        image=image,
        mask=mask,
        width=width,
        height=height,
        split=split,
    )


def held_out(examples: Sequence[Example], every: int) -> tuple[tuple[Example, ...], tuple[Example, ...]]:
    """Examples without every n-th one, and those."""
    return tuple(one for place, one in enumerate(examples) if place % every), tuple(examples[::every])


def without_groups(
    examples: Sequence[Example], groups: Sequence[str]
) -> tuple[tuple[Example, ...], tuple[Example, ...]]:
    """The examples of the other groups, such as drives, and those of the groups named.

    Raises:
        SystemExit: there is no such group, or no other.
    """
    there = sorted({one.group for one in examples})
    if not set(groups) < set(there):
        raise SystemExit(
            f"hold out some of the groups {', '.join(there)}, and not all of them: not {', '.join(groups)}"
        )
    return (
        tuple(one for one in examples if one.group not in groups),
        tuple(one for one in examples if one.group in groups),
    )


def shuffled(examples: Sequence[Example], count: int, seed: int) -> tuple[Example, ...]:
    """The first examples of a random order: a smaller count's are among a larger one's, as labelled tasks grow."""
    order = np.random.default_rng(seed).permutation(len(examples))
    return tuple(examples[index] for index in order[:count])
