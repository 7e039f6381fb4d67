"""Data sets that become tasks: where their images are, and under which labels. A real Label Studio is in tests/integration."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from segloop.errors import DatasetError
from segloop.exchange.datasets import Example
from segloop.exchange.importing import addresses, label_config_of, target_of


def example(name: str) -> Example:
    return Example(name, Path(name), lambda: np.zeros((1, 1), np.uint8))


@pytest.mark.parametrize(
    ("prefix", "address"),
    [
        ("https://host/folder/", "https://host/folder/a%20b/%C3%A9%23%25.jpg"),
        ("s3://bucket/prefix/", "s3://bucket/prefix/a b/é#%.jpg"),
        ("gs://bucket", "gs://bucket/a b/é#%.jpg"),
    ],
)
def test_keys_of_buckets_are_not_escaped(prefix: str, address: str) -> None:
    """Label Studio takes what follows the bucket for the key, as its own syncs write it."""
    assert addresses(prefix)([example("a b/é#%.jpg")]) == [address]


def test_a_label_of_the_very_name_goes_first() -> None:
    classes = ("Car", "car", "T-shirt", "T shirt")
    assert target_of(1, label_config_of(classes), classes).labels == {name: name for name in classes}
    assert target_of(1, label_config_of(["traffic-light"]), ["Traffic Light"]).labels == {
        "Traffic Light": "traffic-light"
    }


def test_a_label_with_an_alias_is_found_by_its_value_too() -> None:
    """People see values; results have aliases."""
    config = """<View><Image name="image" value="$image"/><BrushLabels name="tag" toName="image">
<Label value="Road" alias="rd"/><Label value="Sky" alias="Road"/></BrushLabels></View>"""
    assert target_of(1, config, ["rd", "road", "SKY"]).labels == {"rd": "rd", "road": "Road", "SKY": "Road"}
    with pytest.raises(DatasetError, match="no brush, bitmask or polygon label 'Tree'; add"):
        target_of(1, config, ["rd", "Tree"])
