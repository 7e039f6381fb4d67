"""Whole tasks answered by an endpoint, for callers with neither NumPy nor torch, such as a Lambda function.

The request is JSON: `{"label_config": XML, "task": {"id", "data"}, "images": {address: base64}}`, with the images that the
task's data name, by their addresses there. The answer is a prediction of Label Studio: `{"result", "score",
"model_version"}`; its score is null where the task could not be predicted, for the reason in the log.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping
from http import HTTPStatus
from pathlib import Path
from typing import Any, Final

from segloop.aws.endpoints.handler import Handler, Refused
from segloop.errors import ImageError, LabelConfigError
from segloop.images.decode import allow_pixels
from segloop.images.image import Blob, Image
from segloop.label_config import LabelConfig, parse_label_config
from segloop.serving.predict import Predictor
from segloop.settings import Settings

JSON: Final = "application/json"


class TaskHandler(Handler):
    """A handler that answers whole tasks too; errors as of `Handler`."""

    def __init__(self, folder: Path, settings: Settings) -> None:
        super().__init__(folder, settings)
        self._settings = settings
        allow_pixels(settings.image_max_pixels)

    def invoke(self, body: bytes, content_type: str, attributes: str = "") -> bytes:
        """The prediction of a task as JSON; logits for .npy, as `Handler` gives them.

        Raises:
            Refused: it is neither.
        """
        if content_type.partition(";")[0].strip() != JSON:
            return super().invoke(body, content_type, attributes)
        self.check_version(content_type, attributes)
        config, task, images = _read(body, self._settings)
        prediction = Predictor(config, self.model, images, self._settings).predict([task])[0]
        return json.dumps({**prediction, "model_version": self.info.version}).encode()


class _Images:
    """The images of a request by their addresses."""

    def __init__(self, files: Mapping[str, bytes], max_pixels: int) -> None:
        self._files, self._max_pixels = files, max_pixels

    def load(self, uri: str, task_id: int | None) -> Image:
        del task_id
        data = self._files.get(uri)
        if data is None:
            raise ImageError(f"{len(self._files)} images came with the task, and not the one that its data name")
        return Image(Blob(data, hashlib.sha256(data).hexdigest()), max_pixels=self._max_pixels, name="the image")


def _read(body: bytes, settings: Settings) -> tuple[LabelConfig, dict[str, Any], _Images]:
    try:
        fields = json.loads(body)
        files = {str(name): base64.b64decode(data, validate=True) for name, data in fields["images"].items()}
        task = dict(fields["task"])
        if not isinstance(task["data"], dict):
            raise TypeError("task.data is no object")
        return parse_label_config(fields["label_config"]), task, _Images(files, settings.image_max_pixels)
    except LabelConfigError as error:
        raise Refused(HTTPStatus.BAD_REQUEST, str(error)) from error
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        reason = f"the body is no task with label_config, task and images: {type(error).__name__}: {error}"
        raise Refused(HTTPStatus.BAD_REQUEST, reason) from error
