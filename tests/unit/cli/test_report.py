"""`segloop report` over a real store; Label Studio is away or not set."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from segloop.cli import main
from segloop.ledger import write_ledger
from segloop.registry import Registry, open_registry
from segloop.settings import load_settings
from tests.ledgers import entry, ledger
from tests.toys import BRUSH

KEY = "29.1795383040"


@pytest.fixture
def registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, redis_url: str) -> Registry:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SEGLOOP_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setenv("REDIS_URL", redis_url)
    registry = open_registry(load_settings())
    registry.write_json(KEY, "project.json", {"project": KEY, "label_config": BRUSH})
    write_ledger(registry, KEY, ledger([entry(1, 0, version="v1-00000001"), entry(2, 50, version="v1-00000001")]))
    return registry


def run(*arguments: str, **environment: str) -> Result:
    return CliRunner(env={"COLUMNS": "200", **environment}).invoke(main, ["report", *arguments])


def told(*arguments: str, **environment: str) -> dict[str, Any]:
    result = run("--json", *arguments, **environment)
    assert result.exit_code == 0, result.output
    found: dict[str, Any] = json.loads(result.stdout)
    return found


def test_without_label_studio_it_is_what_was_stored(registry: Registry) -> None:
    found = told("--project", "29")
    assert (found["project"], found["now"]["unchanged"], found["now"]["changed_share"]) == ("29", 0.5, 0.25)
    text = run("--project", "29")
    assert "Accepted unchanged   50.0 % of 2 pre-labels of v1-00000001" in text.stdout
    assert "set LABEL_STUDIO_API_KEY" in text.stderr
    assert KEY not in text.stdout, "the project's id is Label Studio's"


def test_where_label_studio_is_away_it_says_so(registry: Registry) -> None:
    found = told(LABEL_STUDIO_API_KEY="0123456789abcdef", LABEL_STUDIO_URL="http://127.0.0.1:9")
    assert found["now"]["annotations"] == 2
    assert "cannot be reached" in found["problems"][0]


def test_a_queue_that_is_away_is_unknown(registry: Registry) -> None:
    found = told(REDIS_URL="redis://127.0.0.1:9/0")
    assert found["next_training"] == "Unknown: the queue cannot be asked."


def test_the_page_is_a_file(registry: Registry, tmp_path: Path) -> None:
    result = run("--html", "report.html")
    assert result.stdout.splitlines()[-1] == "report.html"
    assert "Did this help?" in (tmp_path / "report.html").read_text(encoding="utf-8")
    refused = run("--html", "nowhere/report.html")
    assert refused.exit_code == 1
    assert "cannot be written" in refused.stderr


def test_a_project_that_was_never_connected_is_one_line(registry: Registry) -> None:
    result = run("--project", "31")
    assert result.exit_code == 1
    assert result.stderr.count("\n") == 1
