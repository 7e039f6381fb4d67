"""Exact OpenVINO models of networks that came without one, made in a process of their own: it may import torch."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

from filelock import FileLock, Timeout

from segloop.errors import EngineError
from segloop.installation import missing_extra
from segloop.settings import environment

if TYPE_CHECKING:
    from segloop.settings import Settings

#: Exit status of `python -m segloop.training.export --pretrained` where the settings' weights segment nothing, or can't be had.
NOTHING_TO_EXPORT: Final = 3
#: The report of an export with a snapshot: which of its models serve.
REPORT: Final = "engines.json"
#: Requests that are answered meanwhile go first.
NICENESS: Final = 5
EXACT_MODEL: Final = "openvino.xml"

#: Longest time of an export, in seconds; comparing engines on the held-out images takes most of it.
_TIMEOUT_S: Final = 1800.0


def is_converted(name: str, settings: Settings) -> bool:
    """Whether this machine keeps an exact model under a name."""
    return (_folder(settings) / name / EXACT_MODEL).is_file()


def _folder(settings: Settings) -> Path:
    return settings.data_dir.absolute() / "cache" / "engines"


def converted(name: str, source: Sequence[str], settings: Settings) -> Path:
    """The exact model made from a source (arguments of `python -m segloop.training.export`), kept on this machine as `name`.

    Takes half a minute the first time; processes that want the same wait. Where there is nothing to export, there is
    no file at the path.

    Raises:
        EngineError: the export failed.
    """
    folder = _folder(settings)
    target = folder / name
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / f".{name}.lock", timeout=_TIMEOUT_S):
            if not (target / EXACT_MODEL).is_file():
                with tempfile.TemporaryDirectory(dir=folder, prefix=".") as draft:
                    made = Path(draft) / "made"
                    if not run_export([*source, "--out", str(made)], settings):
                        return target / EXACT_MODEL
                    if not (made / EXACT_MODEL).is_file():
                        raise EngineError(f"the export wrote no model of {name}")
                    made.rename(target)
    except Timeout as error:
        raise EngineError(f"another process takes longer than {_TIMEOUT_S:.0f} s to export {name}") from error
    except OSError as error:
        raise EngineError(f"the folder {folder} cannot be used: {error}") from error
    return target / EXACT_MODEL


def run_export(arguments: Sequence[str], settings: Settings) -> bool:
    """Run `python -m segloop.training.export`; False where there is nothing to export.

    Raises:
        EngineError: it failed, or took too long, or segloop[worker] is not installed.
    """
    if sentence := missing_extra("worker"):
        raise EngineError(f"the export of a network needs torch. {sentence}")
    try:
        done = subprocess.run(
            [
                "nice",
                "-n",
                str(NICENESS),
                sys.executable,
                "-m",
                "segloop.training.export",
                *arguments,
                "--parent",
                str(os.getpid()),
            ],
            env=environment(settings),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_TIMEOUT_S,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise EngineError(f"the export took longer than {_TIMEOUT_S:.0f} s") from error
    if done.returncode == NOTHING_TO_EXPORT:
        return False
    if done.returncode != 0:
        last = done.stderr.decode(errors="replace").strip().splitlines()[-1:]
        raise EngineError(f"the export failed with status {done.returncode}: {' '.join(last)[:500]}")
    return True
