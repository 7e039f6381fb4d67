"""`segloop accept` over a real store and queue; tests/integration/test_accept.py takes back what a real Label Studio has."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from segloop.accept import AcceptState, Calibration, Suspension, read_accept, write_accept
from segloop.cli import main
from segloop.queue import PRELABEL_QUEUE, Jobs
from segloop.registry import Registry, open_registry
from segloop.settings import load_settings
from tests.toys import BRUSH

KEY = "29.1795383040"
ON = {"SEGLOOP_AUTO_ACCEPT": "true"}
#: The discard port: nothing answers.
AWAY = {"LABEL_STUDIO_API_KEY": "0123456789abcdef", "LABEL_STUDIO_URL": "http://127.0.0.1:9"}


@pytest.fixture
def registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, redis_url: str) -> Registry:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SEGLOOP_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setenv("REDIS_URL", redis_url)
    registry = open_registry(load_settings())
    registry.write_json(KEY, "project.json", {"project": KEY, "label_config": BRUSH})
    return registry


def run(*arguments: str, **environment: str) -> Result:
    return CliRunner(env={"COLUMNS": "200", **environment}).invoke(main, ["accept", *arguments])


def test_it_is_off_until_it_is_switched_on(registry: Registry) -> None:
    assert "Auto-accept is off." in run("status").stdout
    refused = run("run", "--project", "29")
    assert (refused.exit_code, "set SEGLOOP_AUTO_ACCEPT=true" in refused.stderr) == (1, True)
    assert "Not yet: no version was looked at" in run("status", **ON).stdout


def test_run_goes_on_after_a_suspension(registry: Registry) -> None:
    suspended = Suspension(reason="the audit found 3 of 4 pre-labels wrong.", since="2026-11-22T12:00:00+00:00")
    groups = {"": Calibration(labels=9, above=8, needed=51)}
    write_accept(registry, KEY, AcceptState(version="v1-00000001", groups=groups, suspended=suspended))
    assert "Suspended: the audit found 3 of 4" in run("status", **ON).stdout
    going = run("run", **ON)
    assert (going.exit_code, "is queued" in going.stdout) == (0, True), going.output
    jobs = Jobs.open(load_settings())
    queued = [list(job.args) for job in jobs.queue(PRELABEL_QUEUE).get_jobs() if job]
    jobs.close()
    assert queued == [[KEY]]
    assert "51 more blind labels are needed" in run("status", **ON).stdout
    assert json.loads(run("status", "--json", **ON).stdout)["groups"][""]["needed"] == 51


def test_undo_suspends_first_even_where_label_studio_is_away(registry: Registry) -> None:
    failed = run("undo", **AWAY)
    assert (failed.exit_code, "cannot be reached" in failed.stderr) == (1, True)
    assert read_accept(registry, KEY).suspended is not None
