"""Stands for `segloop.training` where only its life matters: epochs of 50 ms with a checkpoint each."""

from __future__ import annotations

import json
import signal
import sys
import time
from pathlib import Path

from segloop.files import write_bytes


def main(base: Path) -> int:
    hyperparameters = json.loads((base / "input/config/hyperparameters.json").read_text(encoding="utf-8"))
    stopped: list[int] = []
    signal.signal(signal.SIGTERM, lambda signum, frame: stopped.append(signum))
    if hyperparameters.get("fails"):
        (base / "output/failure").write_text("It cannot learn.\n", encoding="utf-8")
        return 1
    if hyperparameters.get("crashes"):
        raise RuntimeError("never seen by the trainer")
    checkpoint = base / "checkpoints/epoch"
    done = int(checkpoint.read_text(encoding="utf-8")) if checkpoint.exists() else 0
    print(f"epoch {done} begins", file=sys.stderr, flush=True)
    for epoch in range(done, int(hyperparameters["train_epochs"])):
        time.sleep(0.05)
        write_bytes(checkpoint, str(epoch + 1).encode())
        (base / "output/data/filling").write_bytes(bytes(int(hyperparameters.get("fills_bytes", 0))))
        with (base / "output/data/progress.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps({"epoch": epoch + 1}) + "\n")
        if stopped:
            return 143
    (base / "model/model.safetensors").write_bytes(b"weights")
    (base / "model/version.json").write_text("{}", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[2])))
