"""The ledger against a real Label Studio: what a simulated annotator did to pre-labels is what the figures say."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

from demo.label_studio import RunningLabelStudio
from segloop.blind import is_blind
from segloop.labelstudio import LabelStudio
from segloop.ledger import Ledger, read_ledger
from segloop.masks import encode_rle
from segloop.payloads import project_key
from segloop.registry import open_registry
from segloop.report import ReportFacts, report_of
from segloop.settings import Settings
from worker.jobs.context import JobContext
from worker.jobs.ledger import make_ledger

pytestmark = pytest.mark.label_studio

CONFIG = """<View><Image name="image" value="$image"/>
<BrushLabels name="brush" toName="image"><Label value="Sky"/><Label value="Road"/></BrushLabels></View>"""
WIDTH, HEIGHT = 60, 40
SHARE = 0.5
TASKS = 100
SHOWN = 20


def brush(label: str, rows: slice) -> dict[str, Any]:
    """A band over the whole width. Its id is its label's: an edited region keeps it."""
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    mask[rows] = 255
    value = {"format": "rle", "rle": encode_rle(mask), "brushlabels": [label]}
    size = {"original_width": WIDTH, "original_height": HEIGHT, "image_rotation": 0}
    return {"id": label, "from_name": "brush", "to_name": "image", "type": "brushlabels", "value": value, **size}


SKY, ROAD = brush("Sky", slice(0, 10)), brush("Road", slice(20, 40))
#: What the annotator makes of a pre-label, in turn: the result, the pixels changed, the boundary moved.
EDITS: list[tuple[list[dict[str, Any]], int, int]] = [
    ([SKY, ROAD], 0, 0),
    ([SKY, ROAD], 0, 0),
    ([brush("Sky", slice(0, 12)), ROAD], 2 * WIDTH, 0),
    ([brush("Sky", slice(0, 16)), ROAD], 6 * WIDTH, WIDTH),
    ([SKY], 20 * WIDTH, 0),
]


@dataclass
class Annotator:
    """Somebody who labels through the API as the editor does: a copy of the prediction, a draft, a submit."""

    http: httpx.Client
    who: int
    seconds: dict[int, float] = field(default_factory=dict)

    def submit(self, task: int, prediction: int | None, result: list[dict[str, Any]], seconds: float) -> None:
        copy: dict[str, Any] = {
            "parent_prediction": prediction,
            "result": result,
            "lead_time": seconds,
            "completed_by": self.who,
        }
        if task % 4 == 0:
            copy["draft_id"] = self._post(f"/api/tasks/{task}/drafts", {**copy, "lead_time": seconds / 2})["id"]
        self._post(f"/api/tasks/{task}/annotations/", copy)
        self.seconds[task] = seconds

    def _post(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        answer = self.http.post(path, json=body)
        assert answer.is_success, answer.text[:500]
        return dict(answer.json())


@pytest.fixture
def http(running: RunningLabelStudio) -> Iterator[httpx.Client]:
    with running.client() as client:
        yield client


def other_user(http: httpx.Client) -> int:
    name = f"other{time.time_ns()}"
    answer = http.post(
        "/api/users/", json={"email": f"{name}@example.org", "username": name, "first_name": "Secret Name"}
    )
    assert answer.is_success, answer.text[:500]
    return int(answer.json()["id"])


def test_figures_are_what_the_annotator_did(
    running: RunningLabelStudio, studio: LabelStudio, http: httpx.Client, tmp_path: Path
) -> None:
    created = running.create_project("ledger", CONFIG)
    project, key = int(created["id"]), project_key(created)
    picture = tmp_path / "picture.png"
    Image.new("RGB", (WIDTH, HEIGHT)).save(picture)
    tasks = running.upload_images(project, [picture] * TASKS)
    settings = Settings(data_dir=tmp_path / "data", label_studio_url=running.url, blind_share=SHARE)
    registry = open_registry(settings)
    registry.write_json(key, "project.json", {"project": key})
    given = {"settings": settings, "registry": registry, "label_studio": studio}
    context = JobContext(**{one.name: None for one in fields(JobContext) if one.name not in given}, **given)  # type: ignore[arg-type]
    assert make_ledger(context, key, 60) is not None, "a worker notes the blind share as it sees it first"

    blind = [task for task in tasks if is_blind(key, task, SHARE)][:22]
    shown = [task for task in tasks if not is_blind(key, task, SHARE)][:SHOWN]
    assert len(blind) >= 20
    rows = [{"task": t, "result": [SKY, ROAD], "score": 0.5, "model_version": "v1"} for t in shown]
    rows += [{"task": t, "result": [], "score": 0.5, "model_version": "v1"} for t in blind]
    assert studio.predictions.create(project, rows) == len(rows)
    parents = {row["task"]: row["id"] for row in http.get("/api/predictions/", params={"project": project}).json()}

    me = int(http.get("/api/current-user/whoami").json()["id"])
    annotator, other = Annotator(http, me), Annotator(http, other_user(http))
    for number, task in enumerate(shown):
        who = (annotator, other)[number % 2]
        who.submit(task, parents[task], EDITS[number % 5][0], 10.0 if who is annotator else 30.0)
    for task in blind:
        annotator.submit(task, parents[task], [SKY], 25.0)
    scratch = next(task for task in tasks if not is_blind(key, task, SHARE) and task not in shown)
    other.submit(scratch, None, [SKY], 99.0)

    ledger = make_ledger(context, key, 60)
    assert ledger is not None
    assert read_ledger(registry, key) == ledger
    check(ledger, blind=len(blind))
    text = (settings.data_dir / "mirror" / key / "tasks.sqlite").read_bytes()
    assert b"Secret Name" not in text

    # Predictions that are removed in Label Studio: what people saw stays known.
    assert http.delete(f"/api/predictions/{parents[shown[2]]}/").is_success
    annotator_edit = http.get(f"/api/tasks/{shown[2]}/annotations/").json()[0]
    assert annotator_edit["parent_prediction"] is None
    http.patch(f"/api/annotations/{annotator_edit['id']}/", json={"result": [SKY, ROAD]}).raise_for_status()
    after = make_ledger(context, key, 60)
    assert after is not None
    assert (after.pre_labelled, after.versions[0].unchanged) == (SHOWN, (SHOWN * 2 / 5 + 1) / SHOWN)


def check(ledger: Ledger, *, blind: int) -> None:
    assert (ledger.annotations, ledger.pre_labelled) == (SHOWN + blind + 1, SHOWN)
    assert (ledger.blind, ledger.scratch, ledger.unreadable, ledger.pending) == (blind, 1, 0, 0)
    (version,) = ledger.versions
    assert (version.version, version.annotations) == ("v1", SHOWN)
    assert version.unchanged == 2 / 5
    rounds = SHOWN // len(EDITS)
    changed = sum(pixels for _, pixels, _ in EDITS) * rounds
    assert version.changed_share == pytest.approx(changed / (SHOWN * WIDTH * HEIGHT))
    assert version.moved_px == sum(moved for *_, moved in EDITS) * rounds
    assert (version.regions_added, version.regions_removed) == (0, rounds)
    road, sky = version.classes["Road"], version.classes["Sky"]
    assert (road.unchanged, road.regions_removed, road.annotations) == (4 / 5, rounds, SHOWN)
    assert (sky.unchanged, sky.regions_removed) == (3 / 5, 0)
    assert sky.changed_share == pytest.approx(8 / (3 * 10 + 12 + 16))
    assert [one.median_s for one in version.annotators] == [10.0, 30.0]
    saved = ledger.time_saved
    assert (saved.blind, saved.needed) == (blind, 0)
    assert saved.seconds == pytest.approx(15.0), "the same annotator, 25 s against 10 s"
    report = report_of(ReportFacts("1.1", "", ledger=ledger))
    assert (report.now, report.time_saved) == (version, saved), "the page and `segloop report` say the same"
    assert report.time.startswith("A pre-label saves 15 s a task, 60 % of the time without one")
    assert ledger.labels == {"Sky": SHOWN + blind + 1, "Road": SHOWN - rounds}
