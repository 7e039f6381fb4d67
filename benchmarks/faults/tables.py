"""The tables of docs/RELIABILITY.md, written row by row: a run that is stopped keeps the rows that it has."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

PAGE = Path(__file__).resolve().parents[2] / "docs" / "RELIABILITY.md"


class Table:
    """One table of the page, between two comments that name it."""

    def __init__(self, group: str, columns: Sequence[str]) -> None:
        self._begin = f"<!-- {group} -->"
        self._end = f"<!-- end of {group} -->"
        self._rows = [_row(columns), "|" + "---|" * len(columns)]

    def add(self, cells: Iterable[object]) -> None:
        """Add a row to the page, and print it."""
        self._rows.append(_row(cells))
        print(self._rows[-1], file=sys.stderr, flush=True)
        text = PAGE.read_text(encoding="utf-8")
        before, _, rest = text.partition(self._begin)
        _, _, after = rest.partition(self._end)
        table = "\n".join((self._begin, "", *self._rows, "", self._end))
        PAGE.write_text(before + table + after, encoding="utf-8")


def _row(cells: Iterable[object]) -> str:
    return "| " + " | ".join(str(cell) for cell in cells) + " |"


def yes_or_no(green: bool) -> str:
    """The last cell of a row."""
    return "yes" if green else "**no**"
