"""Label configs of every shape that Label Studio accepts, and of some that it should not."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from segloop.errors import LabelConfigError
from segloop.label_config import ImageTag, Label, LabelConfig, parse_label_config

IMAGE = '<Image name="image" value="$image"/>'


def brush(labels: str, name: str = "tag", tag: str = "BrushLabels", to: str = "image") -> str:
    return f'<{tag} name="{name}" toName="{to}">{labels}</{tag}>'


def labels(*names: str) -> str:
    return "".join(f'<Label value="{name}"/>' for name in names)


def parse(*parts: str) -> LabelConfig:
    return parse_label_config(f"<View>{''.join(parts)}</View>")


def outputs(config: LabelConfig, image: str = "image", preference: str = "auto") -> dict[str, str]:
    return {name: control.name for name, control in config.outputs(image, preference).items()}  # type: ignore[arg-type]


def test_the_usual_config() -> None:
    config = parse(IMAGE, brush(labels("Road", "Sky")))
    assert config.images == (ImageTag("image", "image", False),)
    assert config.classes == ("Road", "Sky")
    assert config.controls[0].labels == (Label("Road", "Road"), Label("Sky", "Sky"))
    assert outputs(config) == {"Road": "tag", "Sky": "tag"}
    assert config.outputs("other") == {}


def test_each_label_goes_to_the_preferred_tag_that_has_it() -> None:
    config = parse(
        brush(labels("Car", "Road", "Tree"), "poly", "PolygonLabels"),
        brush(labels("Sky", "Road"), "bit", "BitmaskLabels"),
        brush(labels("Road"), "late"),
        brush(labels("Road", "Person"), "later"),
        brush(labels("Box"), "rect", "RectangleLabels"),
        brush(labels("Egg", "Sky"), "oval", "EllipseLabels"),
        brush(labels("Point"), "kp", "KeyPointLabels"),
        IMAGE,
    )
    assert config.classes == ("Car", "Road", "Tree", "Sky", "Person", "Box", "Egg")
    auto = {"Car": "poly", "Road": "late", "Tree": "poly", "Sky": "bit", "Person": "later"}
    assert outputs(config) == outputs(config, preference="brush") == auto
    assert outputs(config, preference="bitmask") == {**auto, "Road": "bit"}
    assert outputs(config, preference="polygon") == {**auto, "Road": "poly"}
    assert list(outputs(config)) == ["Car", "Road", "Tree", "Sky", "Person"]


def test_alias_is_the_name_and_the_value_is_understood() -> None:
    config = parse(
        IMAGE, brush('<Label value="Long road name" alias="Road"/><Label alias="Sky"/><Label value="Tree" alias=""/>')
    )
    assert config.classes == ("Road", "Sky", "Tree")
    assert config.class_of["Long road name"] == "Road"
    assert config.class_of["Road"] == "Road"


def test_an_alias_that_is_anothers_value() -> None:
    config = parse(IMAGE, brush('<Label value="A" alias="B"/><Label value="B" alias="C"/>'))
    assert config.class_of["B"] == "B"
    assert config.class_of["A"] == "B"
    assert config.class_of["C"] == "C"


def test_predicted_values_are_gathered_over_tags() -> None:
    config = parse(
        IMAGE,
        brush('<Label value="Vehicle" predicted_values="car, bus,,car"/><Label value="Sky"/>'),
        brush('<Label value="Vehicle" predicted_values="train"/>', "poly", "PolygonLabels"),
    )
    assert config.predicted_values == {"Vehicle": ("car", "bus", "train"), "Sky": ()}
    assert config.controls[0].labels[0].predicted_values == ("car", "bus", "car")


@pytest.mark.parametrize(
    "name", ["Straße", "道路", "Две дороги", "a  b", " padded ", "x" * 500, "1", "🚗", "a&amp;b", "&lt;b&gt;"]
)
def test_any_label_text(name: str) -> None:
    from html import unescape

    assert parse(IMAGE, brush(labels(name))).classes == (unescape(name),)


def test_several_images_and_controls() -> None:
    config = parse(
        '<Image name="left" value="$left_url"/><Image name="right" valueList="$pages"/>',
        brush(labels("Road"), "l", to="left"),
        brush(labels("Sky"), "r", to="right"),
        brush(labels("Both"), "b", to="left, right"),
        brush(labels("Lost"), "x", to="nowhere"),
    )
    assert config.images == (ImageTag("left", "left_url", False), ImageTag("right", "pages", True))
    assert config.classes == ("Road", "Sky", "Both")
    assert outputs(config, "left") == {"Road": "l", "Both": "b"}
    assert outputs(config, "right") == {"Sky": "r", "Both": "b"}


def test_other_tags_do_not_confuse() -> None:
    config = parse(
        "<!-- a comment --><Style>.a{b:c}</Style><Header value='Draw'/>",
        '<View className="x"><View style="y">' + IMAGE + "</View>",
        '<View visibleWhen="region-selected" whenTagName="tag">',
        '<Choices name="weather" toName="image" perRegion="true"><Choice value="Rain"/></Choices>',
        '<TextArea name="note" toName="image" perRegion="true"/></View>',
        '<Text name="text" value="$text"/><Labels name="ner" toName="text"><Label value="Name"/></Labels>',
        "<HyperText name='html' value='$html'><p>hi</p></HyperText>",
        '<Relations><Relation value="on"/></Relations>',
        brush("<View><Filter name='f' toName='tag'/><View>" + labels("Road") + "</View></View>" + labels("Sky")),
        "<Brush name='plain' toName='image'/></View>",
    )
    assert config.classes == ("Road", "Sky")
    assert outputs(config) == {"Road": "tag", "Sky": "tag"}


def test_labels_with_a_bare_shape_are_read_but_not_written() -> None:
    config = parse(
        IMAGE,
        brush(labels("Sky")),
        '<Labels name="labels" toName="image"><Label value="Road"/></Labels><Polygon name="p" toName="image"/>',
    )
    assert config.classes == ("Sky", "Road")
    assert outputs(config) == {"Sky": "tag"}


def test_case_namespaces_declarations_and_missing_to_name() -> None:
    xml = """\ufeff <?xml version="1.0" encoding="utf-8"?>
    <view xmlns="http://example.org/ls"><IMAGE NAME="image" Value="$image"/>
    <brushlabels name="tag"><label Value="Road" Predicted_Values="car"/></brushlabels></view>"""
    config = parse_label_config(xml)
    assert config.images == (ImageTag("image", "image", False),)
    assert config.controls[0].tag == "BrushLabels"
    assert config.predicted_values == {"Road": ("car",)}
    assert outputs(config) == {"Road": "tag"}


def test_to_name_is_not_guessed_among_several_objects() -> None:
    with pytest.raises(LabelConfigError, match="BrushLabels"):
        parse(IMAGE, '<Text name="t" value="$t"/><BrushLabels name="tag"><Label value="A"/></BrushLabels>')


def test_label_twice_counts_once() -> None:
    config = parse(IMAGE, brush(labels("Road", "Road", "road") + "<Label/><Label value=''/>"))
    assert config.classes == ("Road", "road")


@pytest.mark.parametrize(
    ("xml", "says"),
    [
        ("", "empty"),
        (" \n ", "empty"),
        (None, "empty"),
        (5, "empty"),
        ("<View>", "XML"),
        ("not xml", "XML"),
        ("<View/><View/>", "XML"),
        ("<View>\0</View>", "XML"),
        ('{"a": 1}', "XML"),
        ('<!DOCTYPE v [<!ENTITY a "b">]><View>&a;</View>', "DTD"),
        ('<!DOCTYPE v SYSTEM "file:///etc/passwd"><View/>', "DTD"),
        ("<View>&nbsp;</View>", "XML"),
        ("<View/>", "no Image tag"),
        ("<View><Text name='t' value='$t'/></View>", "no Image tag"),
        ("<View><Image name='image'/></View>", "no Image tag"),
        (f"<View>{IMAGE}</View>", "no BrushLabels, BitmaskLabels or PolygonLabels"),
        (
            f"<View>{IMAGE}<RectangleLabels name='r' toName='image'><Label value='A'/></RectangleLabels></View>",
            "no BrushLabels",
        ),
        (
            f"<View>{IMAGE}<BrushLabels name='b' toName='other'><Label value='A'/></BrushLabels></View>",
            "no BrushLabels",
        ),
        (f"<View>{IMAGE}<BrushLabels name='b' toName='image'/></View>", "'b' .* no labels; add Label tags"),
        (
            f"<View>{IMAGE}<BrushLabels name='b' toName='image' value='$labels'/></View>",
            r"'b' .* no labels of its own: .* each task's data \(value='\$labels'\)",
        ),
        (
            f"<View>{IMAGE}<Brush name='b' toName='image'/><PolygonLabels name='p' toName='image' value='$classes'/></View>",
            r"'p' .* each task's data \(value='\$classes'\)",
        ),
        (
            f"<View>{IMAGE}<Brush name='b' toName='image'/><Labels name='l' toName='image' value='$labels'/></View>",
            r"no BrushLabels.* 'b' draws .* the Labels tag 'l' and from each task's data \(value='\$labels'\)",
        ),
        (
            f"<View>{IMAGE}<Polygon name='p' toName='image'/><Taxonomy name='t' toName='image' value='$tree'/></View>",
            r"no BrushLabels.* Polygon tag 'p' .* Taxonomy tag 't' and from each task's data",
        ),
        (
            f"<View>{IMAGE}<Brush name='b' toName='image'/><Choices name='c' toName='image'/></View>",
            "no BrushLabels.* Brush tag 'b' .* Choices tag 'c': these cannot be predicted",
        ),
        (
            f"<View>{IMAGE}<Brush name='b' toName='image'/></View>",
            "no BrushLabels.* 'b' draws regions that have no class",
        ),
        (f"<View>{IMAGE}{brush(labels('Road', '$kind'))}</View>", r"'\$kind' .* another name in each task"),
        (f"<View>{IMAGE}{brush(labels(*map(str, range(255))))}</View>", "255 labels; at most 254"),
    ],
)
def test_configs_that_cannot_be_used_say_why(xml: object, says: str) -> None:
    with pytest.raises(LabelConfigError, match=says) as caught:
        parse_label_config(xml)  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)


def test_254_labels_are_enough() -> None:
    assert len(parse(IMAGE, brush(labels(*map(str, range(254))))).classes) == 254


def test_deep_nesting_is_read() -> None:
    depth = 5000
    assert parse("<View>" * depth, IMAGE, brush(labels("Road")), "</View>" * depth).classes == ("Road",)


def test_billion_laughs_is_refused() -> None:
    entities = "".join(f'<!ENTITY a{i} "{f"&a{i - 1};" * 10 if i else "ha"}">' for i in range(12))
    with pytest.raises(LabelConfigError, match="DTD"):
        parse_label_config(f"<!DOCTYPE v [{entities}]><View>&a11;</View>")


def test_labels_with_a_magic_wand_are_read() -> None:
    config = parse(
        IMAGE,
        brush(labels("Sky")),
        '<Labels name="labels" toName="image"><Label value="Cloud"/></Labels><MagicWand name="wand" toName="image"/>',
    )
    assert config.classes == ("Sky", "Cloud")


def test_an_alias_or_a_lone_dollar_names_a_label_for_all_tasks() -> None:
    config = parse(IMAGE, brush('<Label value="$kind" alias="Kind"/><Label value="US $"/>'))
    assert config.classes == ("Kind", "US $")


def test_the_text_of_an_image_tag_is_its_value() -> None:
    config = parse('<Image name="image"> $picture </Image>', brush(labels("Sky")))
    assert config.images == (ImageTag("image", "picture", False),)


def test_recorded_config(request: pytest.FixtureRequest) -> None:
    recorded = request.config.rootpath / "tests" / "payloads" / "08_interactive_predict.json"
    if not Path(recorded).exists():
        pytest.skip("the recorded payloads are not here")
    config = parse_label_config(json.loads(recorded.read_text())[0]["body"]["label_config"])
    assert config.classes == ("Road", "Sky")
    assert outputs(config, preference="polygon") == {"Road": "poly", "Sky": "poly"}
