"""`make test-aws`: one tiny training in a real AWS account, by the settings of the environment. It costs a few cents.

Makes four images, trains on them in a training job (or the pipeline) that the settings describe, downloads and checks
the model, and prints what happened. Nothing runs it but a person.
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path
from uuid import uuid4

import numpy as np

from segloop.aws.training import SageMakerTrainer
from segloop.settings import Settings, load_settings
from segloop.trainers.base import Run
from tests.snapshots import Example, write_snapshot

SIZE = 64
SMALL = {
    "recipe": "full",
    "weights": "none",
    "arch": "fcn_resnet50",
    "input_size": str(SIZE),
    "train_epochs": "1",
    "train_min_steps": "2",
    "train_batch_size": "2",
}


def examples() -> list[Example]:
    """Four images with a bright half each, one of them held out."""
    made: list[Example] = []
    for number in range(4):
        image = np.full((SIZE, SIZE, 3), 10 * number, np.uint8)
        image[:, SIZE // 2 :] += 128
        made.append((image, (image[..., 0] >= 128).astype(np.uint8), "val" if number == 0 else "train"))
    return made


def smoke(settings: Settings, folder: Path) -> int:
    """Train once; 0 if a checked bundle came back."""
    trainer = SageMakerTrainer(settings)
    write_snapshot(folder / "snapshot", ["bright"], examples())
    run = Run(f"smoke-{uuid4().hex[:8]}", folder, folder / "snapshot", None, SMALL)
    trainer.submit(run)
    shown = ""
    while (status := trainer.poll(run)).state == "running":
        message = str((status.progress or {}).get("message", ""))
        if message != shown:
            shown = message
            print(time.strftime("%H:%M:%S"), message, flush=True)
        time.sleep(settings.sagemaker_poll_s)
    print(status.state, status.reason, dict(status.progress or {}))
    if status.state != "finished":
        return 1
    print("bundle:", *sorted(path.name for path in trainer.collect(run).iterdir()))
    return 0


def main() -> int:
    """Run it with the environment's settings."""
    with tempfile.TemporaryDirectory(prefix="segloop-smoke-") as folder:
        return smoke(load_settings(), Path(folder))


if __name__ == "__main__":
    sys.exit(main())
