"""A version to measure: trained for a moment on drawn scenes, with the engines that the worker makes of one.

`python -m benchmarks.versions FOLDER` writes one, for the option `--version` of the benchmarks that need one.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks.latency import labelled
from demo.data import DemoData, generated
from demo.stack import clean_environment
from segloop.dataset import ProjectSplits, snapshot
from segloop.images import ImageSource
from segloop.labelstudio import Credentials
from segloop.registry import open_registry
from segloop.serving.conversion import run_export
from segloop.settings import Settings

PROJECT = "1.1795382829"
#: Long side, in pixels, at which the network is trained and judged: what it takes to learn something in a minute.
TRAINED_SIZE = 192
#: Long side, in pixels, at which it then serves: segloop's own default.
SERVED_SIZE = 512
OUTPUT_STRIDE = 16
SCENES, HELD_OUT_SHARE = 48, 1 / 3
#: Enough for a network whose answers are sane, and enough for one of which only the time counts.
STEPS, FEW_STEPS = 60, 2


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
    data = generated(folder / "scenes", train=SCENES, val=1)
    base = folder / "run"
    taken = freeze(folder, base, data)
    hyperparameters = {
        "input_size": TRAINED_SIZE,
        "output_stride": OUTPUT_STRIDE,
        "weights": "none",
        "device": "cpu",
        "train_epochs": 1,
        "train_min_steps": steps,
    }
    config = base / "input" / "config" / "hyperparameters.json"
    config.parent.mkdir(parents=True)
    config.write_text(json.dumps({name: str(value) for name, value in hyperparameters.items()}), encoding="utf-8")
    command = [sys.executable, "-m", "segloop.training", "--base", str(base)]
    environment = clean_environment() | {"OMP_WAIT_POLICY": "PASSIVE"}  # as the worker starts it
    done = subprocess.run(command, env=environment, capture_output=True, check=False)
    if done.returncode:
        raise SystemExit(f"the training failed:\n{done.stderr.decode(errors='replace')[-2000:]}")
    bundle = base / "model"
    run_export(["--bundle", str(bundle), "--snapshot", str(taken), "--out", str(bundle)], Settings(device="cpu"))
    bundle.rename(folder / "bundle")


def freeze(folder: Path, base: Path, data: DemoData) -> Path:
    """A snapshot of the scenes in a training run's folder."""
    settings = Settings(data_dir=folder / "data", unlabelled=data.unlabelled, val_fraction=HELD_OUT_SHARE)
    credentials = Credentials(settings.label_studio_url, settings.label_studio_api_key)
    source = ImageSource(settings, credentials, folder / "cache")
    taken = base / "input" / "data" / "snapshot"
    snapshot(
        PROJECT,
        [labelled(task, example, data.classes) for task, example in enumerate(data.train, start=1)],
        data.label_config,
        images=source,
        splits=ProjectSplits(open_registry(settings), PROJECT),
        dest=taken,
        settings=settings,
    )
    source.close()
    return taken


def engines_report(folder: Path) -> dict[str, Any]:
    """What the export said of the engines: mIoU and agreement on the held-out scenes."""
    report: dict[str, Any] = json.loads((folder / "bundle" / "engines.json").read_text(encoding="utf-8"))
    return report


def label_config_of(folder: Path) -> str:
    """The label config that the version's classes belong to."""
    info = json.loads((folder / "bundle" / "version.json").read_text(encoding="utf-8"))
    return DemoData(tuple(info["classes"]), (), ()).label_config


def serve_version(folder: Path, settings: Settings) -> str:
    """Make it the champion of PROJECT, seen at SERVED_SIZE; the int8 model serves whatever it was found worth."""
    registry = open_registry(settings)
    bundle = folder / "bundle"
    info = json.loads((bundle / "version.json").read_text(encoding="utf-8"))
    info |= {"files": {}, "input_size": SERVED_SIZE, "engines": {"openvino-int8": {"serves": True}}}
    version = registry.add(PROJECT, bundle, info)
    registry.promote(PROJECT, version, "benchmark")
    return version


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="a new folder")
    make_version(parser.parse_args().folder)
