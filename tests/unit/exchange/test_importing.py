"""Data sets that become tasks: where their images are, and under which labels. A real Label Studio is in tests/integration."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from segloop.errors import DatasetError
from segloop.exchange.datasets import Example, read_masks
from segloop.exchange.importing import Imported, addresses, import_dataset, label_config_of, target_of
from segloop.labelstudio import LabelStudio
from tests.datasets import write_masks


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


class Studio:
    """The tasks of a project, as far as an import asks for them."""

    def __init__(self) -> None:
        self.kept: list[dict[str, Any]] = []
        self.tasks = SimpleNamespace(data=lambda project_id: [task["data"] for task in self.kept])
        self.imports = SimpleNamespace(tasks=self._keep)

    def _keep(self, project_id: int, tasks: list[dict[str, Any]]) -> list[int]:
        self.kept += tasks
        return list(range(len(tasks)))


def imported(folder: Path, studio: Studio, config: str = "", *, dry_run: bool = False) -> Imported:
    dataset = read_masks(folder / "masks", folder / "photos", folder / "names.txt")
    target = target_of(1, config or label_config_of(dataset.classes), dataset.classes)
    place = None if dry_run else addresses("https://host")
    return import_dataset(dataset, target, cast(LabelStudio, studio), place, lambda done, new: None)


def test_a_dry_run_says_what_an_import_does(tmp_path: Path) -> None:
    write_masks(tmp_path, "grey", images=4)
    (tmp_path / "photos" / "a.png").write_bytes(b"no image")
    studio = Studio()
    dry = imported(tmp_path, studio, dry_run=True)
    assert not studio.kept
    assert any(problem.startswith("a.png: ") for problem in dry.problems)
    assert imported(tmp_path, studio) == dry
    assert (dry.tasks, dry.known, len(studio.kept)) == (3, 0, 3)
    again = imported(tmp_path, studio, dry_run=True)
    assert (again.tasks, again.known) == (0, 3)


@pytest.mark.parametrize("field", ["source", "source_hash"])
def test_an_image_may_be_in_a_field_that_the_import_would_use(tmp_path: Path, field: str) -> None:
    write_masks(tmp_path, "grey")
    config = label_config_of(["road", "sky"]).replace("$image", f"${field}")
    studio = Studio()
    assert imported(tmp_path, studio, config).tasks == 2
    assert {data[field] for data in studio.tasks.data(1)} == {"https://host/a.png", "https://host/deep/b.png"}
    again = imported(tmp_path, studio, config)
    assert (again.tasks, again.known, len(studio.kept)) == (0, 2, 2)
