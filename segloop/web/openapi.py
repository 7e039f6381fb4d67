"""`/openapi.json`: what each route takes and answers (OpenAPI 3.1)."""

from __future__ import annotations

from typing import Any, Final

from segloop import __version__
from segloop.payloads import MAX_TASKS

Json = dict[str, Any]

_CONFIG: Final = (
    '<View><Image name="image" value="$image"/><BrushLabels name="tag" toName="image"><Label value="Road"/>'
    '<Label value="Sky"/></BrushLabels></View>'
)
_PROJECT: Final[Json] = {
    "oneOf": [{"type": "string", "pattern": r"^[0-9]{1,18}(\.[0-9]{1,18})?$"}, {"type": "integer"}]
}
_XML: Final[Json] = {"type": "string", "minLength": 1, "description": "The project's label config (XML)."}
_KEY: Final = "29.1795383040"


def _body(required: list[str], properties: Json, example: Json) -> Json:
    schema = {"type": "object", "required": required, "properties": properties}
    return {"required": True, "content": {"application/json": {"schema": schema, "example": example}}}


def _query(name: str, schema: Json, *, required: bool) -> Json:
    return {"name": name, "in": "query", "required": required, "schema": schema}


_TASK: Final[Json] = {
    "type": "object",
    "required": ["data"],
    "properties": {"id": {"type": "integer"}, "data": {"type": "object"}},
}
_BODIES: Final[dict[str, Json]] = {
    "/setup": _body(
        ["project", "schema"],
        {"project": _PROJECT, "schema": _XML, "extra_params": {"type": ["string", "object", "null"]}},
        {"project": _KEY, "schema": _CONFIG, "extra_params": None},
    ),
    "/predict": _body(
        ["project", "label_config", "tasks"],
        {
            "project": _PROJECT,
            "label_config": _XML,
            "tasks": {"type": "array", "items": _TASK, "maxItems": MAX_TASKS},
            "params": {"type": "object", "properties": {"context": {"type": ["object", "null"]}}},
        },
        {
            "project": _KEY,
            "label_config": _CONFIG,
            "tasks": [{"id": 1, "data": {"image": "/data/upload/1.png"}}],
            "params": {
                "context": {
                    "result": [
                        {
                            "type": "keypointlabels",
                            "to_name": "image",
                            "original_width": 40,
                            "original_height": 30,
                            "value": {"x": 50.0, "y": 20.0, "keypointlabels": ["Road"]},
                            "is_positive": True,
                        }
                    ]
                }
            },
        },
    ),
    "/webhook": _body(
        ["action", "project"],
        {
            "action": {"type": "string", "minLength": 1},
            "project": {"oneOf": [*_PROJECT["oneOf"], {"type": "object"}]},
            "annotation": {"type": ["object", "array"]},
            "task": {"type": ["object", "array"]},
        },
        {
            "action": "ANNOTATION_CREATED",
            "project": {"id": 29, "created_at": "2026-11-22T21:30:40.804663Z", "label_config": _CONFIG},
            "annotation": {"id": 1, "task": 1, "was_cancelled": False},
            "task": {"id": 1},
        },
    ),
    "/train": _body(
        ["project"],
        {"project": _PROJECT, "label_config": {"type": "string"}},
        {"project": _KEY, "label_config": _CONFIG},
    ),
    "/versions": _body(["project"], {"project": _PROJECT}, {"project": _KEY}),
    "/job_status": _body(["job"], {"job": {"type": "string", "minLength": 1}}, {"job": "retrain-29-0a1b2c3d"}),
    "/validate": _body(["config"], {"config": _XML}, {"config": _CONFIG}),
}
_QUERIES: Final[dict[str, list[Json]]] = {
    "/versions": [_query("project", _PROJECT, required=False)],
    "/job_status": [_query("job", {"type": "string", "minLength": 1}, required=True)],
    "/is_training": [_query("project", _PROJECT, required=True)],
    "/ready": [_query("part", {"enum": ["model", "store", "queue"]}, required=False)],
}
_SUMMARIES: Final = {
    ("get", "/"): "That it runs, and which release.",
    ("get", "/health"): "That it runs; open to all.",
    ("post", "/setup"): "The version that answers for a project.",
    ("post", "/predict"): "A prediction for each task, in order; {} for one that cannot be predicted now.",
    ("post", "/webhook"): "An event of Label Studio.",
    ("post", "/train"): "Start a training: the form of older releases of Label Studio.",
    ("get", "/versions"): "The versions of a project, or of all.",
    ("post", "/versions"): "The versions of a project.",
    ("get", "/job_status"): "State and progress of a job.",
    ("post", "/job_status"): "State and progress of a job.",
    ("get", "/is_training"): "Whether a project is trained now.",
    ("post", "/validate"): "Classes of a label config.",
    ("get", "/metrics"): "Metrics, in Prometheus's form.",
    ("get", "/ready"): "Whether what a request needs is there; open to all.",
    ("get", "/openapi.json"): "This.",
}


def description() -> Json:
    """The OpenAPI description of the routes that programs call."""
    paths: Json = {}
    for (method, path), summary in _SUMMARIES.items():
        refused = {"description": "Why not, in a sentence.", "content": {"application/json": {"schema": _ERROR}}}
        operation: Json = {
            "summary": summary,
            "responses": {"2XX": {"description": "Done."}, **dict.fromkeys(("4XX", "503"), refused)},
        }
        if method == "post":
            operation["requestBody"] = _BODIES[path]
        elif queries := _QUERIES.get(path):
            operation["parameters"] = queries
        if path == "/ready":
            operation["responses"]["503"] = {
                "description": "Which part is not there, and why.",
                "content": {"application/json": {"schema": _READINESS}},
            }
        if path in ("/health", "/ready"):
            operation["security"] = []
        paths.setdefault(path, {})[method] = operation
    return {
        "openapi": "3.1.0",
        "info": {"title": "segloop", "version": __version__},
        "paths": paths,
        "security": [{"basic": []}],
        "components": {"securitySchemes": {"basic": {"type": "http", "scheme": "basic"}}},
    }


_READINESS: Final[Json] = {
    "type": "object",
    "required": ["ready", "parts"],
    "properties": {
        "ready": {"const": False},
        "parts": {"type": "object", "additionalProperties": {"type": "string"}},
    },
}
_ERROR: Final[Json] = {"type": "object", "required": ["error"], "properties": {"error": {"type": "string"}}}
