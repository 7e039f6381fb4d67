"""What the attributes of a label config stand for in a task: `$variables`, and the pages of a Repeater."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

#: A variable, as the editor finds it (utils/data.js, parseValue): so a dot after it belongs to it.
_VARIABLE = re.compile(r"\$([\w\[\].{}]+)", re.ASCII)
#: An attribute that is nothing but a variable; in any alphabet, as nothing ends it.
_ONE_VARIABLE = re.compile(r"\$([\w\[\].{}]+)")

#: Digits of an index, at most: Python refuses to read some thousands.
_MOST_DIGITS = 9


@dataclass(frozen=True)
class Repeat:
    """A Repeater around a tag: the tag stands once for each item of the task's list `on`, `flag` replaced by its index."""

    on: str
    flag: str


def key_of(source: str) -> str:
    """What an attribute with data says: a field, without its `$`, or a text as it is."""
    source = source.strip()
    variable = _ONE_VARIABLE.fullmatch(source)
    return variable[1] if variable else source


def has_variable(text: str) -> bool:
    """Whether a text reads differently in each task."""
    return _VARIABLE.search(text) is not None


def resolve(data: Mapping[str, object], key: str) -> object:
    """What such a key stands for in a task's data; None where a field is missing.

    A text has its variables replaced; one without variables that looks like an address stands for itself.
    """
    whole = key.removeprefix("$")  # the editor takes no other letters into a variable than ASCII's, but people do
    if whole in data:
        return data[whole]
    variable = _ONE_VARIABLE.fullmatch(key)
    if variable:
        return _field(data, variable[1])
    if "$" not in key:
        return key if key.startswith("/") or "://" in key else _field(data, key)
    parts = {name: _text(_field(data, name)) for name in _VARIABLE.findall(key)}
    return None if None in parts.values() else _VARIABLE.sub(lambda match: parts[match[1]] or "", key)


def pages(repeats: Sequence[Repeat], data: Mapping[str, object]) -> Iterator[dict[str, str]]:
    """The index of each flag, for each page of a repeated tag; once none for a tag that is not repeated."""
    if not repeats:
        yield {}
        return
    outer, *inner = repeats
    items = resolve(data, key_of(outer.on))
    for index in range(len(items) if isinstance(items, list) else 0):
        flag = {outer.flag: str(index)}
        within = [Repeat(with_flags(flag, repeat.on), repeat.flag) for repeat in inner]
        yield from (flag | flags for flags in pages(within, data))


def with_flags(flags: Mapping[str, str], text: str) -> str:
    """A text of a repeated tag, as it reads on one page."""
    for flag, index in flags.items():
        text = text.replace(flag, index)
    return text


def flags_in(name: str, template: str, repeats: Sequence[Repeat]) -> dict[str, str] | None:
    """The index of each flag with which `template` reads `name`; None where there are none such."""
    match = _pattern(template, tuple(repeat.flag for repeat in repeats)).fullmatch(name)
    if match is None:
        return None
    return {repeats[int(group[1:])].flag: index for group, index in match.groupdict().items()}


@lru_cache(maxsize=256)
def _pattern(template: str, flags: tuple[str, ...]) -> re.Pattern[str]:
    # in one go: a flag such as "d" must not be found in what stands for another one
    pattern, seen = "", set()
    for part in re.split(f"({'|'.join(map(re.escape, flags))})", template):
        if part not in flags:
            pattern += re.escape(part)
            continue
        group = f"f{flags.index(part)}"
        pattern += f"(?P={group})" if group in seen else rf"(?P<{group}>\d+)"
        seen.add(group)
    return re.compile(pattern, re.ASCII)


def _text(value: object) -> str | None:
    """A value as JavaScript writes it into a text; None for what is no address or part of one."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return str(value) if isinstance(value, (str, int, float)) else None


def _field(data: Mapping[str, object], key: str) -> object:
    """The field `key` of a task's data: by that very name, else as a path such as `pages[0].url`."""
    if key in data:
        return data[key]
    value: object = data
    for name in re.findall(r"[^.\[\]]+", key):
        if isinstance(value, Mapping):
            value = value.get(name)
        elif isinstance(value, list) and name.isdecimal() and len(name) <= _MOST_DIGITS and int(name) < len(value):
            value = value[int(name)]
        else:
            return None
    return value
