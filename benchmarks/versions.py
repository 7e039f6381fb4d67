"""A version to measure: trained for a moment on drawn scenes, with the engines that the worker makes of one.

`python -m benchmarks.versions FOLDER` writes one, for the option `--version` of the benchmarks that need one.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from benchmarks.runs import PROJECT, train, write_run
from demo.data import DemoData, generated
from segloop.registry import open_registry
from segloop.serving.conversion import run_export
from segloop.settings import Settings
from segloop.training.evaluation import Network
from segloop.training.guided import train_guided
from segloop.training.guided_export import exported, seen_of
from segloop.versions import EngineFigures, EngineReport, GuidedFigures, read_version

#: Long side, in pixels, at which the network is trained and judged: what it takes to learn something in a minute.
TRAINED_SIZE = 192
#: Long side, in pixels, at which it then serves.
SERVED_SIZE = 512
SCENES, HELD_OUT = 32, 16
#: Enough for a network whose answers are sane, and enough for one of which only the time counts.
STEPS, FEW_STEPS = 60, 2
#: Scenes that a guided head is trained on for a moment.
HEAD_IMAGES = 8


def add_option(parser: argparse.ArgumentParser) -> None:
    """The option `--version`, for `version_at`."""
    parser.add_argument("--version", type=Path, help="a folder that benchmarks.versions wrote; else one is made now")


@contextmanager
def version_at(folder: Path | None, steps: int = STEPS) -> Iterator[Path]:
    """A folder with a version: the one given, or one made now and deleted afterwards."""
    if folder is not None:
        yield folder
        return
    with tempfile.TemporaryDirectory(prefix="segloop-version-") as made:
        make_version(Path(made), steps)
        yield Path(made)


def make_version(folder: Path, steps: int = STEPS) -> None:
    """Write `bundle` (weights, version.json, OpenVINO models) and `scenes`, by segloop's own training and export."""
    data = generated(folder / "scenes", train=SCENES, val=HELD_OUT)
    base = write_run(
        folder / "run",
        data,
        input_size=TRAINED_SIZE,
        weights="none",
        device="cpu",
        train_epochs=1,
        train_min_steps=steps,
    )
    train(base)
    bundle = base / "model"
    run_export(
        ["--bundle", str(bundle), "--snapshot", str(base / "input" / "data" / "snapshot"), "--out", str(bundle)],
        Settings(device="cpu", guided_steps=0),
    )
    write_head(bundle, data)
    bundle.rename(folder / "bundle")


def write_head(bundle: Path, data: DemoData) -> None:
    """Give a bundle a guided head of which only the time counts."""
    network = Network.load(bundle, torch.device("cpu"))
    examples = data.train[:HEAD_IMAGES]
    seen = [seen_of(network, one.pixels(), one.truth(len(network.classes))) for one in examples]
    head = train_guided(seen, FEW_STEPS)
    assert head is not None, "no scene has a piece that is large enough"
    exported(head, bundle)


def engines_report(folder: Path) -> dict[str, Any]:
    """What the export said of the engines: mIoU and agreement on the held-out scenes."""
    report: dict[str, Any] = json.loads((folder / "bundle" / "engines.json").read_text(encoding="utf-8"))
    return report


def label_config_of(folder: Path) -> str:
    """The label config that the version's classes belong to."""
    return DemoData(read_version(folder / "bundle").classes, (), ()).label_config


def serve_version(folder: Path, settings: Settings) -> str:
    """Make it the champion of PROJECT, seen at SERVED_SIZE; the int8 model and the head serve whatever they were found worth."""
    registry = open_registry(settings)
    bundle = folder / "bundle"
    engines = EngineReport(openvino_int8=EngineFigures(serves=True), guided=GuidedFigures(serves=True))
    changes = {"files": {}, "input_size": SERVED_SIZE, "engines": engines}
    version = registry.add(PROJECT, bundle, read_version(bundle).model_copy(update=changes))
    registry.promote(PROJECT, version, "benchmark")
    return version


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="a new folder")
    make_version(parser.parse_args().folder)
