"""The manifest of a snapshot: its form, its hash, and what is refused when it is loaded."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from segloop.dataset import load_manifest
from segloop.errors import TrainingError
from tests.labelling import MemorySplits, annotation, half, take, task, two_tasks


def test_manifest_file_has_the_agreed_form(tmp_path: Path) -> None:
    take(tmp_path, [*two_tasks(), task(19, annotation(7), image="gone")])
    value = json.loads((tmp_path / "snap" / "manifest.json").read_text())
    names = "format project created_at label_config classes unlabelled items skipped warnings hash"
    assert value.keys() == set(names.split())
    names = "task image_tag annotations image mask width height split address"
    assert value["items"][0].keys() == set(names.split())
    assert value["skipped"] == [{"task": 19, "reason": "gone answered 404"}]
    defining = {name: value[name] for name in value if name not in ("created_at", "skipped", "warnings", "hash")}
    defining["items"] = [{name: item[name] for name in item if name != "address"} for item in value["items"]]
    canonical = json.dumps(defining, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    assert value["hash"] == hashlib.sha256(canonical.encode()).hexdigest()


def test_hash_tells_training_sets_apart_and_nothing_else(tmp_path: Path) -> None:
    def digest(name: str, tasks: list[dict[str, Any]], **arguments: Any) -> str:
        return str(take(tmp_path / name, tasks, **arguments).hash)

    one = digest("a", two_tasks())
    assert digest("b", two_tasks()[::-1]) == one
    assert digest("c", [*two_tasks(), task(19, annotation(7), image="gone")]) == one
    assert digest("d", [two_tasks()[0], task(18, annotation(6, half("Road")))]) != one
    assert digest("e", two_tasks(), splits=MemorySplits({17: "val", 18: "train"})) != digest(
        "f", two_tasks(), splits=MemorySplits({17: "train", 18: "val"})
    )


def altered(manifest: Mapping[str, Any], **changes: Any) -> dict[str, Any]:
    first, *others = manifest["items"]
    return {**manifest, "items": [{**first, **changes}, *others]}


def test_altered_manifest_is_refused(tmp_path: Path) -> None:
    take(tmp_path, two_tasks())
    file = tmp_path / "snap" / "manifest.json"
    value = json.loads(file.read_text())
    file.write_text(json.dumps(altered(value, split="train" if value["items"][0]["split"] == "val" else "val")))
    with pytest.raises(TrainingError, match="does not match its hash"):
        load_manifest(tmp_path / "snap")


@pytest.mark.parametrize(
    "changes",
    [
        {"image": "../../etc/passwd"},
        {"image": f"images/../{'0' * 64}.jpg"},
        {"image": "/etc/passwd"},
        {"mask": f"masks/{'0' * 64}.png\n"},
        {"mask": f"masks/{'0' * 64}.pkl"},
        {"width": 0},
        {"width": "8"},
        {"split": "test"},
        {"surprise": 1},
    ],
)
def test_hostile_manifest_is_refused(tmp_path: Path, changes: dict[str, Any]) -> None:
    take(tmp_path, two_tasks())
    file = tmp_path / "snap" / "manifest.json"
    file.write_text(json.dumps(altered(json.loads(file.read_text()), **changes)))
    with pytest.raises(TrainingError, match="is malformed at items"):
        load_manifest(tmp_path / "snap")


def test_files_must_be_there_and_inside(tmp_path: Path) -> None:
    manifest = take(tmp_path, two_tasks())
    image = tmp_path / "snap" / manifest.items[0].image
    image.rename(tmp_path / "elsewhere")
    with pytest.raises(TrainingError, match="has no file images/"):
        load_manifest(tmp_path / "snap")
    image.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(TrainingError, match="has no file images/"):
        load_manifest(tmp_path / "snap")


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"format": 2}'])
def test_what_is_no_manifest_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "manifest.json").write_text(text)
    with pytest.raises(TrainingError, match="is malformed at"):
        load_manifest(tmp_path)
