"""A backend as the official server and its examples make one, for gunicorn: what segloop is compared with.

Where label_studio_ml 2.x can be imported (it is on no package index; `--official` of benchmarks.serving takes a
checkout), it is that very server. Else its route is written here after it (label_studio_ml/api.py and model.py of
2.0.1): a model object for each request, which parses the label config by the SDK; pydantic's answer; `jsonify`. The
model's `setup` notes its version, as that of the template and of the examples does.

Without BENCHMARK_LOGITS the model predicts nothing. With it, it does what the examples with brush labels do around
their network: the SDK finds the file, Pillow decodes it, torch resizes the logits to the photo, and the SDK's
`mask2rle` encodes each class. Only the network is left out, as in segloop's place.
"""

from __future__ import annotations

import logging
import os
import sqlite3
import threading
from functools import lru_cache
from pathlib import Path
from typing import Any
from uuid import uuid4

import cv2
import numpy as np
from flask import Flask, Response, jsonify, request
from label_studio_sdk._extensions.label_studio_tools.core.utils.io import get_local_path
from label_studio_sdk.label_interface import LabelInterface
from label_studio_sdk.label_interface.objects import PredictionValue
from pydantic import BaseModel

try:
    from label_studio_ml.response import ModelResponse
except ImportError:
    OFFICIAL = False

    class ModelResponse(BaseModel):  # type: ignore[no-redef]
        """What a model answers with."""

        model_version: str | None = None
        predictions: list[list[PredictionValue] | PredictionValue]

else:
    OFFICIAL = True

logger = logging.getLogger(__name__)

LOGITS = os.environ.get("BENCHMARK_LOGITS")
STATE = Path(os.environ.get("MODEL_DIR", ".")) / "peer.db"
NETWORK_SIDE = 512


class State:
    """Small values by project and key in SQLite, with a cache of those read."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        with sqlite3.connect(STATE) as connection:
            connection.execute("CREATE TABLE IF NOT EXISTS state (project, key, value, PRIMARY KEY (project, key))")

    @lru_cache(maxsize=100)  # noqa: B019 - there is one, for the life of the process
    def get(self, project: str, key: str) -> str | None:
        with self._lock, sqlite3.connect(STATE) as connection:
            row = connection.execute("SELECT value FROM state WHERE project = ? AND key = ?", (project, key)).fetchone()
        return None if row is None else str(row[0])

    def set(self, project: str, key: str, value: str) -> None:
        with self._lock, sqlite3.connect(STATE) as connection:
            connection.execute("REPLACE INTO state VALUES (?, ?, ?)", (project, key, value))
        self.get.cache_clear()


class Around:
    """What a model of the examples does around its network."""

    label_interface: LabelInterface

    def predict(self, tasks: list[dict[str, Any]], context: dict[str, Any] | None = None, **_: Any) -> ModelResponse:
        if LOGITS is None:
            return ModelResponse(predictions=[])
        from_name, to_name, value = self.label_interface.get_first_tag_occurence("BrushLabels", "Image")
        labels = list(self.label_interface.get_control(from_name).labels)
        predictions = []
        for task in tasks:
            path = get_local_path(task["data"][value], task_id=task["id"])
            regions = segment(path, from_name, to_name, labels)
            score = sum(region["score"] for region in regions) / max(len(regions), 1)
            predictions.append(PredictionValue(result=regions, score=score, model_version="1"))
        return ModelResponse(predictions=predictions)


def segment(path: str, from_name: str, to_name: str, labels: list[str]) -> list[dict[str, Any]]:
    """A region for each label that a photo has."""
    import torch
    from label_studio_sdk.converter.brush import mask2rle
    from PIL import Image
    from torch.nn import functional

    image = np.array(Image.open(path).convert("RGB"))
    height, width = image.shape[:2]
    scale = NETWORK_SIDE / max(height, width)
    small = cv2.resize(image, (round(width * scale), round(height * scale)))
    inputs = torch.from_numpy(small).permute(2, 0, 1).float().div(255)[None]
    with torch.inference_mode():
        logits = network(inputs)
        confidence = logits.softmax(dim=1)[0].amax(dim=(1, 2)).tolist()
        large = functional.interpolate(logits, (height, width), mode="bilinear", align_corners=False)
        class_map = large.argmax(dim=1)[0].numpy()
    regions = []
    for number, label in enumerate(labels, start=1):
        mask = (class_map == number).astype(np.uint8) * 255
        if not mask.any():
            continue
        regions.append(
            {
                "id": str(uuid4())[:4],
                "from_name": from_name,
                "to_name": to_name,
                "original_width": width,
                "original_height": height,
                "image_rotation": 0,
                "value": {"format": "rle", "rle": mask2rle(mask), "brushlabels": [label]},
                "score": confidence[number],
                "type": "brushlabels",
                "readonly": False,
            }
        )
    return regions


@lru_cache(maxsize=1)
def known_logits() -> Any:
    import torch

    return torch.from_numpy(np.load(str(LOGITS)))[None]


def network(inputs: Any) -> Any:
    """The logits that are known, for a batch of one."""
    return known_logits()


def written_after_it() -> Flask:
    """The route `/predict` and what it needs."""
    server, state = Flask(__name__), State()

    class Model(Around):
        def __init__(self, project_id: str, label_config: str) -> None:
            self.label_interface = LabelInterface(config=label_config)
            if state.get(project_id, "label_config") != label_config:
                state.set(project_id, "label_config", label_config)
            if state.get(project_id, "model_version") is None:
                state.set(project_id, "model_version", "0.0.1")
            self.project_id = project_id
            state.set(project_id, "model_version", "0.0.1")

    @server.before_request
    def log_request() -> None:
        logger.debug("Request headers: %s", request.headers)
        logger.debug("Request body: %s", request.get_data())

    @server.after_request
    def log_response(response: Response) -> Response:
        logger.debug("Response headers: %s", response.headers)
        logger.debug("Response body: %s", response.get_data())
        return response

    @server.post("/predict")
    def predict() -> Response:
        data = request.json
        params = data.get("params", {})
        context = params.pop("context", {})
        model = Model(str(data.get("project")).split(".", 1)[0], data.get("label_config"))
        answer = model.predict(data.get("tasks"), context=context, **params)
        if not answer.model_version:
            answer.model_version = state.get(model.project_id, "model_version")
        return jsonify({"results": answer.model_dump()["predictions"]})

    @server.get("/health")
    def health() -> Response:
        return jsonify({"status": "UP", "model_class": "Model"})

    return server


def official() -> Flask:
    """The server of label_studio_ml 2.x."""
    from label_studio_ml.api import init_app
    from label_studio_ml.model import LabelStudioMLBase

    class Model(Around, LabelStudioMLBase):
        def setup(self) -> None:
            self.set("model_version", "0.0.1")

    server: Flask = init_app(model_class=Model)
    return server


if LOGITS is not None:
    import torch  # noqa: F401 - before the first request, as the examples import theirs
    from label_studio_sdk.converter import brush  # noqa: F401

app = official() if OFFICIAL else written_after_it()
