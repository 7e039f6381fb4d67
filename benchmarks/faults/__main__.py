"""Inject faults group by group, and write docs/RELIABILITY.md's tables.

python -m benchmarks.faults                       every group
python -m benchmarks.faults --only processes      one of them
"""

from __future__ import annotations

import argparse

from benchmarks.faults import hostile, processes, store, training
from demo import stack

GROUPS = {"processes": processes.main, "store": store.main, "hostile": hostile.main, "training": training.main}
#: How long a start may take, in seconds, on a machine with other work.
START_S = 600.0


def main() -> None:
    parser = argparse.ArgumentParser(description="Inject faults, and write docs/RELIABILITY.md's tables.")
    parser.add_argument("--only", choices=sorted(GROUPS), nargs="*", default=list(GROUPS), help="these groups alone")
    stack.START_S = START_S
    for group in parser.parse_args().only:
        GROUPS[group]()


if __name__ == "__main__":
    main()
