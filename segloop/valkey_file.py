"""The embedded Valkey's file: repaired, or set aside, where it is damaged. Run as a program, it does so and becomes the Valkey:

    python -m segloop.valkey_file FOLDER valkey-server OPTIONS...

A Valkey refuses to start on a damaged file, and segloop would stop with it. What is in it can be told again: the changes
by Label Studio, jobs by those who began them.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Final

#: valkey-server is its own checker when it is started by these names.
_AOF_CHECKER: Final = "valkey-check-aof"
_RDB_CHECKER: Final = "valkey-check-rdb"
#: Folder of the append-only file below a Valkey's own, and the file that lists its parts.
_NAME: Final = "appendonlydir"
_MANIFEST: Final = "appendonly.aof.manifest"
_PART: Final = re.compile(r"file (\S+) seq \d+ type ([bhi])( .*)?")
_TIMEOUT_S: Final = 60.0


def mend(folder: Path, binary: str) -> str:
    """Make the append-only file below a folder one that a Valkey starts with: what was done, in a sentence; "" for nothing.

    A damaged one is kept beside it as `appendonlydir.damaged-<time>`. Up to the damage nothing is lost, where Valkey's own
    checker can repair it; else Valkey begins with an empty file.
    """
    file = folder / _NAME
    if not file.is_dir() or not any(file.iterdir()):
        return ""
    parts = _parts(file)
    damaged = [part for part in parts if not _is_whole(part, binary)]
    if parts and not damaged:
        return ""
    kept = folder / f"{_NAME}.damaged-{time.strftime('%Y%m%d-%H%M%S')}"
    shutil.copytree(file, kept, dirs_exist_ok=True)
    for part in damaged:
        if part.is_file() and part.suffix == ".aof":
            _run(_AOF_CHECKER, binary, "--fix", str(part))
    if parts and all(_is_whole(part, binary) for part in parts):
        return f"The queue's file was damaged, and is repaired up to the damage; as it was it is kept in {kept}."
    shutil.rmtree(file)
    return (
        "The queue's file is damaged beyond repair: the queue begins anew, and what changed is asked of Label Studio. "
        f"The file is kept in {kept}."
    )


def _parts(file: Path) -> list[Path]:
    """The parts that the manifest names and Valkey reads; none where it cannot be read."""
    try:
        lines = (file / _MANIFEST).read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError):
        return []
    found = [_PART.fullmatch(line) for line in lines]
    if any(match is None or "/" in match[1] for match in found):
        return []
    return [file / match[1] for match in found if match is not None and match[2] != "h"]


def _is_whole(part: Path, binary: str) -> bool:
    # One at a time: the checker of the whole file (valkey 9.1.2) does not know what Valkey itself begins it with.
    if not part.is_file():
        return False
    if part.suffix == ".aof" and part.stat().st_size == 0:
        return True
    return _run(_AOF_CHECKER if part.suffix == ".aof" else _RDB_CHECKER, binary, str(part)).returncode == 0


def _run(name: str, binary: str, *arguments: str) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [name, *arguments],
        executable=binary,
        input=b"y\n",
        capture_output=True,
        timeout=_TIMEOUT_S,
        check=False,
    )


def main(arguments: list[str]) -> None:
    """Mend the file, and replace this process by the Valkey."""
    folder, *command = arguments
    try:
        done = mend(Path(folder), command[0])
    except (OSError, subprocess.SubprocessError) as error:
        done = f"The queue's file cannot be checked: {error}."
    if done:
        print(f"WARNING {done}", flush=True)
    os.execv(command[0], command)  # noqa: S606 - a command line of our own


if __name__ == "__main__":
    main(sys.argv[1:])
