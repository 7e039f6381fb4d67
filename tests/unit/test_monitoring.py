"""The dashboard, the alerts and docs/operations.md ask for metrics that there are."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from segloop.web.metric_table import METRICS, PROCESS, SCRAPED
from tests.promql import ALERTS, DASHBOARD, ROOT, alerts, dashboard, exposed, selectors

PROMTOOL = shutil.which("promtool", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
QUERIES = [*dashboard(), *alerts()]


@pytest.mark.parametrize(("name", "expression"), QUERIES, ids=[f"{name}-{at}" for at, (name, _) in enumerate(QUERIES)])
def test_a_query_asks_for_what_is_exposed(name: str, expression: str) -> None:
    known = exposed()
    asked = list(selectors(expression))
    assert asked, expression
    for series, labels in asked:
        assert series in known, f"{series} is not exposed"
        assert labels <= known[series], f"{series} has no label {labels - known[series]}"


def test_a_wrong_query_would_be_found() -> None:
    [(series, labels)] = selectors('sum by (colour) (rate(segloop_swaps_total{project="1"}[5m]))')
    assert labels - exposed()[series] == {"colour"}
    assert "segloop_swaps" not in exposed(), "a counter's name ends in _total"


def test_every_metric_is_on_the_dashboard() -> None:
    shown = " ".join(expression for _, expression in dashboard())
    missing = {metric.name for metric in METRICS if metric.name not in shown}
    assert missing == {"segloop_build"}, "and the release is in the variable that lists hosts"
    assert "label_values(segloop_build_info, instance)" in DASHBOARD.read_text("utf-8")


def test_panels_lie_side_by_side() -> None:
    panels = json.loads(DASHBOARD.read_text("utf-8"))["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    cells = [
        (x, y)
        for panel in panels
        for place in [panel["gridPos"]]
        for x in range(place["x"], place["x"] + place["w"])
        for y in range(place["y"], place["y"] + place["h"])
    ]
    assert len(cells) == len(set(cells))
    assert max(x for x, _ in cells) == 23


def test_alerts_say_what_is_wrong_with_labels_that_they_keep() -> None:
    for group in yaml.safe_load(ALERTS.read_text("utf-8"))["groups"]:
        for rule in group["rules"]:
            assert rule["labels"]["severity"] in ("warning", "critical")
            used = set(re.findall(r"\$labels\.(\w+)", rule["annotations"]["summary"]))
            kept = set().union(*(exposed()[series] for series, _ in selectors(rule["expr"])))
            by = set(re.findall(r"\bby \(([^)]*)\)", rule["expr"]))
            if by:
                kept = {label.strip() for labels in by for label in labels.split(",")}
            assert used <= kept, rule["alert"]


def test_names_follow_prometheus() -> None:
    for metric in METRICS:
        assert re.fullmatch(r"segloop_[a-z_]+", metric.name)
        assert not metric.name.endswith(("_total", "_info", "_count", "_sum", "_bucket")), "the library adds these"
        assert metric.help.endswith(".")
        if metric.kind == "histogram":
            assert metric.name.endswith("_seconds")
            assert list(metric.buckets) == sorted(metric.buckets)
    assert len({metric.name for metric in METRICS}) == len(METRICS)
    assert not {"histogram"} & {metric.kind for metric in PROCESS.values()}
    assert SCRAPED["jobs"].labels == ("queue", "state")


def test_the_page_has_every_metric_as_the_code_has_it() -> None:
    page = (ROOT / "docs/operations.md").read_text("utf-8")
    rows = [line for line in page.splitlines() if line.startswith("| `segloop_")]
    expected = [
        f"| `{metric.series}` | {metric.kind} | {', '.join(f'`{label}`' for label in metric.labels) or '-'} | {metric.help} |"
        for metric in METRICS
    ]
    assert rows == expected


needs_promtool = pytest.mark.skipif(PROMTOOL is None, reason="no promtool: `make promtool`")


@needs_promtool
def test_promtool_accepts_the_configuration(tmp_path: Path) -> None:
    shutil.copytree(ALERTS.parent, tmp_path, dirs_exist_ok=True)
    (tmp_path / "segloop.password").write_text("x")
    subprocess.run([PROMTOOL, "check", "config", str(tmp_path / "prometheus.yml")], check=True, timeout=60)


@needs_promtool
def test_alerts_fire_when_they_should_and_only_then() -> None:
    cases = ROOT / "tests/alerts_test.yml"
    done = subprocess.run(
        [PROMTOOL, "test", "rules", str(cases)], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    tried = set(re.findall(r"alertname: (\w+)", cases.read_text("utf-8")))
    assert tried == {name for name, _ in alerts()}, "each alert has a case"
