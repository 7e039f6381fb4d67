"""The routes of the protocol: each reads a request, calls the backend, and writes JSON."""

from __future__ import annotations

from flask import Blueprint, Response, request

from segloop import __version__
from segloop.backend import Backend
from segloop.errors import BadRequest
from segloop.payloads import parse_event, parse_predict, parse_setup, parse_train
from segloop.web.json_body import read_json
from segloop.web.json_response import reply


def protocol(backend: Backend) -> Blueprint:
    """The routes that Label Studio calls, and those of older releases."""
    routes = Blueprint("protocol", __name__)

    @routes.get("/")
    @routes.get("/health")
    def health() -> Response:
        return reply({"status": "UP", "model_class": "SegmentationBackend", "segloop": __version__})

    @routes.post("/setup")
    @routes.post("/setup/<path:_why>")
    def setup(_why: str = "") -> Response:
        # below /setup: where Label Studio is sent so that the address it shows says why (segloop.web.refusals)
        return reply(backend.setup(parse_setup(read_json()), backend_url=request.host_url.rstrip("/")))

    @routes.post("/predict")
    def predict() -> Response:
        return reply(backend.predict(parse_predict(read_json())))

    @routes.post("/webhook")
    def webhook() -> Response:
        return reply(backend.fit(parse_event(read_json())), 201)

    @routes.post("/train")
    def train() -> Response:
        return reply(backend.fit(parse_train(read_json())), 201)

    @routes.route("/versions", methods=["GET", "POST"])
    def versions() -> Response:
        project = _fields().get("project") if request.method == "POST" else request.args.get("project")
        if request.method == "POST" and project is None:
            raise BadRequest("project is missing; expected an id such as 29.")
        return reply(backend.versions(project))

    @routes.route("/job_status", methods=["GET", "POST"])
    def job_status() -> Response:
        job = request.args.get("job") if request.method == "GET" else _fields().get("job")
        if not isinstance(job, str) or not job:
            raise BadRequest("job is missing; expected the id that /webhook or /train answered with.")
        return reply(backend.job_status(job))

    @routes.get("/is_training")
    def is_training() -> Response:
        return reply(backend.is_training(request.args.get("project")))

    @routes.post("/validate")
    def validate() -> Response:
        fields = _fields()
        config = fields.get("config", fields.get("label_config", fields.get("schema")))
        if not isinstance(config, str) or not config.strip():
            raise BadRequest("config is missing; expected a label config (XML).")
        return reply(backend.validate(config))

    return routes


def _fields() -> dict[str, object]:
    body = read_json()
    if not isinstance(body, dict):
        raise BadRequest(f"The body is a JSON {type(body).__name__}; expected an object.")
    return body
