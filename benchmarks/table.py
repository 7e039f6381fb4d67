"""The benchmarks' JSON lines as the table of docs/PERFORMANCE.md: `python -m benchmarks.table FILE` (or from stdin).

What stands between the two marker comments there is replaced: first the machine and the versions of the libraries that
the figures are of (of the process that writes the table: run it where the figures were made), then a table a benchmark.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import platform
import sys
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from itertools import groupby
from pathlib import Path
from typing import Any

DOCUMENT = Path(__file__).resolve().parent.parent / "docs" / "PERFORMANCE.md"
BEGIN = "<!-- begin: written by python -m benchmarks.table -->"
END = "<!-- end -->"
#: Libraries whose versions belong to the figures, theirs included.
LIBRARIES = (
    "torch",
    "openvino",
    "onnxruntime",
    "numpy",
    "opencv-python-headless",
    "pillow",
    "granian",
    "gunicorn",
    "flask",
    "label-studio-sdk",
)
#: Instruction sets that the engines' speed depends on, as Linux names them.
INSTRUCTIONS = ("avx2", "avx512f", "avx512_vnni", "avx_vnni", "avx512_bf16", "amx_int8", "amx_bf16")
#: What has a column of its own.
_COLUMNS = ("benchmark", "figure", "value", "unit", "target", "met", "against")
#: Units of ratios that shall be at least the target; of all others a value shall be at most that.
_AT_LEAST = ("times", "agreement")


def main() -> int:
    """Write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("file", nargs="?", type=argparse.FileType("r", encoding="utf-8"), default=sys.stdin)
    write(read_lines(parser.parse_args().file))
    return 0


def read_lines(lines: Iterable[str]) -> list[dict[str, Any]]:
    """The figures among lines of output: the JSON objects that name their benchmark."""
    found = [json.loads(line) for line in lines if line.startswith("{")]
    return [line for line in found if "benchmark" in line]


def write(figures: list[dict[str, Any]], document: Path = DOCUMENT) -> None:
    """Put the tables of some figures between the document's markers.

    Raises:
        SystemExit: the document lacks them.
    """
    text = document.read_text(encoding="utf-8")
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise SystemExit(f"{document} lacks the lines {BEGIN} and {END}")
    document.write_text(f"{before}{BEGIN}\n\n{machine()}\n\n{tables(figures)}\n{END}{after}", encoding="utf-8")


def tables(figures: list[dict[str, Any]]) -> str:
    """Markdown: a heading and a table for each benchmark, in the order in which they come."""
    return "\n".join(
        f"### {name}\n\n| Figure | Measured | Target | Met | Against | Facts |\n|---|---|---|---|---|---|\n"
        + "".join(f"{row(figure)}\n" for figure in group)
        for name, group in groupby((judged for figure in figures for judged in judgements(figure)), by_benchmark)
    )


def by_benchmark(figure: Mapping[str, Any]) -> str:
    return str(figure["benchmark"])


def judgements(figure: dict[str, Any]) -> list[dict[str, Any]]:
    """A line of the latency benchmark has a figure for each route and load; others are one figure."""
    if "busy" not in figure:
        return [figure]
    target = figure["target_p99_ms"]
    return [
        {
            "benchmark": figure["benchmark"],
            "figure": f"{route}, {load}: 99th percentile",
            "value": found["p99_ms"],
            "unit": "ms",
            "target": target,
            "met": found["p99_ms"] <= target,
            **{name: fact for name, fact in found.items() if name != "p99_ms"},
        }
        for load in ("idle", "busy")
        for route, found in figure[load].items()
    ]


def row(figure: Mapping[str, Any]) -> str:
    """One figure as a row."""
    unit = "" if figure["unit"] == "agreement" else f" {figure['unit']}"
    bound = "≥" if figure["unit"] in _AT_LEAST else "≤"
    facts = "; ".join(fact(name, value) for name, value in figure.items() if name not in _COLUMNS)
    cells = (
        figure["figure"],
        f"{number(figure['value'])}{unit}",
        f"{bound} {number(figure['target'])}",
        "yes" if figure["met"] else "**no**",
        figure.get("against", ""),
        facts,
    )
    return "| " + " | ".join(str(cell).replace("|", "\\|") for cell in cells) + " |"


def fact(name: str, value: Any) -> str:
    """A fact in words: `ours_ms` 0.6 is "ours 0.6 ms"."""
    words = name.split("_")
    unit = {"ms": "ms", "mb": "MB", "s": "s"}.get(words[-1], "")
    if words[-2:] == ["per", "s"]:
        words, unit = words[:-2], "/s"
    elif unit:
        words = words[:-1]
    if isinstance(value, Mapping):
        shown = ", ".join(f"{key}: {number(entry)}" for key, entry in value.items())
    elif isinstance(value, list):
        shown = ", ".join(map(str, value)) or "none"
    else:
        shown = number(value)
    return f"{' '.join(words)} {shown}{' ' if unit and unit != '/s' else ''}{unit}"


def number(value: Any) -> str:
    """A number without digits that tell nothing; other values as they are."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value)
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:g}"


def machine() -> str:
    """The machine and the libraries, in a sentence."""
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in LIBRARIES)
    model, flags = processor()
    known = ", ".join(flag for flag in INSTRUCTIONS if flag in flags) or "none of AVX2 and later"
    return (
        f"Measured on {datetime.now(UTC):%Y-%m-%d} with {os.cpu_count()} cores of {model} ({known}), no GPU used; "
        f"Python {platform.python_version()}, {versions}."
    )


def processor() -> tuple[str, frozenset[str]]:
    """Its name and its instruction sets, as far as the system tells."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return platform.processor() or platform.machine(), frozenset()
    fields = dict(line.split(":", 1) for line in text.splitlines() if ":" in line)
    values = {name.strip(): value.strip() for name, value in fields.items()}
    return values.get("model name", platform.machine()), frozenset(values.get("flags", "").split())


if __name__ == "__main__":
    sys.exit(main())
