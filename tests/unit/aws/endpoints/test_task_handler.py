"""Whole tasks answered by an endpoint."""

from __future__ import annotations

import base64
import io
import json
import threading
import urllib.request
from http.server import ThreadingHTTPServer
from typing import Any

import numpy as np
import pytest
from PIL import Image

from segloop.aws.endpoints.handler import JSON, NPY, Handler, Refused, http_of
from segloop.label_config import parse_label_config
from segloop.serving.predict import Predictor
from segloop.settings import Settings
from tests.toys import BRUSH, half_red_half_blue, toy_registry

PROJECT = "7.1795383040"
SETTINGS = Settings(_env_file=None, device="cpu", weights="none")
ADDRESS = "s3://source/projects/7/a.png"


@pytest.fixture(scope="module")
def handler(tmp_path_factory: pytest.TempPathFactory) -> Handler:
    registry = toy_registry(tmp_path_factory.mktemp("answers"), PROJECT)
    return Handler(registry.bundle(PROJECT, registry.versions(PROJECT)[0].version), SETTINGS)


def png() -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(half_red_half_blue(60, 80)).save(buffer, "PNG")
    return buffer.getvalue()


def request(**own: Any) -> dict[str, Any]:
    images = {ADDRESS: base64.b64encode(png()).decode()}
    return {"label_config": BRUSH, "task": {"id": 1, "data": {"image": ADDRESS}}, "images": images, **own}


def ask(handler: Handler, **own: Any) -> dict[str, Any]:
    answer: dict[str, Any] = json.loads(handler.invoke(json.dumps(request(**own)).encode(), JSON))
    return answer


class OneImage:
    def load(self, uri: str, task_id: int | None) -> Any:
        from segloop.images import Blob
        from segloop.images import Image as SourceImage

        assert uri == ADDRESS
        return SourceImage(Blob(png(), "0"), max_pixels=10**6, name="the image")


@pytest.mark.slow
def test_the_answer_is_what_segloop_predicts(handler: Handler) -> None:
    config = parse_label_config(BRUSH)
    expected = Predictor(config, handler.model, OneImage(), SETTINGS).predict([request()["task"]])[0]
    answer = ask(handler)
    assert answer["model_version"] == handler.info.version
    assert answer["score"] == pytest.approx(expected["score"])
    values = [item["value"] for item in expected["result"]]
    assert [item["value"] for item in answer["result"]] == values
    assert 0 <= answer["score"] <= 1


@pytest.mark.parametrize(
    "own",
    [
        {"images": {}},
        {"images": {"s3://source/other.png": base64.b64encode(png()).decode()}},
        {"images": {ADDRESS: base64.b64encode(b"no image").decode()}},
        {"task": {"id": 1, "data": {}}},
    ],
)
def test_a_task_that_cannot_be_predicted_has_no_score(handler: Handler, own: dict[str, Any]) -> None:
    assert ask(handler, **own) == {"result": [], "score": None, "model_version": handler.info.version}


@pytest.mark.parametrize(
    ("body", "status", "reason"),
    [
        (b"{", 400, "no task with label_config"),
        (b"[]", 400, "no task with label_config"),
        (json.dumps(request(label_config="<View/>")).encode(), 400, "no Image tag"),
        (json.dumps(request(task={"id": 1, "data": []})).encode(), 400, "task.data is no object"),
        (json.dumps(request(images={ADDRESS: "?"})).encode(), 400, "no task with label_config"),
    ],
)
def test_what_is_no_task_is_refused(handler: Handler, body: bytes, status: int, reason: str) -> None:
    with pytest.raises(Refused, match=reason) as caught:
        handler.invoke(body, f"{JSON}; charset=utf-8")
    assert caught.value.status == status


def test_another_version_is_refused(handler: Handler) -> None:
    with pytest.raises(Refused, match="not v9"):
        handler.invoke(json.dumps(request()).encode(), JSON, "version=v9")


def test_logits_go_on_being_answered(handler: Handler) -> None:
    body = io.BytesIO()
    np.save(body, np.zeros((1, 3, 64, 64), np.float32))
    assert np.load(io.BytesIO(handler.invoke(body.getvalue(), NPY))).shape == (1, 3, 4, 4)


def test_http_says_which_of_both_it_is(handler: Handler) -> None:
    with ThreadingHTTPServer(("127.0.0.1", 0), http_of(handler)) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        url = f"http://127.0.0.1:{server.server_port}/invocations"
        asked = urllib.request.Request(url, json.dumps(request()).encode(), {"Content-Type": JSON})
        with urllib.request.urlopen(asked, timeout=30) as response:
            assert response.headers["Content-Type"] == JSON
            assert json.loads(response.read())["model_version"] == handler.info.version
        server.shutdown()
        thread.join()
