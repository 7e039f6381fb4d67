"""Writes street scenes: `python -m demo.scenes FOLDER`."""

import argparse
from pathlib import Path

from demo.scenes import write_streets


def main() -> None:
    """Write street scenes, some places to train on and others to hold out."""
    parser = argparse.ArgumentParser(prog="python -m demo.scenes", description=main.__doc__)
    parser.add_argument("folder", type=Path, help="a new folder: `DEMO_DATA` and the option --data of benchmarks")
    parser.add_argument("--train", type=int, nargs="+", default=(1, 2, 3, 4, 5, 6), help="seeds of places to train on")
    parser.add_argument("--val", type=int, nargs="+", default=(101, 102), help="seeds of places to hold out")
    parser.add_argument("--each", type=int, default=40, help="scenes of each place")
    parser.add_argument("--size", type=int, nargs=2, default=(640, 480), help="width and height, in pixels")
    given = parser.parse_args()
    write_streets(given.folder, train=given.train, val=given.val, each=given.each, size=tuple(given.size))


if __name__ == "__main__":
    main()
