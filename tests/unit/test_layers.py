"""The import contracts of pyproject.toml hold, and no module is without a level."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
_SPEC = importlib.util.spec_from_file_location("levels", ROOT / "docs" / "hooks" / "levels.py")
assert _SPEC is not None
assert _SPEC.loader is not None
levels = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(levels)


def test_contracts_hold() -> None:
    program = Path(sys.executable).with_name("lint-imports")
    result = subprocess.run([program, "--no-cache"], cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert result.returncode == 0, result.stdout + result.stderr


def test_every_module_has_a_level() -> None:
    placed = {module for level in levels.levels() for module in level}
    present = {
        f"{package}.{path.stem}"
        for package in ("segloop", "segloop.aws", "worker")
        for path in (ROOT / package.replace(".", "/")).iterdir()
        if (path.suffix == ".py" and path.name != "__init__.py") or (path / "__init__.py").exists()
    }
    assert present - {"segloop.aws"} <= placed, "give it a line in [tool.importlinter] of pyproject.toml"


def test_the_page_has_the_levels_as_they_are() -> None:
    assert levels.PAGE.read_text(encoding="utf-8") == levels.page(), "run `python docs/hooks/levels.py`"
