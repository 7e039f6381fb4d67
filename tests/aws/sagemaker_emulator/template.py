"""What a CloudFormation template says once its functions are computed: the part of it that the emulator needs."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

Json = dict[str, Any]


class Template:
    """A template with its parameters.

    Args:
        attributes: values of what resources give: `Name` for Ref, `Name.Attribute` for GetAtt.
    """

    def __init__(self, path: Path, parameters: Mapping[str, str], attributes: Callable[[str], Any]) -> None:
        from cfnlint.decode import decode  # takes more than a second to import

        body, problems = decode(str(path))
        assert body is not None, problems
        self._body: Json = body
        declared = self._body["Parameters"]
        unknown = sorted(parameters.keys() - declared.keys())
        assert not unknown, f"the template has no parameters {unknown}"
        missing = [name for name, item in declared.items() if "Default" not in item and name not in parameters]
        assert not missing, f"the template needs the parameters {missing}"
        defaults = {name: item.get("Default") for name, item in declared.items()}
        self.parameters = {name: str(value) for name, value in {**defaults, **parameters}.items()}
        for name, item in declared.items():
            pattern = item.get("AllowedPattern")
            assert not pattern or re.fullmatch(pattern, self.parameters[name]), (name, self.parameters[name], pattern)
        self._attributes = attributes

    def resource(self, name: str) -> Json:
        """The properties of a resource."""
        found: Json = self.value(self._body["Resources"][name].get("Properties", {}))
        return found

    def resources(self, kind: str) -> list[str]:
        """The names of a type's resources."""
        return [name for name, item in self._body["Resources"].items() if item["Type"] == kind]

    def outputs(self) -> dict[str, str]:
        """The outputs."""
        return {name: str(self.value(item["Value"])) for name, item in self._body["Outputs"].items()}

    def value(self, value: Any) -> Any:
        """A value with its functions computed; what is AWS::NoValue is left out."""
        if isinstance(value, list):
            return [item for item in map(self.value, value) if item is not None]
        if not isinstance(value, dict):
            return value
        if len(value) == 1:
            (name, argument), = value.items()  # fmt: skip
            if name == "Ref":
                return self._ref(argument)
            if name.startswith("Fn::"):
                return getattr(self, f"_{name.removeprefix('Fn::').lower()}")(argument)
        computed = {name: self.value(item) for name, item in value.items()}
        return {name: item for name, item in computed.items() if item is not None}

    def _ref(self, name: str) -> Any:
        pseudo = {
            "AWS::Partition": "aws",
            "AWS::Region": "us-east-1",
            "AWS::AccountId": "123456789012",
            "AWS::URLSuffix": "amazonaws.com",
            "AWS::NoValue": None,
        }
        if name in pseudo:
            return pseudo[name]
        return self.parameters[name] if name in self.parameters else self._attributes(name)

    def _getatt(self, argument: Any) -> Any:
        return self._attributes(argument if isinstance(argument, str) else ".".join(argument))

    def _sub(self, argument: Any) -> str:
        text, own = (argument, {}) if isinstance(argument, str) else argument
        values = {name: self.value(item) for name, item in own.items()}

        def replaced(found: re.Match[str]) -> str:
            name = found[1]
            if name in values:
                return str(values[name])
            return str(self._getatt(name) if "." in name else self._ref(name))

        return re.sub(r"\$\{([A-Za-z0-9:.]+)\}", replaced, text)

    def _if(self, argument: Any) -> Any:
        name, yes, no = argument
        return self.value(yes if self._holds(self._body["Conditions"][name]) else no)

    def _holds(self, condition: Any) -> bool:
        ((name, argument),) = condition.items()
        if name == "Fn::Not":
            return not self._holds(argument[0])
        assert name == "Fn::Equals", name
        first, second = map(self.value, argument)
        return bool(first == second)

    def _select(self, argument: Any) -> Any:
        return self.value(argument[1])[int(argument[0])]

    def _join(self, argument: Any) -> str:
        return str(argument[0]).join(map(str, self.value(argument[1])))

    def _split(self, argument: Any) -> list[str]:
        return str(self.value(argument[1])).split(argument[0])
