"""model.SegmentationBackend under label-studio-ml 1.0.9's own application, and called as 2.x calls it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

# label_studio_ml 1.0.9 keeps its application and its manager in module globals, so each test has a process of its own.
PREAMBLE = """
import sys
from tests.toys import BRUSH, ToyImages, toy_bundle, toy_loader
from segloop.backend import Backend
from segloop.registry import open_registry
from segloop.serving import ServedModels
from segloop.settings import Settings
from segloop.queue import Jobs
from pathlib import Path
import model

data_dir, redis_url = Path(sys.argv[1]), sys.argv[2]
settings = Settings(data_dir=data_dir, redis_url=redis_url, weights="none", retrain_threshold=2)
registry = open_registry(settings)
folder, info = toy_bundle(data_dir / "bundle")
version = registry.add("7.1795382829", folder, info)
registry.promote("7.1795382829", version, "test")
real = Backend(settings, registry, ServedModels(registry, settings, toy_loader), ToyImages(), lambda: Jobs.open(settings))
model.backend = lambda: real
tasks = [{"id": n, "data": {"image": uri}, "project": 7} for n, uri in enumerate(("a.png", "bad.png", "c.png"))]
project = {"id": 7, "created_at": "2026-11-22T21:27:09.771975Z", "label_config": BRUSH}
event = {"annotation": {"id": 1, "task": 1}, "task": {"id": 1}, "project": project}

def check(results):
    assert [bool(r["result"]) for r in results] == [True, False, True], results
    assert results[1] == {"result": [], "score": None}
    assert {results[0]["model_version"], results[2]["model_version"]} == {version}
"""


@pytest.fixture
def run(tmp_path, redis_url):
    def run(body: str) -> None:
        done = subprocess.run(
            [sys.executable, "-W", "ignore", "-c", PREAMBLE + body, str(tmp_path / "data"), redis_url],
            cwd=Path(__file__).parents[2],
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert done.returncode == 0, done.stderr[-3000:]

    return run


def test_under_1_0_9s_own_application(run, tmp_path):
    run(
        f"""
from label_studio_ml.api import init_app
app = init_app(model_class=model.SegmentationBackend, model_dir={str(tmp_path / "jobs")!r})
client = app.test_client()
assert client.get("/health").json["status"] == "UP"
setup = client.post("/setup", json={{"project": "7.1795382829", "schema": BRUSH, "hostname": "", "access_token": ""}})
assert setup.status_code == 200, setup.text
body = {{"tasks": tasks, "project": "7.1795382829", "label_config": BRUSH,
        "params": {{"login": None, "password": None, "context": None}}}}
check(client.post("/predict", json=body).json["results"])
"""
    )


def test_1_0_9_calls_fit_with_event_and_data(run):
    run(
        """
from label_studio_ml.model import SimpleJobManager
made = model.SegmentationBackend(label_config=BRUSH, train_output={})
for name in ("ANNOTATION_CREATED", "START_TRAINING"):
    answer = made.process_event(name, event, "17", {"workdir": "w"})
    assert answer["status"] in ("counted", "queued"), answer
assert real.is_training("7")["is_training"] is True
assert made.fit(iter(tasks), "w")["status"] == "joined"
"""
    )


def test_2_x_signatures(run):
    run(
        """
made = model.SegmentationBackend(project_id="7", label_config=BRUSH)
check(made.predict(tasks, context=None, login=None, password=None))
click = {"type": "keypointlabels", "from_name": "k", "to_name": "image", "is_positive": True,
         "value": {"x": 50, "y": 20, "width": 1, "keypointlabels": ["Road"]}}
[answer] = made.predict(tasks[:1], context={"result": [click]})
assert answer["result"][0]["value"]["brushlabels"] == ["Road"]
assert made.fit("ANNOTATION_CREATED", event)["status"] == "counted"
assert made.fit("START_TRAINING", {"project": project})["status"] == "queued"
assert made.fit(event="START_TRAINING", data={"project": project})["status"] == "joined"
positional = model.SegmentationBackend("7", label_config=BRUSH)
check(positional.predict(tasks))
"""
    )


def test_without_a_project_the_error_says_so(run):
    run(
        """
import pytest
from segloop.errors import BadRequest
with pytest.raises(BadRequest, match="no project"):
    model.SegmentationBackend(label_config=BRUSH).predict([{"id": 1, "data": {"image": "a.png"}}])
"""
    )


def test_under_1_0_9_setup_and_predictions_name_one_version(run, tmp_path):
    run(
        f"""
from label_studio_ml.api import init_app
other = BRUSH.replace("Road", "Lane")
client = init_app(model_class=model.SegmentationBackend, model_dir={str(tmp_path / "jobs")!r}).test_client()

def setup(project, config=BRUSH):
    body = {{"project": project, "schema": config, "hostname": "", "access_token": ""}}
    return client.post("/setup", json=body).json["model_version"]

def predict():
    body = {{"tasks": tasks, "project": "7.1795382829", "label_config": BRUSH, "params": {{"context": None}}}}
    return client.post("/predict", json=body).json

assert setup("7.1795382829") == predict()["model_version"] == version
check(predict()["results"])
# another project is set up in between, as its people open it
assert setup("8.1795382829", other) == "untrained"
check(predict()["results"])
assert predict()["model_version"] == version
# after a promotion both name the new one
folder, info = toy_bundle(data_dir / "second", 1)
version = registry.add("7.1795382829", folder, info)
registry.promote("7.1795382829", version, "test")
real.models.refresh()
assert setup("7.1795382829") == predict()["model_version"] == version
check(predict()["results"])
"""
    )


#: 2.x constructs a model for each request, which calls `setup`, and keeps strings by project (label_studio_ml/model.py).
AS_2_X = """
class AsIn2(model.SegmentationBackend):
    kept = {}
    def __init__(self, project_id=None, label_config=None):
        super().__init__(project_id, label_config)
        self.setup()
    def get(self, key):
        return self.kept.get((self._project, key))
    def set(self, key, value):
        assert isinstance(value, str), value
        self.kept[self._project, key] = value
"""


def test_under_2_x_extra_params_hold_until_the_next(run):
    run(
        AS_2_X
        + """
for extra in ('{"retrain_threshold": 5}', {"retrain_threshold": 5}):
    made = AsIn2("7", BRUSH)
    made.set_extra_params(extra)
    assert real.projects.settings("7.1795382829").retrain_threshold == 5
    check(AsIn2("7", BRUSH).predict(tasks))
    assert AsIn2("7", BRUSH).get("model_version") == version
    assert real.projects.settings("7.1795382829").retrain_threshold == 5, "a request without any takes none away"
    assert AsIn2("7", BRUSH).fit("ANNOTATION_CREATED", event)["threshold"] == 5
    made.set_extra_params('{"retrain_threshold": 4}')
    assert AsIn2("7", BRUSH).fit("ANNOTATION_CREATED", event)["threshold"] == 4
"""
    )


def test_under_2_x_start_training_without_a_queue_says_so(run):
    run(
        AS_2_X
        + """
from flask import Flask, jsonify, request
settings = settings.model_copy(update={"redis_url": "redis://127.0.0.1:9/0"})
app = Flask("as 2.x: its /webhook catches nothing")

@app.post("/webhook")
def webhook():
    data = request.json
    name = data.pop("action")
    return jsonify({"result": AsIn2(str(data["project"]["id"]), BRUSH).fit(name, data), "status": "ok"}), 201

answer = app.test_client().post("/webhook", json={"action": "START_TRAINING", "project": project})
assert answer.status.startswith("503 The queue (Redis) cannot be reached"), answer.status
assert answer.json["error"].startswith("The queue (Redis) cannot be reached"), answer.text
answer = app.test_client().post("/webhook", json={"action": "ANNOTATION_CREATED", **event})
assert answer.status_code == 201
assert "no worker can ask Label Studio for it" in answer.json["result"]["message"]
"""
    )
