"""`python -m benchmarks.fleet --small`: what a small fleet asks for, whatever the machine's speed."""

from __future__ import annotations

import json

import pytest

from benchmarks.fleet import SMALL, measure


@pytest.mark.slow
def test_a_small_fleet(capsys: pytest.CaptureFixture[str]) -> None:
    measure(SMALL)
    found = {one["figure"]: one for one in map(json.loads, capsys.readouterr().out.splitlines())}
    assert found["calls of the store by a quiet server in an interval"]["value"] == 1
    assert found["reconciling every project once"]["reconciled"] == SMALL.projects
    counted = [one for one in found.values() if one["unit"].endswith("a project")]
    assert len(counted) == 3
    assert all(one["met"] for one in counted), counted
