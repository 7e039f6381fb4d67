"""version.json: what is written is read back, and versions from before are read too."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from segloop.errors import RegistryError
from segloop.versions import (
    EngineFigures,
    EngineReport,
    Metrics,
    PromotionDecision,
    RecipeInfo,
    VersionInfo,
    parse_version,
    read_version,
)
from tests.bundles import make_info

FILES = {"model.safetensors": {"sha256": "0" * 64, "bytes": 1}}
#: As a training wrote it before any later field was there.
FIRST = {
    "format": 1, "version": None, "project": "29.1795383040", "created_at": "2026-11-22T12:00:00+00:00",
    "arch": "deeplabv3_resnet50", "output_stride": 16, "input_size": 512, "classes": ["Road", "Sky"], "parent": None,
    "snapshot": "ab" * 32,
    "metrics": {"miou": 0.5, "pixel_accuracy": 0.9, "iou": {"Road": 0.5, "Sky": None}, "tasks": 4, "pixels": 9},
    "champion_metrics": None, "decision": None, "recipe": {"steps": 12, "torch": "2.8.0+cpu"}, "files": FILES,
}  # fmt: skip
#: As the registry wrote it when each part was a dict.
LATER = {
    **FIRST, "version": "v3-0a1b2c3d", "parent": "v2-0a1b2c3d", "long_side": 1024, "temperature": 1.25,
    "metrics": {
        "miou": 0.5, "pixel_accuracy": 0.9, "iou": {"Road": 0.5, "Sky": None}, "tasks": 4, "pixels": 9,
        "boundary_f1": 0.25, "boundary_f1_by_class": {"Road": 0.25, "Sky": None}, "calibration_error": 0.125,
        "confusion": [[3, 0, 0], [1, 5, 0], [0, 0, 0]],
    },
    "champion_metrics": {"miou": 0.25, "iou": {"Road": 0.25}, "tasks": 4, "pixels": 9},
    "decision": {"act": True, "reason": "The candidate wins.", "interval": [0.25, 0.125, 0.375]},
    "recipe": {
        "kind": "quick", "weights": "none", "steps": 12, "batch_size": 8, "learning_rate": 5e-4, "backbone_rate": 0.1,
        "seed": 0, "seconds": 60.5, "torch": "2.8.0+cpu", "views": 40, "precision": "float32",
        "hyperparameters": {"recipe": "quick", "train_lr": "0.0005"},
    },
    "engines": {
        "images": 4, "torch": {"miou": 0.5},
        "openvino": {"miou": 0.5, "agreement": 1.0, "serves": True, "reason": "It is as good as torch."},
        "openvino-int8": {"miou": 0.25, "agreement": 0.9, "serves": False, "reason": "It loses."},
    },
    "curves": {"loss": [[1, 0.5], [2, 0.25]], "miou": []},
}  # fmt: skip


def parsed(value: dict[str, Any]) -> VersionInfo:
    return parse_version(json.dumps(value).encode(), "version.json")


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    for value in (FIRST, LATER):
        info = parsed(value)
        (tmp_path / "version.json").write_bytes(info.to_json())
        assert read_version(tmp_path) == info


def test_the_first_form_is_read() -> None:
    info = parsed(FIRST)
    assert (info.version, info.long_side, info.temperature, info.engines) == ("", 0, 1.0, EngineReport())
    assert (info.metrics.iou, info.metrics.boundary_f1, info.metrics.confusion) == (
        {"Road": 0.5, "Sky": None},
        None,
        None,
    )
    assert (info.recipe.kind, info.recipe.steps, info.recipe.backbone_rate) == (None, 12, None)


def test_a_later_form_is_read_whole() -> None:
    info = parsed(LATER)
    assert info.decision == PromotionDecision(act=True, reason="The candidate wins.", interval=(0.25, 0.125, 0.375))
    assert info.champion_metrics == Metrics(miou=0.25, iou={"Road": 0.25}, tasks=4, pixels=9)
    assert info.engines.figures()["openvino-int8"] == EngineFigures(miou=0.25, agreement=0.9, reason="It loses.")
    assert info.recipe.hyperparameters == {"recipe": "quick", "train_lr": "0.0005"}
    # nothing of it is lost or renamed when it is written again
    assert included(LATER, json.loads(info.to_json()))


def included(part: Any, whole: Any) -> bool:
    """Whether a JSON value holds all of another."""
    if isinstance(part, dict):
        return all(name in whole and included(value, whole[name]) for name, value in part.items())
    return bool(part == whole)


def test_what_a_newer_segloop_adds_is_no_error() -> None:
    assert parsed({**LATER, "later": 1, "metrics": {"miou": 0.5, "later": 1}}).metrics == Metrics(miou=0.5)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format": 2}, "format"),
        ({"classes": None}, "classes"),
        ({"created_at": 5}, "created_at"),
        ({"metrics": None}, "metrics"),
        ({"files": {}}, "lists no model.safetensors"),
        ({"files": {**FILES, "../../champion.json": FILES["model.safetensors"]}}, "not safe to use"),
    ],
)
def test_what_is_no_version_is_said(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(RegistryError, match=message):
        parsed({**LATER, **changes})


@pytest.mark.parametrize("data", [b"", b"{", b"[1]", b'"text"', b"\xff", b"[" * 100_000])
def test_what_is_no_json_object_is_said(data: bytes) -> None:
    with pytest.raises(RegistryError, match="of a test"):
        parse_version(data, "version.json of a test")


def test_a_missing_file_is_said(tmp_path: Path) -> None:
    with pytest.raises(RegistryError, match=r"version\.json cannot be read"):
        read_version(tmp_path)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_numbers_that_are_none_are_refused(value: float) -> None:
    for make in (lambda: Metrics(miou=value), lambda: Metrics(iou={"Road": value}), lambda: RecipeInfo(seconds=value)):
        with pytest.raises(ValidationError, match="finite"):
            make()
    with pytest.raises(ValidationError):
        make_info(metrics={"miou": value})
