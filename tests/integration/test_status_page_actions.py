"""The buttons of the status page: training, cancelling, promoting and rolling back, and what is refused."""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Iterator
from typing import Any

import pytest
from pydantic import SecretStr
from werkzeug.exceptions import Conflict

from segloop.queue import PRELABEL_QUEUE, RETRAIN_QUEUE
from segloop.settings import Settings
from segloop.web.ui.actions import Actions
from segloop.web.ui.data import ProjectLoader
from tests.label_studio_server import FakeLabelStudio
from tests.pages import PROJECT, PageWorld, fields, get_json, press, served, world
from tests.toys import BRUSH

__all__ = ["served", "world"]


def test_training_is_started_and_cancelled(world: PageWorld, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    started = press(world, "train")
    assert (started.status_code, started.headers["Location"]) == (303, "/ui/projects/29?notice=queued")
    assert "The training is queued." in world.client.get(started.headers["Location"]).text
    [job] = world.jobs.queue(RETRAIN_QUEUE).job_ids
    assert press(world, "cancel").headers["Location"].endswith("notice=stopping")
    assert world.jobs.stop_asked(PROJECT, job)
    pressed = [record.message for record in caplog.records if record.name == "segloop.web.ui.actions"]
    assert pressed == [
        f"project {PROJECT}: somebody on this machine (127.0.0.1) started a training: job {job} queued on the status page",
        f"project {PROJECT}: somebody on this machine (127.0.0.1) asked job {job} to stop on the status page",
    ]


@pytest.mark.slow
def test_versions_are_promoted_and_rolled_back(world: PageWorld, served: list[str]) -> None:
    promoted = press(world, "promote")
    assert promoted.status_code == 303
    champion = world.registry.champion(PROJECT)
    assert champion is not None
    assert (champion.version, champion.previous) == (served[2], (served[0], served[1]))
    assert champion.reason == "Promoted by somebody on this machine on the status page."
    [job] = [job for job in world.jobs.queue(PRELABEL_QUEUE).get_jobs() if job]
    assert list(job.args) == [PROJECT, served[2]]
    assert press(world, "rollback").status_code == 303
    assert get_json(world, "/ui/projects/29")["project"]["served"]["version"] == served[1]


def test_a_removed_model_is_shown_and_cannot_be_promoted(world: PageWorld, served: list[str]) -> None:
    world.registry.promote(PROJECT, served[2], "test")
    data = fields(world.client.get("/ui/projects/29").text, "promote") | {"version": served[0]}
    world.registry.remove(PROJECT, served[0])
    page = world.client.get("/ui/projects/29").text
    assert "Model removed" in page
    assert fields(page, "promote")["version"] == served[1]
    refused = world.client.post("/ui/projects/29/promote", data=data)
    assert refused.status_code == 409
    assert "was removed on 20" in refused.text
    world.registry.rollback(PROJECT, "test")
    assert get_json(world, "/ui/projects/29")["rollback_to"] is None


def test_a_press_on_an_old_page_changes_nothing(world: PageWorld, served: list[str]) -> None:
    data = fields(world.client.get("/ui/projects/29").text, "rollback")
    world.registry.promote(PROJECT, served[2], "somebody else")
    refused = world.client.post("/ui/projects/29/rollback", data=data)
    assert refused.status_code == 409
    assert "load it again" in refused.text
    assert get_json(world, "/ui/projects/29")["project"]["served"]["version"] == served[2]
    assert press(world, "promote", version="v9-00000000").status_code == 404


def test_there_is_nothing_to_roll_back_to(world: PageWorld) -> None:
    token = fields(world.client.get("/ui/projects/29").text, "train")["token"]
    answer = world.client.post("/ui/projects/29/rollback", data={"token": token, "generation": "0"})
    assert answer.status_code == 409


@pytest.mark.slow
@pytest.mark.parametrize("action", ["train", "cancel", "promote", "rollback"])
def test_forms_of_other_sites_are_refused(world: PageWorld, served: list[str], action: str) -> None:
    before = world.registry.champion(PROJECT)
    token = fields(world.client.get("/ui/projects/29").text, "train")["token"]
    address = f"/ui/projects/29/{action}"
    for data, headers in (
        ({}, {}),
        ({"token": token[:-2] + "xx"}, {}),
        ({"token": token}, {"Sec-Fetch-Site": "cross-site"}),
    ):
        fit = data | {"generation": "2", "version": served[0]}
        assert world.client.post(address, data=fit, headers=headers).status_code == 403
    assert world.client.get(address).status_code == 404
    assert world.registry.champion(PROJECT) == before
    assert world.jobs.live_retrain(PROJECT) is None


def answered_by(fake: Any, tasks: int, labelled: int) -> None:
    """A Label Studio with a project of so many tasks."""

    def listing(request: Any) -> tuple[int, dict[str, Any]]:
        filtered = "total_annotations" in request.query["query"]
        total = labelled if filtered else tasks
        return 200, {"tasks": [], "total": total, "total_annotations": labelled, "total_predictions": 0}

    fake.routes = {"GET /api/projects/29/": (200, {"id": 29, "title": "Streets"}), "GET /api/tasks/": listing}


@pytest.fixture
def connected(settings: Settings, redis_url: str) -> Iterator[tuple[PageWorld, FakeLabelStudio]]:
    fake = FakeLabelStudio()
    own = {"redis_url": redis_url, "label_studio_url": fake.url, "label_studio_api_key": SecretStr("0123456789abcdef")}
    made = PageWorld(settings.model_copy(update=own))
    yield made, fake
    made.close()
    fake.close()


def test_start_training_is_disabled_while_nothing_is_labelled(connected: tuple[PageWorld, FakeLabelStudio]) -> None:
    world, fake = connected
    answered_by(fake, tasks=12, labelled=0)
    shown = world.client.get("/ui/projects/29").text
    assert re.search(r"<button[^>]* disabled[^>]*>Start training</button>", shown)
    assert "No task is labelled yet: a training needs 2" in shown
    assert not re.search(r'action="[^"]*/train"', shown)
    page = get_json(world, "/ui/projects/29")
    assert page["project"]["labels"] == {"tasks": 12, "labelled": 0, "unlabelled": 12}, "as the Data Manager counts"
    assert page["report"]["project"] == "29"
    with world.app.test_request_context(), pytest.raises(Conflict, match="No task is labelled yet"):
        Actions(world.backend, ProjectLoader(world.backend, world.settings).cannot_train).train(PROJECT, {})
    assert not world.jobs.live_retrain(PROJECT)


def test_start_training_works_once_two_tasks_are_labelled(connected: tuple[PageWorld, FakeLabelStudio]) -> None:
    world, fake = connected
    answered_by(fake, tasks=12, labelled=2)
    assert press(world, "train").status_code == 303
    assert world.jobs.live_retrain(PROJECT)


def test_a_page_that_stays_open_sees_what_was_labelled_meanwhile(
    connected: tuple[PageWorld, FakeLabelStudio], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("segloop.report.studio.STUDIO_KEPT_S", 0.5)
    _, fake = connected
    world = PageWorld(connected[0].settings)
    answered_by(fake, tasks=12, labelled=0)
    assert get_json(world, "/ui/projects/29/job")["cannot_train"]
    answered_by(fake, tasks=12, labelled=2)
    until = time.monotonic() + 3
    # the page asks more often than Label Studio's answer is kept
    while (refused := get_json(world, "/ui/projects/29/job")["cannot_train"]) and time.monotonic() < until:
        time.sleep(0.05)
    world.close()
    assert refused is None
    assert len(fake.asked("GET", "/api/projects/29/")) < 10


def test_buttons_of_an_earlier_project_with_the_same_id_are_its_own(world: PageWorld) -> None:
    newer = "29.1800000000"
    world.registry.write_json(newer, "project.json", {"project": newer, "label_config": BRUSH})
    job = world.jobs.enqueue_retrain(newer, "pressed").job_id
    earlier = world.jobs.enqueue_retrain(PROJECT, "pressed").job_id
    listed = world.client.get("/ui/").text
    assert [f'href="/ui/projects/{name}"' in listed for name in ("29", PROJECT)] == [True, True]
    shown = world.client.get(f"/ui/projects/{PROJECT}").text
    assert f'hx-get="/ui/projects/{PROJECT}/job?' in shown
    [action] = re.findall(r'action="([^"]*/cancel)"', shown)
    assert world.client.post(action, data=fields(shown, "cancel")).status_code == 303
    assert world.jobs.stop_asked(PROJECT, earlier)
    assert not world.jobs.stop_asked(newer, job)
