"""Which metrics and labels a PromQL expression asks for."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import promql_parser
import yaml

from segloop.web.metric_table import METRICS

ROOT = Path(__file__).resolve().parents[1]
ALERTS = ROOT / "deploy/prometheus/alerts.yml"
DASHBOARD = ROOT / "docs/grafana/segloop.json"
#: What Grafana puts in place of its variables.
GRAFANA = {"$__rate_interval": "5m", "$instance": ".*"}


def exposed() -> dict[str, set[str]]:
    """Every series that `/metrics` has, with its labels and those of the scrape."""
    found: dict[str, set[str]] = {"up": {"job", "instance"}}
    for metric in METRICS:
        labels = {*metric.labels, "job", "instance"}
        suffixes = ("_bucket", "_sum", "_count") if metric.kind == "histogram" else ("",)
        for suffix in suffixes:
            found[metric.series + suffix] = labels | ({"le"} if suffix == "_bucket" else set())
    return found


def selectors(expression: str) -> Iterator[tuple[str, set[str]]]:
    """Each metric of an expression, with the labels that it is selected and grouped by."""
    yield from _walk(promql_parser.parse(expression), frozenset())


def _walk(node: Any, grouped: frozenset[str]) -> Iterator[tuple[str, set[str]]]:
    if isinstance(node, promql_parser.VectorSelector):
        yield node.name, {matcher.name for matcher in node.matchers.matchers} | grouped
    elif isinstance(node, promql_parser.MatrixSelector):
        yield from _walk(node.vector_selector, grouped)
    elif isinstance(node, promql_parser.AggregateExpr):
        own = frozenset(node.modifier.labels) if node.modifier is not None else frozenset()
        yield from _walk(node.expr, grouped | own)
    elif isinstance(node, promql_parser.BinaryExpr):
        yield from _walk(node.lhs, grouped)
        yield from _walk(node.rhs, grouped)
    elif isinstance(node, promql_parser.Call):
        for argument in node.args:
            yield from _walk(argument, grouped)
    elif isinstance(node, promql_parser.ParenExpr | promql_parser.UnaryExpr):
        yield from _walk(node.expr, grouped)
    else:
        assert isinstance(node, promql_parser.NumberLiteral | promql_parser.StringLiteral), node


def dashboard() -> list[tuple[str, str]]:
    """Title and expression of every query of the dashboard."""
    panels = json.loads(DASHBOARD.read_text("utf-8"))["panels"]
    queries = [(panel["title"], target["expr"]) for panel in panels for target in panel.get("targets", ())]
    for variable, value in GRAFANA.items():
        queries = [(title, text.replace(variable, value)) for title, text in queries]
    return queries


def alerts() -> list[tuple[str, str]]:
    """Name and expression of every alert."""
    groups = yaml.safe_load(ALERTS.read_text("utf-8"))["groups"]
    return [(rule["alert"], rule["expr"]) for group in groups for rule in group["rules"]]
