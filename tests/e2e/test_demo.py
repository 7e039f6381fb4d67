"""`make demo`, as the README gives it: it keeps its promises and leaves nothing running."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.label_studio, pytest.mark.slow, pytest.mark.timeout(1200)]


def test_the_demo_keeps_its_promises() -> None:
    # fewer and smaller images than the demo's own, but all of its steps, the search for suspected labels among them
    small = {"DEMO_TRAIN": "12", "DEMO_VAL": "4", "SEGLOOP_INPUT_SIZE": "128"}
    small |= {"SEGLOOP_TRAIN_EPOCHS": "1", "SEGLOOP_TRAIN_MIN_STEPS": "24"}
    done = subprocess.run(
        [sys.executable, "-m", "demo"],
        cwd=Path(__file__).parents[2],
        env={**os.environ, "DEMO_EXIT": "1", **small},
        capture_output=True,
        text=True,
        timeout=1100,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert "Every promise was kept." in done.stdout
    assert "boundary F1" in done.stdout


def test_a_folder_without_images_is_named(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "demo"],
        cwd=Path(__file__).parents[2],
        env={**os.environ, "DEMO_EXIT": "1", "DEMO_DATA": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 1
    assert done.stderr.strip() == f"DEMO_DATA: there are no images in {tmp_path / 'train' / 'images'}."
