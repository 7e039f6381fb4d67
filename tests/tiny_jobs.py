"""Jobs for tests of the worker: each writes what it does to a file in the folder TINY_JOBS."""

from __future__ import annotations

import os
import time
from pathlib import Path

from segloop.errors import LabelStudioUnreachable, TrainingError
from segloop.queue import Parked


def path_of(name: str) -> Path:
    return Path(os.environ["TINY_JOBS"]) / name


def note(name: str, text: str) -> None:
    with path_of(name).open("a", encoding="utf-8") as file:
        file.write(f"{text}\n")


def quick(name: str) -> str:
    note(name, "done")
    return "fine"


def slow(name: str, seconds: str) -> None:
    """Slow at first; a later start, which finds the notes of an earlier one, is quick."""
    first = not path_of(name).exists()
    note(name, f"start {os.getpid()} {os.getpriority(os.PRIO_PROCESS, 0)}")
    if first:
        time.sleep(float(seconds))
    note(name, "done")


def patient(name: str, seconds: str) -> None:
    note(name, f"start {os.getpid()}")
    time.sleep(float(seconds))
    note(name, "done")


def tolerant(name: str, seconds: str) -> None:
    """Goes on after whatever its task raises."""
    note(name, f"start {os.getpid()}")
    try:
        time.sleep(float(seconds))
    except Exception:  # noqa: BLE001
        note(name, "a task failed")
    note(name, "done")


def useless(name: str) -> None:
    note(name, "start")
    raise TrainingError("It cannot work.")


def broken(name: str) -> None:
    note(name, "start")
    raise ValueError("It broke.")


def unreachable(name: str) -> None:
    note(name, "start")
    raise LabelStudioUnreachable("Label Studio is away.")


def parks(name: str) -> None:
    """Parks itself at first, for a minute."""
    first = not path_of(name).exists()
    note(name, f"start {os.getpid()}")
    if first:
        raise Parked(60)
    note(name, "done")


#: As `segloop.queue.names.FUNCTIONS`.
FUNCTIONS = {
    "tests.tiny_jobs.quick": 1,
    "tests.tiny_jobs.slow": 2,
    "tests.tiny_jobs.patient": 2,
    "tests.tiny_jobs.tolerant": 2,
    "tests.tiny_jobs.useless": 1,
    "tests.tiny_jobs.broken": 1,
    "tests.tiny_jobs.unreachable": 1,
    "tests.tiny_jobs.parks": 1,
}
