"""`make bench`: the benchmarks, one after the other, each in a process of its own.

What concerns masks and serving, in under ten minutes; with `--learning` what concerns training and annotations, in five
more. `benchmarks.camvid` and `benchmarks.acquisition` train for long, and `benchmarks.gate` simulates decisions: they are run
by themselves.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks import table

BENCHMARKS = ("codec", "polygons", "images", "latency")
#: Those of `--learning`.
LEARNING = ("training", "adaptation", "sync")
#: Those that measure a version with its engines; all the same one.
OF_A_VERSION = ("engines", "serving", "interactive", "memory", "scaling")


def main() -> int:
    """Run them; the highest exit status among them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--learning", action="store_true", help="the benchmarks of learning too")
    parser.add_argument("--out", type=Path, help="a file for the JSON lines")
    parser.add_argument("--write", action="store_true", help="write the table of docs/PERFORMANCE.md")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="segloop-version-") as version:
        commands = [[f"benchmarks.{name}"] for name in BENCHMARKS]
        commands.append(["benchmarks.versions", version])
        commands += [[f"benchmarks.{name}", "--version", version] for name in OF_A_VERSION]
        if given.learning:
            commands += [[f"benchmarks.{name}"] for name in LEARNING]
        outcomes = [run(command) for command in commands]
    lines = [line for _, output in outcomes for line in output]
    if given.out:
        given.out.write_text("".join(lines), encoding="utf-8")
    if given.write:
        table.write(table.read_lines(lines))
    return max(status for status, _ in outcomes)


def run(command: list[str]) -> tuple[int, list[str]]:
    """Exit status and lines of output of a module, echoed as they come."""
    lines = []
    began = time.perf_counter()
    with subprocess.Popen([sys.executable, "-m", *command], stdout=subprocess.PIPE, text=True) as process:
        for line in process.stdout or ():
            sys.stdout.write(line)
            sys.stdout.flush()
            lines.append(line)
    print(f"{command[0]}: {time.perf_counter() - began:.0f} s", file=sys.stderr)
    return process.returncode, lines


if __name__ == "__main__":
    sys.exit(main())
