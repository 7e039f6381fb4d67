"""The tags that smart tools need: found, explained, added."""

from __future__ import annotations

import pytest

from demo.data import DemoData
from segloop.errors import LabelConfigError
from segloop.label_config import has_smart_clicks, parse_label_config, smart_tag_problem, with_smart_tags

LABELS = '<Label value="Road" background="#ff0000"/><Label value="Fish &amp; chips" alias="F&amp;C"/>'
IMAGE = '<Image name="image" value="$image"/>'
BRUSH = f'<View>{IMAGE}<BrushLabels name="tag" toName="image">{LABELS}</BrushLabels></View>'
PAGES = (
    '<View><Repeater on="$pages"><Image name="p_{{idx}}" value="$pages[{{idx}}].url"/>'
    '<BrushLabels name="b_{{idx}}" toName="p_{{idx}}"><Label value="Road"/></BrushLabels></Repeater></View>'
)
CLICKS = f'<KeyPointLabels name="kp" toName="image" smart="true">{LABELS}</KeyPointLabels>'
HIDDEN = BRUSH.replace("</View>", f"{CLICKS}</View>")
FOUND = HIDDEN.replace("<BrushLabels", '<BrushLabels smart="false"')


def test_a_brush_that_is_smart_by_default_hides_the_smart_keypoint() -> None:
    assert 'BrushLabels tag has no smart="false"' in smart_tag_problem(HIDDEN)
    assert smart_tag_problem(FOUND) == ""
    assert smart_tag_problem(BRUSH) == ""
    assert [has_smart_clicks(config) for config in (BRUSH, HIDDEN, FOUND)] == [False, True, True]


@pytest.mark.parametrize("config", [BRUSH, HIDDEN])
def test_what_is_added_makes_clicks_ask_for_a_region_of_the_same_labels(config: str) -> None:
    changed = with_smart_tags(config)
    assert has_smart_clicks(changed)
    assert smart_tag_problem(changed) == ""
    before, after = parse_label_config(config), parse_label_config(changed)
    assert after.outputs("image").keys() == before.outputs("image").keys()
    [clicks] = [control for control in after.controls if control.tag == "KeyPointLabels"]
    assert [label.name for label in clicks.labels] == ["Road", "F&C"]
    assert with_smart_tags(changed) == changed


def test_a_name_that_is_taken_is_not_taken_again() -> None:
    taken = BRUSH.replace('name="tag"', 'name="click"')
    assert 'name="click2"' in with_smart_tags(taken)


@pytest.mark.parametrize(
    "config",
    [
        FOUND,
        BRUSH.replace(IMAGE, f'{IMAGE}<Image name="second" value="$second"/>'),
        PAGES,
    ],
)
def test_what_works_or_cannot_be_told_stays_as_it_is(config: str) -> None:
    assert with_smart_tags(config) == config


def test_a_config_that_cannot_be_used_is_refused() -> None:
    with pytest.raises(LabelConfigError):
        with_smart_tags("<View/>")


def test_the_demo_has_what_it_takes() -> None:
    config = DemoData(("Road", "Sky"), (), ()).label_config
    assert has_smart_clicks(config)
    assert smart_tag_problem(config) == ""
