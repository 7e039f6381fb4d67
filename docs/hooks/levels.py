"""`python docs/hooks/levels.py` writes the table of levels in architecture.md from pyproject.toml and the docstrings."""

from __future__ import annotations

import ast
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "architecture.md"
BEGIN, END = "<!-- levels: written by docs/hooks/levels.py -->\n", "<!-- end of levels -->\n"


def levels() -> list[list[str]]:
    """The modules of each level, the highest first, as pyproject.toml lists them for import-linter."""
    config = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    layers: list[str] = config["tool"]["importlinter"]["contracts"][0]["layers"]
    return [layer.split(" | ") for layer in layers]


def contract_of(module: str) -> str:
    """The first line of a module's docstring."""
    path = ROOT / module.replace(".", "/")
    source = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    text = ast.get_docstring(ast.parse(source.read_text(encoding="utf-8"))) or ""
    return text.partition("\n")[0].replace("|", "\\|")


def table() -> str:
    """The table in Markdown."""
    numbered = reversed(list(enumerate(reversed(levels()), start=1)))
    rows = [f"| {number} | `{module}` | {contract_of(module)} |" for number, modules in numbered for module in modules]
    return "\n".join(["| Level | Module | What it is |", "|---|---|---|", *rows, ""])


def page() -> str:
    """architecture.md with the table in its place."""
    text = PAGE.read_text(encoding="utf-8")
    before, _, rest = text.partition(BEGIN)
    return f"{before}{BEGIN}\n{table()}\n{END}{rest.partition(END)[2]}"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
