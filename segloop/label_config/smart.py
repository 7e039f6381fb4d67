"""The tags of a label config that smart tools need: what is wrong with them, and how to add them."""

from __future__ import annotations

import re
from html import escape
from typing import Final

from segloop.label_config.config import LabelConfig
from segloop.label_config.parse import parse_label_config

#: Tags whose tools have a smart twin that asks for nothing.
_HIDING: Final = ("brushlabels", "bitmasklabels")
_OPENING: Final = re.compile(r"<(?P<tag>BrushLabels|BitmaskLabels|KeyPointLabels)\b(?P<rest>[^>]*)", re.IGNORECASE)
_SMART: Final = re.compile(r"\bsmart\s*=\s*[\"'](?P<value>[^\"']*)[\"']", re.IGNORECASE)
_CLOSING: Final = re.compile(r"</\s*View\s*>\s*$", re.IGNORECASE)


def has_smart_clicks(config: str) -> bool:
    """Whether a label config has a KeyPointLabels tag whose clicks ask for a region."""
    return any(tag.lower() == "keypointlabels" and smart == "true" for tag, smart in _tags(config))


def smart_tag_problem(config: str) -> str:
    """Why the smart keypoint of a label config is not found by those who look for it; empty where nothing is in the way."""
    hiding = [tag for tag, smart in _tags(config) if tag.lower() in _HIDING and smart != "false"]
    if not hiding or not has_smart_clicks(config):
        return ""
    return (
        f'its {hiding[0]} tag has no smart="false", so that the button of the smart tools is that of a smart {hiding[0]}, which '
        "asks for nothing, and the smart keypoint is in a list that opens beside it"
    )


def with_smart_tags(config: str) -> str:
    """A label config in which a click asks for a region by the first button of the smart tools; as it was where that is so
    already, or where it has several images.

    Raises:
        LabelConfigError: the config cannot be used.
    """
    parsed = parse_label_config(config)
    if len(parsed.images) != 1 or parsed.images[0].repeats:
        return config
    changed = _OPENING.sub(_without_smart_twin, config)
    if has_smart_clicks(changed):
        return changed
    tags = _keypoints(parsed)
    return _CLOSING.sub(lambda closing: f"{tags}{closing[0]}", changed) if _CLOSING.search(changed) else config


def _tags(config: str) -> list[tuple[str, str]]:
    """The control tags with the value of their attribute `smart`, in lower case."""
    found = []
    for opening in _OPENING.finditer(config):
        smart = _SMART.search(opening["rest"])
        found.append((opening["tag"], smart["value"].lower() if smart else ""))
    return found


def _without_smart_twin(opening: re.Match[str]) -> str:
    tag, rest = opening["tag"], opening["rest"]
    if tag.lower() not in _HIDING or _SMART.search(rest):
        return opening[0]
    return f'<{tag} smart="false"{rest}'


def _keypoints(parsed: LabelConfig) -> str:
    """A KeyPointLabels tag with the labels that can be predicted."""
    image = parsed.images[0].name
    labels = [label for control in parsed.outputs(image).values() for label in control.labels]
    written = dict.fromkeys(
        f'    <Label value="{escape(label.value)}"'
        + (f' alias="{escape(label.name)}"' if label.name != label.value else "")
        + (f' background="{escape(label.background)}"' if label.background else "")
        + "/>\n"
        for label in labels
    )
    taken = {control.name for control in parsed.controls} | {name for name, _ in parsed.objects}
    name = next(name for name in ("click", *(f"click{number}" for number in range(2, 100))) if name not in taken)
    return (
        f'  <Header value="Click with Ctrl and one of these: segloop finds the region" size="6"/>\n'
        f'  <KeyPointLabels name="{name}" toName="{escape(image)}" smart="true" smartOnly="true">\n'
        f"{''.join(written)}  </KeyPointLabels>\n"
    )
