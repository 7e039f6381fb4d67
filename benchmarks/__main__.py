"""`make bench`: every benchmark, one after the other, each in a process of its own."""

from __future__ import annotations

import subprocess
import sys

BENCHMARKS = ("codec", "polygons", "images", "latency")


def main() -> int:
    return max(
        subprocess.run([sys.executable, "-m", f"benchmarks.{name}"], check=False).returncode for name in BENCHMARKS
    )


if __name__ == "__main__":
    sys.exit(main())
