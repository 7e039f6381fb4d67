"""The routes against every request recorded from a real Label Studio 1.23.2, and against what it never sends."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from pydantic import SecretStr

from segloop.backend import Backend
from segloop.masks import decode_rle
from segloop.queue.names import FEEDBACK
from segloop.serving import UNTRAINED, ServedModels
from segloop.web import create_app
from tests.toys import BRUSH
from tests.world import World, event

PAYLOADS = Path(__file__).parents[1] / "payloads"


def recorded() -> list[tuple[str, dict]]:
    """Every recorded request, with the file that holds it."""
    found = []
    for path in sorted(PAYLOADS.glob("*.json")):
        content = json.loads(path.read_text(encoding="utf-8"))
        found += [
            (f"{path.stem}:{item['seq']}", item) for item in content if isinstance(content, list) and "method" in item
        ]
    return found


@pytest.fixture
def world(settings, redis_url):
    made = World(settings.model_copy(update={"redis_url": redis_url, "retrain_threshold": 3}))
    yield made
    made.close()


@pytest.mark.parametrize(("name", "sample"), recorded(), ids=[name for name, _ in recorded()])
def test_every_recorded_request_is_answered(world, name, sample):
    body = sample["body"]
    if body:
        world.promote(project_of(body))
    response = world.client.open(sample["path"], method=sample["method"], json=body)
    assert response.status_code in (200, 201), response.text
    if sample["path"] == "/predict":
        results = response.json["results"]
        assert len(results) == len(body["tasks"])
        for result in results:
            assert 0 <= result["score"] <= 1
            assert result["model_version"] == response.json["model_version"]
            assert result["result"], "the toy network finds both classes"


def project_of(body: dict) -> str:
    project = body["project"]
    return project if isinstance(project, str) else "29.1795383040"


def test_recordings_cover_every_route():
    assert {sample["path"] for _, sample in recorded()} == {"/health", "/setup", "/predict", "/versions", "/webhook"}


def ask(world, tasks, project="1.1795382829", config=BRUSH, context=None):
    body = {
        "tasks": tasks,
        "project": project,
        "label_config": config,
        "params": {"login": None, "password": None, "context": context},
    }
    return world.client.post("/predict", json=body)


def task(ident, uri="/data/upload/1/ok.png"):
    return {"id": ident, "data": {"image": uri}, "project": 1}


def test_one_version_in_setup_and_predict(world):
    version = world.promote("1.1795382829")
    setup = world.client.post("/setup", json={"project": "1.1795382829", "schema": BRUSH, "extra_params": None}).json
    predicted = ask(world, [task(1), task(2)]).json
    assert setup["model_version"] == predicted["model_version"] == version
    assert {result["model_version"] for result in predicted["results"]} == {version}


def test_setup_loads_no_model(world):
    world.promote("1.1795382829")

    def load(*args):
        raise AssertionError("loaded")

    models = ServedModels(world.registry, world.settings, load)
    backend = Backend(world.settings, world.registry, models, world.images, lambda: world.jobs)
    client = create_app(backend, world.settings).test_client()
    assert client.post("/setup", json={"project": "1.1795382829", "schema": BRUSH}).status_code == 200
    backend.close()


def test_without_a_version_label_studio_is_given_nothing_to_store(world):
    answer = ask(world, [task(1), task(2)]).json
    assert answer == {"results": [{}, {}], "model_version": UNTRAINED}
    assert world.images.asked == []


def test_masks_are_where_the_colours_are(world):
    world.promote("1.1795382829")
    [prediction] = ask(world, [task(1)]).json["results"]
    masks = {item["value"]["brushlabels"][0]: decode_rle(item["value"]["rle"], 30, 40) for item in prediction["result"]}
    assert set(masks) == {"Road", "Sky"}
    assert (masks["Road"][:13] == 255).all()
    assert (masks["Road"][17:] == 0).all()
    assert (masks["Sky"][17:] == 255).all()
    for item in prediction["result"]:
        assert (item["from_name"], item["to_name"], item["type"]) == ("tag", "image", "brushlabels")
        assert (item["original_width"], item["original_height"]) == (40, 30)


def test_a_bad_task_never_costs_the_others(world, caplog):
    world.promote("1.1795382829")
    tasks = [
        task(1),
        task(2, "/data/upload/1/bad.png"),
        {"id": 3, "data": {}},
        {"id": 4, "data": {"image": None}},
        *map(task, range(5, 20)),
    ]
    results = ask(world, tasks).json["results"]
    assert len(results) == len(tasks)
    assert [index for index, result in enumerate(results) if not result["result"]] == [1, 2, 3]
    assert all(results[index] == {"result": [], "score": None} for index in (1, 2, 3))
    assert "task 2 of project" in caplog.text


def test_a_smart_tool_gets_the_region_under_the_click(world):
    world.promote("29.1795383040")
    sample = next(item for name, item in recorded() if name.startswith("08_interactive"))
    body = sample["body"]
    body["params"]["context"]["result"][0]["value"].update(x=50, y=20)
    [result] = world.client.post("/predict", json=body).json["results"]
    [region] = result["result"]
    assert region["value"]["brushlabels"] == ["Road"]
    mask = decode_rle(region["value"]["rle"], region["original_height"], region["original_width"])
    assert mask[:13].all()
    assert not mask[17:].any()


def test_a_smart_tool_that_finds_nothing_gets_an_empty_result(world):
    sample = next(item for name, item in recorded() if name.startswith("08_interactive"))
    response = world.client.post("/predict", json=sample["body"])
    assert response.json["results"] == [{"result": [], "score": None}]


# -- what is wrong


@pytest.mark.parametrize("route", ["/setup", "/predict", "/webhook", "/train", "/versions", "/job_status", "/validate"])
@pytest.mark.parametrize(
    "body", [b"", b"{", b"[1]", b"null", b'"text"', b"\xff\xfe", b"{}", b'{"project": "banana"}', b'{"project": [1]}']
)
def test_what_cannot_be_read_is_a_400_with_one_sentence(world, route, body):
    response = world.client.post(route, data=body, content_type="application/json")
    assert response.status_code == 400
    assert set(response.json) == {"error"}
    assert "Traceback" not in response.text


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"label_config": None}, "label_config is missing"),
        ({"label_config": ""}, "label_config"),
        ({"label_config": "<View>"}, "XML"),
        ({"label_config": "<View><Image name='i' value='$i'/></View>"}, "BrushLabels"),
        ({"project": "none"}, "project is 'none'"),
        ({"project": None}, "project is missing"),
        ({"tasks": "all"}, "tasks is 'all'"),
        ({"params": "x"}, "params is 'x'"),
    ],
)
def test_a_bad_field_of_predict_is_named(world, change, sentence):
    body = {"tasks": [task(1)], "project": "1.1", "label_config": BRUSH, "params": {}} | change
    response = world.client.post("/predict", json=body)
    assert response.status_code == 400
    assert sentence in response.json["error"]


def test_a_body_beyond_the_limit_is_refused(world):
    world.client.application.config["MAX_CONTENT_LENGTH"] = 100
    declared = world.client.post("/validate", data=b" " * 101)
    chunks = {"input_stream": io.BytesIO(b" " * 101), "environ_overrides": {"wsgi.input_terminated": True}}
    for response in (declared, world.client.post("/validate", **chunks)):
        assert response.status_code == 413
        assert "capacity limit" in response.json["error"]


def test_unknown_routes_methods_projects_and_jobs(world):
    assert world.client.get("/nowhere").status_code == 404
    not_allowed = world.client.get("/predict")
    assert (not_allowed.status_code, not_allowed.headers["Allow"]) == (405, "OPTIONS, POST")
    assert world.client.get("/is_training?project=999").status_code == 400
    assert world.client.get("/is_training").status_code == 400
    assert world.client.post("/versions", json={"project": "999"}).status_code == 400
    assert world.client.get("/job_status?job=retrain-1-aaaaaaaa").status_code == 404


# -- events


def test_start_training_queues_at_once_and_a_second_press_joins(world):
    first = world.client.post("/webhook", json=event("START_TRAINING"))
    second = world.client.post("/webhook", json=event("START_TRAINING"))
    assert (first.status_code, second.status_code) == (201, 201)
    assert first.json["status"] == "queued"
    assert second.json["status"] == "joined"
    assert "joins" in second.json["message"]
    assert first.json["job"] == second.json["job"]
    status = world.client.post("/job_status", json={"job": first.json["job"]}).json
    assert status["job_status"] == "queued"
    assert world.client.get("/is_training?project=29").json["is_training"] is True


def test_start_training_has_label_studio_say_so(settings, redis_url):
    known = settings.model_copy(update={"redis_url": redis_url, "label_studio_api_key": SecretStr("0123456789abcdef")})
    for told, own in ((["29.1795383040"], {}), ([], {"studio_status": False})):
        world = World(known.model_copy(update=own))
        world.jobs.connection.flushdb()
        assert world.client.post("/webhook", json=event("START_TRAINING")).json["status"] == "queued"
        jobs = [job for job in world.jobs.queue("segloop-prelabel").get_jobs() if job.func_name == FEEDBACK]
        assert [job.args[0] for job in jobs] == told
        world.close()


def test_the_old_train_route_queues_too(world):
    body = {"annotations": [{"id": 1}], "project": "29.1795383040", "label_config": BRUSH, "params": {}}
    response = world.client.post("/train", json=body)
    assert response.status_code == 201
    assert response.json["job"]


def test_annotation_events_queue_at_the_threshold_of_distinct_tasks(world):
    statuses = []
    for ident, task_id in enumerate([1, 1, 2, 2, 3, 4]):
        body = event("ANNOTATION_CREATED", annotation={"id": ident, "task": task_id}, task={"id": task_id})
        statuses.append(world.client.post("/webhook", json=body).json["status"])
    assert statuses[:4] == ["counted"] * 4
    assert statuses[4] == "queued"
    assert world.client.get("/is_training?project=29").json["is_training"] is True


def test_plural_events_count_each_task(world):
    body = event(
        "ANNOTATIONS_CREATED", annotation=[{"id": 1, "task": 1}, {"id": 2, "task": 2}], task=[{"id": 1}, {"id": 2}]
    )
    assert world.client.post("/webhook", json=body).json["changed_tasks"] == 2
    body = event("ANNOTATIONS_DELETED", annotations=[{"id": 7}])
    assert world.client.post("/webhook", json=body).json["status"] == "queued"


def test_a_skip_counts_nothing(world):
    body = event("ANNOTATION_CREATED", annotation={"id": 1, "task": 1, "was_cancelled": True}, task={"id": 1})
    assert world.client.post("/webhook", json=body).json["changed_tasks"] == 0


def test_a_projects_own_threshold(world):
    world.client.post(
        "/setup", json={"project": "29.1795383040", "schema": BRUSH, "extra_params": '{"retrain_threshold": 1}'}
    )
    body = event("ANNOTATION_CREATED", annotation={"id": 1, "task": 1}, task={"id": 1})
    assert world.client.post("/webhook", json=body).json["status"] == "queued"


def test_a_quick_adaptation_needs_a_backbone(world):
    setup = {"project": "29.1795383040", "schema": BRUSH, "extra_params": {"adapt_threshold": 1}}
    world.client.post("/setup", json=setup)
    body = event("ANNOTATION_CREATED", annotation={"id": 1, "task": 1}, task={"id": 1})
    answer = world.client.post("/webhook", json=body).json
    assert answer["status"] == "counted"
    assert "without weights and without a served version" in answer["message"]
    world.promote("29.1795383040")
    answer = world.client.post("/webhook", json=body).json
    assert (answer["status"], answer["recipe"]) == ("queued", "quick")
    # the button always means a full retrain
    assert world.client.post("/webhook", json=event("START_TRAINING")).json["status"] == "joined"
    assert world.client.get("/is_training?project=29").json["recipe"] == "full"


def test_extra_params_that_cannot_be_used_are_named_and_left_out(world):
    body = {"project": "29.1795383040", "schema": BRUSH, "extra_params": {"retrain_threshold": -1}}
    answer = world.client.post("/setup", json=body)
    assert answer.status_code == 200
    assert "retrain_threshold=-1" in answer.json["warning"]
    change = event("ANNOTATION_CREATED", annotation={"id": 1, "task": 1}, task={"id": 1})
    assert world.client.post("/webhook", json=change).json["threshold"] == 3


def test_events_that_change_nothing_are_acknowledged(world):
    for action in ("PROJECT_UPDATED", "TASKS_CREATED", "TASKS_DELETED", "LABEL_LINK_CREATED"):
        response = world.client.post("/webhook", json=event(action))
        assert (response.status_code, response.json["status"]) == (201, "ignored")


def test_with_the_queue_away_annotations_are_deferred_and_training_says_so(settings):
    world = World(settings.model_copy(update={"redis_url": "redis://127.0.0.1:9"}))
    body = event("ANNOTATION_CREATED", annotation={"id": 1, "task": 1}, task={"id": 1})
    answer = world.client.post("/webhook", json=body).json
    assert answer["status"] == "deferred"
    assert "no worker can ask Label Studio for it: set LABEL_STUDIO_API_KEY" in answer["message"]
    response = world.client.post("/webhook", json=event("START_TRAINING"))
    assert response.status_code == 503
    assert "Redis" in response.json["error"]
    assert world.client.get("/health").status_code == 200
    assert ask(world, [task(1)]).status_code == 200
    world.close()


def test_with_the_queue_away_a_worker_that_has_a_key_counts_later(settings):
    own = {"redis_url": "redis://127.0.0.1:9", "label_studio_api_key": SecretStr("k" * 40)}
    world = World(settings.model_copy(update=own))
    answer = world.client.post("/webhook", json=event("ANNOTATION_CREATED", annotation={"id": 1, "task": 1})).json
    assert "a worker counts it when it next asks Label Studio" in answer["message"]
    world.close()


# -- versions, validation


def test_versions_with_and_without_a_project(world):
    first, second = world.promote("1.1795382829", 1), world.promote("1.1795382829", 2)
    other = world.promote("2.1795382829", 3)
    assert set(world.client.get("/versions").json["versions"]) == {first, second, other}
    assert world.client.get("/versions?project=1").json["versions"] == [first, second]
    answer = world.client.post("/versions", json={"project": "1.1795382829"}).json
    assert answer == {"versions": [first, second], "model_version": second}


def test_every_route_names_the_version_that_setup_names(settings, redis_url):
    # with pretrained weights it follows from the labels which version answers
    own = {"redis_url": redis_url, "weights": "coco"}
    world = World(settings.model_copy(update=own))
    config = BRUSH.replace("Road", "Person")
    named = world.client.post("/setup", json={"project": "1.1795382829", "schema": config}).json["model_version"]
    assert named.endswith("-coco")
    assert world.client.get("/versions?project=1").json["model_version"] == named
    assert world.client.get("/is_training?project=1").json["model_version"] == named
    world.close()


def test_validate(world):
    answer = world.client.post("/validate", json={"config": BRUSH}).json
    assert answer == {"status": "ok", "classes": ["Road", "Sky"], "outputs": {"image": {"Road": "tag", "Sky": "tag"}}}
    assert world.client.post("/validate", json={"config": "<View/>"}).status_code == 400
