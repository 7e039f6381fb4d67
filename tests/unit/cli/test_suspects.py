"""`segloop suspects` over a real store."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from segloop.cli import main
from segloop.registry import Registry, open_registry
from segloop.settings import load_settings
from segloop.suspects import keep_verdict
from tests.bundles import PROJECT, make_info
from tests.suspects import put_into, some_suspects
from tests.toys import BRUSH


@pytest.fixture
def registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Registry:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SEGLOOP_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setenv("LABEL_STUDIO_PUBLIC_URL", "https://labels.example")
    monkeypatch.setenv("SEGLOOP_LABEL_STUDIO_PUBLIC_URL", "https://labels.example")
    registry = open_registry(load_settings())
    registry.write_json(PROJECT, "project.json", {"project": PROJECT, "label_config": BRUSH})
    return registry


def run(*arguments: str) -> Result:
    result = CliRunner(env={"COLUMNS": "200"}).invoke(main, ["suspects", "--project", "29", *arguments])
    assert result.exit_code == 0, result.output
    return result


def test_suspects_are_listed_with_verdicts_and_links(registry: Registry, tmp_path: Path) -> None:
    assert "No training has looked" in run().stdout
    assert json.loads(run("--json").stdout)["suspects"] == []
    bundle = tmp_path / "bundle"
    bundle.mkdir()
    (bundle / "model.safetensors").write_bytes(b"weights")
    put_into(bundle, some_suspects())
    version = registry.add(PROJECT, bundle, make_info())
    suspects = some_suspects()
    keep_verdict(registry, PROJECT, suspects.images[0], suspects.suspects[0], "wrong")
    text = run().stdout
    assert "https://labels.example/projects/29/data?task=2" in text
    assert f"{version} looked at 2 of 2 held-out images and at 0 of 8 training images." in text
    assert "Of 1 judged labels 1 were wrong." in text
    listed = json.loads(run("--json").stdout)
    assert [(one["task"], one["labelled"], one["verdict"]) for one in listed["suspects"]] == [
        (2, "Road", None),
        (1, "Sky", None),
    ]
    assert (listed["version"], listed["precision"]) == (version, 1.0)
    assert len(json.loads(run("--json", "--judged").stdout)["suspects"]) == 3


def test_labels_are_no_markup(registry: Registry, tmp_path: Path) -> None:
    bundle = tmp_path / "bundle"
    bundle.mkdir()
    (bundle / "model.safetensors").write_bytes(b"weights")
    found = some_suspects(1)
    odd = [suspect.model_copy(update={"labelled": "[bold]", "seen": "[/road]"}) for suspect in found.suspects]
    put_into(bundle, found.model_copy(update={"suspects": tuple(odd)}))
    registry.add(PROJECT, bundle, make_info())
    text = run().stdout
    assert "[bold]" in text
    assert "[/road]" in text
