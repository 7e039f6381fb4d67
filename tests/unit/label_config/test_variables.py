"""What `$variables` and Repeaters stand for in a task, as the editor has it (utils/data.js, core/Tree.tsx)."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from segloop.errors import LabelConfigError
from segloop.label_config import LabelConfig, parse_label_config

ROAD = '<Label value="Road"/>'
PAGES = {"pages": [{"url": "a.png"}, {"url": "b.png"}, {"text": "no image"}, {"url": "d.png"}]}


def config_with(value: str) -> LabelConfig:
    image = f'<Image name="image" value="{value}"/>'
    return parse_label_config(f'<View>{image}<BrushLabels name="b" toName="image">{ROAD}</BrushLabels></View>')


def addresses(config: LabelConfig, data: dict[str, Any]) -> list[str]:
    return [uri for _, _, uri in config.addresses(data)]


def repeated(inside: str, on: str = "$pages", flag: str | None = None, outside: str = "") -> LabelConfig:
    index = "" if flag is None else f' indexFlag="{flag}"'
    return parse_label_config(f'<View>{outside}<Repeater on="{on}"{index}>{inside}</Repeater></View>')


def page(flag: str = "{{idx}}", source: str = "$pages[{{idx}}].url", labels: str = ROAD) -> str:
    brush = f'<BrushLabels name="b_{flag}" toName="p_{flag}">{labels}</BrushLabels>'
    return f'<Image name="p_{flag}" value="{source}"/>{brush}'


class TestVariables:
    @pytest.mark.parametrize(
        ("value", "data", "found"),
        [
            ("$image", {"image": "x.png"}, ["x.png"]),
            (" $image ", {"image": "x.png"}, ["x.png"]),
            ("$image", {}, []),
            ("$image", {"image": 5}, []),
            ("/data/local-files/?d=ds/$file", {"file": "x.png"}, ["/data/local-files/?d=ds/x.png"]),
            ("s3://bucket/$set/$name", {"set": "a", "name": "b"}, ["s3://bucket/a/b"]),
            ("$base/$name", {"base": "http://h", "name": "b.png"}, ["http://h/b.png"]),
            ("$base-small", {"base": "http://h/x"}, ["http://h/x-small"]),
            ("http://h/$id?size=$size", {"id": 7, "size": 2.0}, ["http://h/7?size=2"]),
            ("http://h/$id", {"id": 1.5}, ["http://h/1.5"]),
            ("http://h/$on", {"on": True}, ["http://h/true"]),
            ("http://h/$a.b", {"a": {"b": "x"}}, ["http://h/x"]),
            ("http://h/$a[1].b", {"a": [{}, {"b": "x"}]}, ["http://h/x"]),
            ("http://h/$a$b", {"a": "x", "b": "y"}, ["http://h/xy"]),
            ("http://h/$a/$a", {"a": "x"}, ["http://h/x/x"]),
            # What follows a dot belongs to the variable: the editor has no picture then either.
            ("http://h/$name.png", {"name": "x"}, []),
            ("http://h/$name.png", {"name.png": "x"}, ["http://h/x"]),
            ("http://h/$gone", {"file": "x"}, []),
            ("http://h/$a/$gone", {"a": "x"}, []),
            ("http://h/$a", {"a": None}, []),
            ("http://h/$a", {"a": ["x"]}, []),
            ("http://h/$a", {"a": {"b": "x"}}, []),
            ("http://h/same.png", {"image": "x.png"}, ["http://h/same.png"]),
            ("/data/upload/1/same.png", {}, ["/data/upload/1/same.png"]),
            ("image", {"image": "x.png"}, ["x.png"]),
            ("image", {}, []),
            ("$größe", {"größe": "x.png"}, ["x.png"]),
            ("$my field", {"my field": "x.png"}, ["x.png"]),
            ("$my-field", {"my-field": "x.png"}, ["x.png"]),
            ("$a.b", {"a.b": "x.png", "a": {"b": "y.png"}}, ["x.png"]),
            ("$a[0]", {"a": ["x.png"]}, ["x.png"]),
            (f"$a[{'1' * 5000}]", {"a": ["x.png"]}, []),
            ("$many", {"many": ["x.png", "y.png"]}, ["x.png", "y.png"]),
        ],
    )
    def test_address(self, value: str, data: dict[str, Any], found: list[str]) -> None:
        assert addresses(config_with(value), data) == found

    @given(
        st.dictionaries(
            st.text("abc.[]0{}$", min_size=1, max_size=4),
            st.none() | st.text(max_size=3) | st.integers() | st.floats() | st.lists(st.text(max_size=2), max_size=2),
            max_size=4,
        ),
        st.text("$abc.[]0{}/ ", min_size=1, max_size=12).filter(str.strip),
    )
    def test_any_attribute_gives_addresses_or_none(self, data: dict[str, Any], value: str) -> None:
        assert all(isinstance(uri, str) and uri.strip() for uri in addresses(config_with(value), data))


class TestRepeater:
    def test_pages_of_a_task(self) -> None:
        config = repeated(page())
        found = [(tag.name, index, uri) for tag, index, uri in config.addresses(PAGES)]
        assert found == [("p_0", None, "a.png"), ("p_1", None, "b.png"), ("p_3", None, "d.png")]
        assert config.classes == ("Road",)
        for number in (0, 1, 3, 17):
            [(label, control)] = config.outputs(f"p_{number}").items()
            assert (label, control.name, control.to_name) == ("Road", f"b_{number}", (f"p_{number}",))
        for name in ("p_", "p_x", "p", "p_{{i}}", "xp_1", "p_1x", "p_-1", "image"):
            assert config.outputs(name) == {}

    @pytest.mark.parametrize("flag", ["{{i}}", "%i%", "IDX", "(.*)", "f", "P", "0"])
    def test_any_flag(self, flag: str) -> None:
        config = repeated(page(flag, f"$pages[{flag}].url"), flag=flag)
        assert addresses(config, PAGES) == ["a.png", "b.png", "d.png"]
        assert config.outputs("p_12")["Road"].name == "b_12"

    @pytest.mark.parametrize("data", [{}, {"pages": []}, {"pages": None}, {"pages": "abc"}, {"pages": {"0": 1}}])
    def test_a_task_without_pages_has_no_image(self, data: dict[str, Any]) -> None:
        assert addresses(repeated(page()), data) == []

    def test_addresses_with_text_around_the_page(self) -> None:
        config = repeated(page(source="/data/local-files/?d=$folder/$pages[{{idx}}]"))
        data = {"folder": "ds", "pages": ["a.png", "b.png"]}
        assert addresses(config, data) == ["/data/local-files/?d=ds/a.png", "/data/local-files/?d=ds/b.png"]

    def test_a_repeater_in_a_repeater(self) -> None:
        inner = page("{{i}}_{{j}}", "$books[{{i}}].pages[{{j}}]")
        config = repeated(
            f'<Repeater on="$books[{{{{i}}}}].pages" indexFlag="{{{{j}}}}">{inner}</Repeater>', "$books", "{{i}}"
        )
        data = {"books": [{"pages": ["a", "b"]}, {"pages": []}, {"pages": ["c"]}]}
        assert [(tag.name, uri) for tag, _, uri in config.addresses(data)] == [
            ("p_0_0", "a"),
            ("p_0_1", "b"),
            ("p_2_0", "c"),
        ]
        assert config.outputs("p_2_0")["Road"].name == "b_2_0"
        assert config.has_object("p_10_3")

    def test_a_flag_twice_in_a_name_is_one_index(self) -> None:
        config = repeated(
            '<Image name="p{{idx}}_{{idx}}" value="$pages[{{idx}}].url"/>'
            f'<BrushLabels name="b{{{{idx}}}}" toName="p{{{{idx}}}}_{{{{idx}}}}">{ROAD}</BrushLabels>'
        )
        assert config.outputs("p1_1")["Road"].name == "b1"
        assert config.outputs("p1_2") == {}

    def test_a_repeater_beside_an_image_of_its_own(self) -> None:
        cover = f'<Image name="cover" value="$cover"/><BrushLabels name="c" toName="cover">{ROAD}</BrushLabels>'
        config = repeated(page(), outside=cover)
        data = {**PAGES, "cover": "c.png"}
        assert addresses(config, data) == ["c.png", "a.png", "b.png", "d.png"]
        assert config.outputs("cover")["Road"].name == "c"

    def test_what_a_result_can_point_at(self) -> None:
        config = repeated(page(), outside='<Text name="text" value="$t"/>')
        assert all(config.has_object(name) for name in ("p_0", "p_25", "text"))
        assert not any(config.has_object(name) for name in ("p_{{idx}}", "img", "b_0", "", None, 5))

    @pytest.mark.parametrize(
        ("inside", "says"),
        [
            (f'<Image name="p" value="$pages[{{{{idx}}}}].url"/><BrushLabels name="b" toName="p">{ROAD}</BrushLabels>', "'p' under one name"),
            (page().replace('name="b_{{idx}}"', 'name="b"'), "'b'.*into its name and toName"),
            (page(labels='<Label value="Row {{idx}}"/>'), "other labels on each page"),
        ],
    )  # fmt: skip
    def test_pages_that_cannot_be_told_apart_are_refused(self, inside: str, says: str) -> None:
        with pytest.raises(LabelConfigError, match=says) as caught:
            repeated(inside)
        assert "\n" not in str(caught.value)

    def test_a_tag_that_is_repeated_alone_is_refused(self) -> None:
        image = '<Image name="p_{{idx}}" value="$pages[{{idx}}].url"/>'
        brush = f'<BrushLabels name="b_{{{{idx}}}}" toName="p_{{{{idx}}}}">{ROAD}</BrushLabels>'
        with pytest.raises(LabelConfigError, match=r"'b_\{\{idx}}'.*not repeated as its image is"):
            repeated(image, outside=brush)
        plain = '<Image name="image" value="$image"/>'
        with pytest.raises(LabelConfigError, match=r"'b_\{\{idx}}'.*into its name and toName"):
            repeated(brush.replace("p_{{idx}}", "image"), outside=plain)

    def test_a_repeater_of_other_things_does_not_matter(self) -> None:
        config = repeated(
            '<Text name="t_{{idx}}" value="$texts[{{idx}}]"/>',
            "$texts",
            outside=f'<Image name="image" value="$image"/><BrushLabels name="b" toName="image">{ROAD}</BrushLabels>',
        )
        assert addresses(config, {"image": "x.png", "texts": ["a", "b"]}) == ["x.png"]

    @given(st.integers(0, 10**6), st.text("abc_{}x", max_size=4))
    def test_names_of_pages_are_found_again(self, number: int, text: str) -> None:
        name = f"{text}{{{{idx}}}}p"
        config = repeated(page().replace("p_{{idx}}", name))
        assert config.outputs(f"{text}{number}p")["Road"].name == f"b_{number}"
