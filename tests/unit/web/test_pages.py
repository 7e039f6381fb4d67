"""The status page's dicts, from facts made by hand."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from jinja2 import Environment, FileSystemLoader

import segloop
from segloop.policy import Changes, Thresholds
from segloop.registry import Champion, FileInfo, VersionInfo
from segloop.registry.gallery import GalleryIndex
from segloop.web.ui import formats
from segloop.web.ui.data import Counts, Facts
from segloop.web.ui.pages import GALLERY_PAGE, confusion_of, job_page, next_retrain, paged, project_page, projects_page
from segloop.web.ui.retrain_view import job_of

KEY = "29.1795383040"
STATIC = Path(segloop.__file__).parent / "static"


def version(number: int, miou: float | None, champion_miou: float | None = None, **own: Any) -> VersionInfo:
    metrics = {"miou": miou, "iou": {"Road": miou, "Sky": None}, "tasks": 4, "boundary_f1_by_class": {"Road": 0.5}}
    theirs = None if champion_miou is None else {"miou": champion_miou, "iou": {"Road": champion_miou, "Sky": None}}
    if theirs is not None:
        metrics |= {"absent_false_positives": {"Sky": 30}, "pixels": 1000}
        theirs |= {"absent_false_positives": {}, "pixels": 1000}
    return VersionInfo(
        format=1,
        version=f"v{number}-0000000{number}",
        project=KEY,
        created_at="2026-11-22T12:00:00+00:00",
        arch="deeplabv3_resnet50",
        output_stride=16,
        input_size=512,
        classes=("Road", "Sky"),
        parent=None,
        snapshot="0" * 64,
        metrics=metrics,
        champion_metrics=theirs,
        decision={"act": True, "reason": "It wins.", "interval": None if theirs is None else [0.1, 0.05, 0.2]},
        recipe={"kind": "full", "seconds": 60.0},
        files={"model.safetensors": FileInfo(sha256="0" * 64, bytes=1)},
        **own,
    )


def facts(**own: Any) -> Facts:
    champion = Champion("v2-00000002", 2, "2026-11-22T12:00:00+00:00", "It wins.", ("v1-00000001",))
    return Facts(
        KEY,
        **{
            "served": "v2-00000002",
            "champion": champion,
            "counts": Counts("Streets", 10, 4),
            "changes": Changes(7, 3),
            "thresholds": Thresholds(100, 10),
            "min_val_tasks": 10,
            **own,
        },
    )


def test_a_project_in_short() -> None:
    page = projects_page([facts()], {KEY: version(2, 0.625)})
    [row] = page["projects"]
    assert (row["id"], row["title"], row["job"]) == ("29", "Streets", None)
    assert row["labels"] == {"tasks": 10, "labelled": 4, "unlabelled": 6}
    assert row["served"] == {
        "version": "v2-00000002",
        "still_answers": None,
        "is_trained": True,
        "since": "2026-11-22T12:00:00+00:00",
        "reason": "It wins.",
        "generation": 2,
        "miou": 0.625,
    }
    assert (row["next_retrain"]["missing"], row["next_retrain"]["quick"]["missing"]) == (93, 7)


def test_a_champion_that_loads_does_not_answer_yet() -> None:
    [row] = projects_page([facts(served="v1-00000001")], {})["projects"]
    assert (row["served"]["version"], row["served"]["still_answers"]) == ("v2-00000002", "v1-00000001")


def test_what_is_away_is_said_once_and_shown_as_unknown() -> None:
    away = facts(counts=None, changes=None, champion=None, served="untrained", errors=("Redis is away.",))
    page = projects_page([away, away], {})
    assert page["errors"] == ["Redis is away."]
    row = page["projects"][0]
    assert (row["title"], row["labels"], row["next_retrain"]) == ("Project 29", None, None)
    assert (row["served"]["version"], row["served"]["is_trained"], row["served"]["miou"]) == ("untrained", False, None)


@pytest.mark.parametrize(
    ("changes", "thresholds", "missing", "quick"),
    [
        (Changes(0, 0), Thresholds(100, 10), 100, 10),
        (Changes(120, 12), Thresholds(100, 10), 0, 0),
        (Changes(40, 5), Thresholds(50), 10, None),
        (Changes(40, 5), Thresholds(0, 10), None, 5),
    ],
)
def test_the_next_retrain(changes: Changes, thresholds: Thresholds, missing: int | None, quick: int | None) -> None:
    found = next_retrain(changes, thresholds)
    assert found["missing"] == missing
    assert (found["quick"] and found["quick"]["missing"]) == quick


def test_a_project_with_its_versions() -> None:
    chosen = version(3, 0.5, 0.625)
    page = project_page(facts(), [version(1, 0.5), version(2, 0.625, 0.5), chosen], chosen, None, "http://ls")
    assert [row["version"] for row in page["versions"]] == ["v3-00000003", "v2-00000002", "v1-00000001"]
    assert [row["is_served"] for row in page["versions"]] == [False, True, False]
    assert [row["was_served"] for row in page["versions"]] == [False, False, True]
    assert [row["difference"] for row in page["versions"]] == [-0.125, 0.125, None]
    assert (page["rollback_to"], page["generation"]) == ("v1-00000001", 2)
    detail = page["chosen"]
    assert detail["classes"] == [
        {
            "name": "Road",
            "iou": 0.5,
            "champion_iou": 0.625,
            "difference": -0.125,
            "boundary_f1": 0.5,
            "false_positives": None,
            "champion_false_positives": None,
        },
        {
            "name": "Sky",
            "iou": None,
            "champion_iou": None,
            "difference": None,
            "boundary_f1": None,
            "false_positives": 0.03,
            "champion_false_positives": 0.0,
        },
    ]
    assert detail["absent_false_positives"] == 0.03
    assert detail["interval"] == [0.05, 0.2]
    assert detail["is_rough"]
    assert detail["gallery"] == []


def test_a_project_without_versions() -> None:
    page = project_page(facts(champion=None, served="untrained"), [], None, None, "http://ls")
    assert (page["versions"], page["chosen"], page["rollback_to"], page["generation"]) == ([], None, None, 0)


def test_the_gallery_leads_to_label_studio() -> None:
    image = {"task": 7, "width": 4, "height": 3, "miou": 0.25, "champion_miou": 0.5, "has_champion": True}
    gallery = {"classes": [{"name": "Road", "colour": "#123456"}], "images": [image]}
    page = project_page(facts(), [], version(1, 0.5), GalleryIndex.model_validate(gallery), "http://ls")
    [shown] = page["chosen"]["gallery"]
    assert shown == {**image, "number": 0, "difference": -0.25, "link": "http://ls/projects/29/data?task=7"}
    assert page["chosen"]["legend"] == gallery["classes"]


def test_a_confusion_matrix_is_shares_of_the_truth() -> None:
    found = confusion_of(("Road",), [[3, 1], [0, 0]])
    assert found is not None
    assert found["labels"] == ["Background", "Road"]
    assert [(cell["share"], cell["shade"]) for cell in found["rows"][0]["cells"]] == [(0.75, 8), (0.25, 2)]
    assert [cell["share"] for cell in found["rows"][1]["cells"]] == [None, None]
    assert confusion_of(("Road", "Sky"), [[3, 1], [0, 0]]) is None
    assert confusion_of(("Road",), None) is None


def status(job_status: str, progress: dict[str, Any] | None = None, **own: Any) -> dict[str, Any]:
    return {"job": "retrain-1", "job_status": job_status, "progress": progress, "reason": "pressed", **own}


@pytest.mark.parametrize(
    ("given", "state", "live", "now"),
    [
        (status("queued"), "queued", True, "Queued"),
        (status("started", {"phase": "snapshot"}), "running", True, "Collecting"),
        (status("started", {"phase": "training"}), "running", True, "Training"),
        (status("scheduled", {"phase": "training"}), "waiting", True, "Training"),
        (status("scheduled", {"phase": "waiting"}), "waiting", True, None),
        (status("started", {"phase": "done"}), "done", False, None),
        (status("started", {"phase": "failed"}), "failed", False, None),
        (status("finished", {"phase": "done"}), "done", False, None),
        (status("failed", {"phase": "failed"}, error="It broke."), "failed", False, None),
        (status("failed", {"phase": "stopped"}, error="Somebody stopped it."), "stopped", False, None),
        (status("failed", {"phase": "training"}, error="It was killed."), "failed", False, "Training"),
        (status("finished"), "done", False, None),
        (status("stopped"), "failed", False, "Queued"),
    ],
)
def test_how_a_job_is(given: dict[str, Any], state: str, live: bool, now: str | None) -> None:
    job = job_of(given)
    assert (job["state"], job["is_live"]) == (state, live)
    assert [phase["name"] for phase in job["phases"] if phase["state"] == "now"] == ([now] if now else [])


def test_how_far_a_job_is() -> None:
    progress = {"phase": "training", "message": "Training.", "step": 30, "steps": 120, "loss": 0.5, "eta_s": 90.0}
    curves = {"loss": [[30, 0.5]], "miou": []}
    job = job_of(status("started", progress, curves=curves))
    assert (job["share"], job["eta_s"], job["curves"]) == (0.25, 90.0, curves)
    assert [phase["state"] for phase in job["phases"]] == ["done", "done", "now", "open", "open", "open"]
    assert job_of(status("started", {"phase": "training", "step": 0, "steps": 0}))["share"] is None


@pytest.mark.parametrize(("phase", "can_stop"), [("snapshot", True), ("training", True), ("exporting", False)])
def test_a_training_can_be_stopped_until_it_has_ended(phase: str, can_stop: bool) -> None:
    assert job_of(status("started", {"phase": phase}))["can_stop"] == can_stop
    assert not job_of(status("finished", {"phase": phase}))["can_stop"]


def test_an_ended_job_is_told_of_until_the_next() -> None:
    ended = status("finished", {"phase": "done", "message": "It wins.", "version": "v1-00000001", "promoted": True})
    job = job_page(facts(last=ended))["job"]
    assert (job["version"], job["promoted"], job["message"]) == ("v1-00000001", True, "It wins.")
    assert job_page(facts(last=ended, live=status("queued")))["job"]["state"] == "queued"
    assert job_page(facts())["job"] is None


def test_figures_are_written_for_people() -> None:
    assert [formats.score(value) for value in (0.12345, None)] == ["0.123", "–"]
    assert [formats.change(value) for value in (0.01, -0.01, -0.0001, None)] == ["+0.010", "−0.010", "±0.000", "–"]
    assert [formats.trend(value) for value in (0.01, -0.01, 0.0001, None)] == ["up", "down", "even", "even"]
    assert [formats.percent(value) for value in (0.5, 0.004, 0.0, None)] == ["50 %", "<1 %", "0 %", "–"]
    assert [formats.duration(value) for value in (59.6, 95, 1800, 7260)] == [
        "1 min 0 s",
        "1 min 35 s",
        "30 min",
        "2 h 1 min",
    ]
    now = datetime(2026, 11, 22, 12, tzinfo=UTC)
    moments = ("2026-11-22T11:59:30", "2026-11-22T11:00:00+00:00", "2026-11-20T12:00:00Z", None)
    assert [formats.ago(text, now) for text in moments] == ["just now", "1 hour ago", "2 days ago", "–"]
    assert formats.moment("2026-11-22T13:30:00+01:00") == "2026-11-22 12:30 UTC"


@pytest.mark.parametrize(
    ("changes", "thresholds", "note"),
    [
        (Changes(1207, 12), Thresholds(2000, 10), "quick adaptation due"),
        (Changes(1207, 3), Thresholds(2000, 10), "quick adaptation in 7"),
        (Changes(1207, 12), Thresholds(2000), "1 207 of 2 000 changed"),
        (Changes(1207, 12), Thresholds(0), "only Start training begins one"),
        (Changes(1207, 3), Thresholds(0, 10), "quick adaptation in 7"),
    ],
)
def test_what_is_missing_to_the_next_retrain(changes: Changes, thresholds: Thresholds, note: str) -> None:
    templates = Environment(loader=FileSystemLoader(STATIC.parent / "templates"), autoescape=True)
    templates.filters.update(formats.FILTERS)
    macros = templates.get_template("macros.html").module
    planned = next_retrain(changes, thresholds)
    assert str(macros.retrain_note(planned)) == note
    assert ("annotations" in str(macros.retrain(planned, "Changed tasks"))) == bool(thresholds.full)


def test_vendored_files_are_those_of_their_packages() -> None:
    rows = [line.split("|") for line in (STATIC / "vendored.md").read_text("utf-8").splitlines() if ".min." in line]
    stated = {row[1].strip(): row[5].strip() for row in rows}
    found = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in STATIC.glob("*.min.*")}
    assert found == stated


def test_nothing_can_be_trained_before_two_tasks_are_labelled() -> None:
    assert job_page(facts())["cannot_train"] is None
    assert job_page(facts(counts=None))["cannot_train"] is None, "it is not known"
    assert str(job_page(facts(counts=Counts("Streets", 10, 0)))["cannot_train"]).startswith("No task is labelled yet")
    assert job_page(facts(counts=Counts("Streets", 10, 1)))["cannot_train"]


@pytest.mark.parametrize(
    ("asked", "page", "first"),
    [
        ("", 1, 0),
        ("2", 2, GALLERY_PAGE),
        ("99", 3, 2 * GALLERY_PAGE),
        pytest.param("9" * 5000, 3, 2 * GALLERY_PAGE, id="long"),
        ("0002", 2, GALLERY_PAGE),
        ("0", 1, 0),
        ("-1", 1, 0),
        ("\u00b2", 1, 0),
        ("x", 1, 0),
    ],
)
def test_a_gallery_is_paged(asked: str, page: int, first: int) -> None:
    images = [{"number": number} for number in range(2 * GALLERY_PAGE + 1)]
    found = paged({"gallery": images}, asked)
    assert found["gallery_page"] == {"page": page, "pages": 3, "images": len(images)}
    assert found["gallery"][0]["number"] == first
    assert len(found["gallery"]) == (1 if page == 3 else GALLERY_PAGE)
    assert paged(None, "1") is None
    assert paged({"gallery": []}, "1")["gallery_page"]["pages"] == 1
