"""What the roles of aws/template.yaml hold, read from the template itself."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import yaml

from tests.aws.ministack import TEMPLATE


class _Loader(yaml.SafeLoader):
    """CloudFormation's short forms as their long ones."""


def _tagged(loader: _Loader, tag: str, node: yaml.Node) -> dict[str, Any]:
    name = tag if tag in ("Ref", "Condition") else f"Fn::{tag}"
    if isinstance(node, yaml.ScalarNode):
        return {name: loader.construct_scalar(node)}
    if isinstance(node, yaml.SequenceNode):
        return {name: loader.construct_sequence(node, deep=True)}
    assert isinstance(node, yaml.MappingNode)
    return {name: loader.construct_mapping(node, deep=True)}


_Loader.add_multi_constructor("!", _tagged)


def template() -> dict[str, Any]:
    """The template as JSON would have it."""
    loaded: dict[str, Any] = yaml.load(TEMPLATE.read_text("utf-8"), _Loader)
    return loaded


def statements() -> Iterator[tuple[str, dict[str, Any]]]:
    """Each statement of a role's policies, whatever its condition, with the role's logical id."""
    for name, resource in template()["Resources"].items():
        if resource["Type"] == "AWS::IAM::Role":
            for statement in _statements(resource["Properties"]["Policies"]):
                yield name, statement


def permissions() -> list[tuple[str, str]]:
    """Each role with each action that it may hold."""
    return sorted({(role, action) for role, statement in statements() for action in actions(statement)})


def actions(statement: dict[str, Any]) -> list[str]:
    """The actions of a statement."""
    found = statement["Action"]
    return [found] if isinstance(found, str) else list(found)


def without(policy: dict[str, Any], action: str) -> dict[str, Any]:
    """A policy document that lacks an action."""
    kept = [
        {**statement, "Action": left}
        for statement in policy["Statement"]
        if (left := [one for one in actions(statement) if one != action])
    ]
    return {**policy, "Statement": kept}


def _statements(value: Any) -> Iterator[dict[str, Any]]:
    if isinstance(value, dict) and "Action" in value:
        yield value
    elif isinstance(value, (dict, list)):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _statements(item)
