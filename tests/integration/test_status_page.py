"""The status page over a real registry and queue: what it shows, who may see it, and what it says in trouble."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from pydantic import SecretStr

from segloop.cli import main
from segloop.ledger import write_ledger
from segloop.metrics import ConfusionMatrix
from segloop.settings import Settings
from segloop.web import create_app
from segloop.web.ui.data import Studio
from segloop.web.ui.responses import minute
from tests.job_context import begin
from tests.ledgers import entry, ledger
from tests.pages import (
    CLASSES,
    PROJECT,
    PageWorld,
    add_version,
    curves,
    described,
    fields,
    get_json,
    press,
    served,
    world,
)

__all__ = ["served", "world"]

SECURITY = ("Content-Security-Policy", "X-Content-Type-Options", "X-Frame-Options", "Referrer-Policy")
PASSWORD = "a pass word"


def test_pages_are_html_and_the_same_dicts_as_json(world: PageWorld, served: list[str]) -> None:
    for path in ("/ui/", "/ui/projects/29", "/ui/projects/29/job"):
        shown = world.client.get(path)
        assert (shown.status_code, shown.mimetype) == (200, "text/html")
        asked = world.client.get(path, headers={"Accept": "application/json"})
        assert asked.mimetype == "application/json"
        assert asked.json == world.client.get(f"{path}?format=json").json
        assert all(name in shown.headers for name in SECURITY)
        assert "unsafe" not in shown.headers["Content-Security-Policy"]
    page = get_json(world, f"/ui/projects/29?version={served[0]}")
    assert (page["project"]["served"]["version"], page["chosen"]["version"]) == (served[1], served[0])
    assert page["rollback_to"] == served[0]
    assert get_json(world, "/ui/projects/29")["chosen"]["version"] == served[2], "the latest one"


def test_a_served_version_that_is_older_than_those_shown_is_shown_too(
    world: PageWorld, served: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("segloop.report.report.MOST_VERSIONS", 1)
    page = get_json(world, "/ui/projects/29")
    assert [row["version"] for row in page["versions"]] == [served[2], served[1]]
    assert page["project"]["served"]["miou"] == 0.7
    assert page["report"]["weakest"]
    assert get_json(world, f"/ui/projects/29?version={served[0]}")["chosen"]["version"] == served[0]
    told = CliRunner(env={**os.environ, "SEGLOOP_DATA_DIR": str(world.settings.data_dir)}).invoke(
        main, ["report", "--project", "29", "--json"]
    )
    assert [score["version"] for score in json.loads(told.stdout)["scores"]] == [served[1], served[2]]


@pytest.mark.slow
def test_a_version_tells_of_false_positives_of_classes_that_the_held_out_tasks_lack(
    world: PageWorld, served: list[str], tmp_path: Path
) -> None:
    assert "False positives" not in world.client.get("/ui/projects/29").text, "every class is there"
    (tmp_path / "painted").mkdir()
    (tmp_path / "painted" / "model.safetensors").write_bytes(b"painted")
    matrix = ConfusionMatrix(CLASSES)
    matrix.update(
        np.repeat([0, 1], 50).astype(np.uint8)[None], np.repeat([4, 0, 1], [30, 20, 50]).astype(np.uint8)[None]
    )
    name = world.registry.add(PROJECT, tmp_path / "painted", described(matrix, 4, 1.0, None))
    shown = world.client.get(f"/ui/projects/29?version={name}").text
    assert "<dt>Predicted as absent classes</dt><dd>30 %</dd>" in shown
    [tree] = [row for row in shown.splitlines() if '<th scope="row">Tree</th>' in row and "30 %" in row]
    assert '<td class="num">30 %</td>' in tree


def test_the_address_without_its_slash_leads_there_too(world: PageWorld) -> None:
    answer = world.client.get("/ui")
    assert (answer.status_code, answer.headers["Location"]) == (308, "http://localhost/ui/")


def test_label_studio_being_away_is_found_out_once(settings: Settings) -> None:
    studio = Studio(settings.model_copy(update={"label_studio_api_key": SecretStr("key")}))
    first = studio.counts("29")
    assert isinstance(first, str)
    assert "cannot be reached" in first
    assert studio.counts("30") is studio.counts("31"), "of the others it is not asked in turn"
    keyless = Studio(settings).counts("29")
    assert "LABEL_STUDIO_API_KEY" in str(keyless)


def test_names_of_others_are_escaped(world: PageWorld, tmp_path: Path) -> None:
    from flask import render_template

    from segloop.web.ui.data import Counts, Facts
    from segloop.web.ui.pages import projects_page

    evil = Facts(PROJECT, "<script>alert(1)</script>", counts=Counts("<img src=x onerror=alert(1)>", 2, 1))
    with world.app.test_request_context("/ui/"):
        text = render_template("projects.html", **projects_page([evil], {}))
    assert "<script>alert" not in text
    assert "<img src=x" not in text
    assert "&lt;img src=x onerror=alert(1)&gt;" in text


def test_the_gallery_is_served_and_nothing_else_is(world: PageWorld, served: list[str]) -> None:
    page = get_json(world, "/ui/projects/29")
    assert [image["task"] for image in page["chosen"]["gallery"]] == [101, 102, 103]
    folder = f"/ui/projects/29/versions/{served[2]}/gallery"
    photo = world.client.get(f"{folder}/0-photo.jpg")
    assert (photo.status_code, photo.mimetype, photo.data[:2]) == (200, "image/jpeg", b"\xff\xd8")
    assert "immutable" in photo.headers["Cache-Control"]
    assert world.client.get(f"{folder}/2-candidate.png").data[:4] == b"\x89PNG"
    for name in ("99-photo.jpg", "gallery.json", "..%2f..%2fversion.json"):
        assert world.client.get(f"{folder}/{name}").status_code == 404
    assert world.client.get("/ui/projects/29/versions/v9-00000000/gallery/0-photo.jpg").status_code == 404


def test_a_page_that_did_not_change_is_not_sent_again(world: PageWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    def get(tag: str) -> Any:
        return world.client.get("/ui/projects/29/job", headers={"If-None-Match": tag})

    now = minute()
    monkeypatch.setattr("segloop.web.ui.responses.minute", lambda: now)
    first = get("")
    again = get(first.headers["ETag"])
    assert (again.status_code, again.data) == (304, b"")
    begin(world.jobs)
    changed = get(first.headers["ETag"])
    assert changed.status_code == 200
    assert get(changed.headers["ETag"]).status_code == 304
    monkeypatch.setattr("segloop.web.ui.responses.minute", lambda: now + 1)
    later = get(changed.headers["ETag"])
    assert later.status_code == 200, "it says how long ago something was, and that has changed"


def test_a_training_is_shown_while_it_lives_and_after(world: PageWorld) -> None:
    assert "every 15s" in world.client.get("/ui/projects/29/job").text
    job_id = begin(world.jobs)
    progress = {"phase": "training", "message": "Training.", "step": 30, "steps": 60, "loss": 0.5, "eta_s": 65}
    world.jobs.report(job_id, progress, curves(30, 0.5))
    shown = world.client.get(f"/ui/projects/29/job?was={job_id}")
    assert "every 2s" in shown.text
    assert "about 1 min 5 s" in shown.text
    assert "HX-Refresh" not in shown.headers
    job = get_json(world, "/ui/projects/29/job")["job"]
    assert (job["share"], len(job["curves"]["loss"])) == (0.5, 30)
    world.jobs.report(job_id, {"phase": "exporting", "message": "Preparing."})
    assert len(get_json(world, "/ui/projects/29/job")["job"]["curves"]["loss"]) == 30, "curves outlive the phase"
    world.jobs.report(job_id, {"phase": "failed", "message": "The loss is NaN."})
    world.jobs.finish_retrain(PROJECT, job_id, lambda changes, requested: _nothing())
    ended = world.client.get(f"/ui/projects/29/job?was={job_id}")
    assert ended.headers["HX-Refresh"] == "true"
    assert "The loss is NaN." in ended.text


def _nothing() -> Any:
    from segloop.policy import RetrainDecision

    return RetrainDecision(False, "")


@pytest.mark.slow
def test_the_page_has_the_backends_password(world: PageWorld) -> None:
    own = world.settings.model_copy(update={"basic_auth_pass": SecretStr(PASSWORD)})
    client = create_app(world.backend, own).test_client()
    for path in ("/ui/", "/ui/projects/29", "/ui/static/page.css"):
        refused = client.get(path)
        assert refused.status_code == 401
        assert refused.headers["WWW-Authenticate"].startswith("Basic")
        with client.get(path, headers=basic("segloop", PASSWORD), base_url="http://ml.example") as shown:
            assert shown.status_code == 200
    assert client.post("/ui/projects/29/train").status_code == 401
    token = fields(client.get("/ui/projects/29", headers=basic("segloop", PASSWORD)).text, "train")["token"]
    # every process and every host of this backend knows its tokens; one with another password does not
    twin = create_app(world.backend, own).test_client()
    started = twin.post("/ui/projects/29/train", data={"token": token}, headers=basic("segloop", PASSWORD))
    assert started.status_code == 303
    other = own.model_copy(update={"basic_auth_pass": SecretStr("else")})
    refused = create_app(world.backend, other).test_client()
    answer = refused.post("/ui/projects/29/train", data={"token": token}, headers=basic("segloop", "else"))
    assert answer.status_code == 403


def basic(user: str, password: str) -> dict[str, str]:
    return {"Authorization": "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()}


def test_without_a_password_other_names_of_this_machine_are_refused(world: PageWorld) -> None:
    assert world.client.get("/ui/", base_url="http://rebound.example:9090").status_code == 403
    for host in ("localhost:9090", "127.0.0.1:9090", "[::1]:9090"):
        assert world.client.get("/ui/", base_url=f"http://{host}").status_code == 200
    key = world.settings.data_dir / "status-page.key"
    world.client.get("/ui/projects/29")
    assert key.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize(
    "path", ["/ui/projects/7", "/ui/projects/no-number", "/ui/nothing", "/ui/projects/29?version=v9-00000000"]
)
def test_what_is_not_there_is_said(world: PageWorld, path: str) -> None:
    answer = world.client.get(path)
    assert (answer.status_code, answer.mimetype) == (404, "text/html")
    assert "All projects" in answer.text
    assert answer.headers["X-Frame-Options"] == "DENY"
    assert set(get_json(world, path)) == {"error"}


def test_an_empty_store_is_no_error(settings: Settings, redis_url: str) -> None:
    world = PageWorld(settings.model_copy(update={"redis_url": redis_url}))
    (Path(world.settings.store_url) / PROJECT / "project.json").unlink()
    (Path(world.settings.store_url) / PROJECT).rmdir()
    page = world.client.get("/ui/")
    assert page.status_code == 200
    assert "No project yet" in page.text
    world.close()


@pytest.mark.slow
def test_without_redis_the_page_shows_the_rest(world: PageWorld, served: list[str]) -> None:
    away = PageWorld(world.settings.model_copy(update={"redis_url": "redis://127.0.0.1:1"}))
    page = away.client.get("/ui/projects/29")
    assert page.status_code == 200
    assert "The queue (Redis) cannot be reached" in page.text
    assert served[1] in page.text
    assert press(away, "train").status_code == 503
    # the store alone is needed to promote; predictions follow with the next reconciliation
    assert press(away, "promote").status_code == 303
    away.close()


def test_without_the_store_the_page_says_so(world: PageWorld) -> None:
    store = Path(world.settings.store_url)
    (store / PROJECT / "champion.json").write_text("{", encoding="utf-8")
    page = world.client.get("/ui/projects/29")
    assert page.status_code == 503
    assert "is not JSON" in page.text
    world.registry.write_json("31.1795383041", "project.json", {"project": "31.1795383041"})
    rows = get_json(world, "/ui/")["projects"]
    assert [(row["id"], row["served"]["version"]) for row in rows] == [("31", "untrained"), ("29", "unknown")]


SERVER = """
import json, sys
from segloop.backend import Backend
from segloop.settings import load_settings
from segloop.web import create_app
from segloop.web.ui.actions import Actions
from segloop.web.ui.data import ProjectLoader, Studio
from segloop.web.ui.responses import minute

settings = load_settings(env_file=None)
backend = Backend.from_settings(settings)
client = create_app(backend, settings).test_client()
codes = [client.get(path).status_code for path in ("/ui/", "/ui/projects/29", "/ui/projects/29/job")]
backend.close()
print(json.dumps([codes, [name for name in ("torch", "label_studio_sdk", "onnxruntime") if name in sys.modules]]))
"""


@pytest.mark.slow
def test_a_server_shows_the_page_without_torch_and_sdk(world: PageWorld, tmp_path: Path) -> None:
    add_version(world.registry, tmp_path, 1, 0.5)
    given = {"SEGLOOP_DATA_DIR": str(world.settings.data_dir), "REDIS_URL": world.settings.redis_url}
    done = subprocess.run(
        [sys.executable, "-c", SERVER], env={**os.environ, **given}, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1]) == [[200, 200, 200], []]


def test_the_page_asks_first_whether_it_helped(world: PageWorld, served: list[str]) -> None:
    assert "no pre-label was labelled yet" in world.client.get("/ui/projects/29").text
    write_ledger(world.registry, PROJECT, ledger([entry(1, 0, version=served[1]), entry(2, 50, version=served[1])]))
    shown = world.client.get("/ui/projects/29").text
    assert shown.index("Did this help?") < shown.index("Next retrain")
    assert (
        f'<span class="figure" id="unchanged">50 %</span>\n      <small>of 2 pre-labels of {served[1]}</small>' in shown
    )
    assert get_json(world, "/ui/projects/29")["report"]["now"]["changed_share"] == 0.25
    assert "style=" not in shown
