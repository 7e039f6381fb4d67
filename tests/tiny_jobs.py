"""Jobs for tests of the worker: each writes what it does to a file."""

from __future__ import annotations

import os
import time
from pathlib import Path

from segloop.errors import LabelStudioUnreachable, TrainingError
from segloop.queue import Parked


def note(path: str, text: str) -> None:
    with Path(path).open("a", encoding="utf-8") as file:
        file.write(f"{text}\n")


def quick(path: str) -> str:
    note(path, "done")
    return "fine"


def slow(path: str, seconds: float) -> None:
    """Slow at first; a later start, which finds the notes of an earlier one, is quick."""
    first = not Path(path).exists()
    note(path, f"start {os.getpid()} {os.getpriority(os.PRIO_PROCESS, 0)}")
    if first:
        time.sleep(seconds)
    note(path, "done")


def patient(path: str, seconds: float) -> None:
    note(path, f"start {os.getpid()}")
    time.sleep(seconds)
    note(path, "done")


def tolerant(path: str, seconds: float) -> None:
    """Goes on after whatever its task raises."""
    note(path, f"start {os.getpid()}")
    try:
        time.sleep(seconds)
    except Exception:  # noqa: BLE001
        note(path, "a task failed")
    note(path, "done")


def useless(path: str) -> None:
    note(path, "start")
    raise TrainingError("It cannot work.")


def broken(path: str) -> None:
    note(path, "start")
    raise ValueError("It broke.")


def unreachable(path: str) -> None:
    note(path, "start")
    raise LabelStudioUnreachable("Label Studio is away.")


def parks(path: str) -> None:
    """Parks itself at first, for a minute."""
    first = not Path(path).exists()
    note(path, f"start {os.getpid()}")
    if first:
        raise Parked(60)
    note(path, "done")
