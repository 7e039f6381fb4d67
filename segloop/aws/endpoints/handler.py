"""What the container of a SageMaker endpoint answers with: one version's logits, by the engine that fits its machine.

It answers whole tasks too, for callers with neither NumPy nor torch, such as a Lambda function. The request is then JSON:
`{"label_config": XML, "task": {"id", "data"}, "images": {address: base64}}`, with the images that the task's data name, by
their addresses there. The answer is a prediction of Label Studio: `{"result", "score", "model_version"}`; its score is
null where the task could not be predicted, for the reason in the log.
"""

from __future__ import annotations

import base64
import hashlib
import io
import json
import logging
import re
import signal
import threading
from collections.abc import Mapping
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from segloop.errors import ImageError, LabelConfigError
from segloop.formats import WEIGHTS_FILE
from segloop.images.decode import allow_pixels
from segloop.images.image import Blob, Image
from segloop.label_config import LabelConfig, parse_label_config
from segloop.network.transforms import STRIDE_PX
from segloop.registry.bundles import verify_files
from segloop.serving.batching import Batcher
from segloop.serving.engines import Engine, OpenVINOEngine, TorchEngine, on_gpu, pick_engine
from segloop.serving.model import model_of
from segloop.serving.predict import Predictor
from segloop.settings import Settings
from segloop.versions import VersionInfo, read_version

logger = logging.getLogger(__name__)

NPY: Final = "application/x-npy"
JSON: Final = "application/json"
#: The largest request that is read, in bytes; SageMaker's own limits are below it.
REQUEST_BYTES: Final = 64 * 2**20
#: The longest side of a batch's images, in pixels, and the most images.
_LONGEST_PX: Final = 8192
_MOST_IMAGES: Final = 64
_READ_S: Final = 60


class Refused(Exception):
    """A request that cannot be answered: an HTTP status of 4xx, and a reason."""

    def __init__(self, status: HTTPStatus, reason: str) -> None:
        super().__init__(reason)
        self.status = status


class Handler:
    """Answers for the version in a folder: version.json, and model.safetensors or an OpenVINO model. Thread-safe.

    Attributes:
        info: what version.json says.
        name: the version's; "candidate-" and its snapshot's first digits for what a training left and no registry holds.
        model: the version, ready to answer.

    Raises:
        RegistryError: the folder holds no version, or files that are not its own.
    """

    def __init__(self, folder: Path, settings: Settings) -> None:
        self.info = read_version(folder)
        self.name = _name_of(self.info)
        self._settings = settings
        allow_pixels(settings.image_max_pixels)
        # Concurrent requests share a GPU's pass.
        self.model = model_of(self.info, Batcher(_engine(folder, self.info, settings)))
        # so that /ping answers only once the engine does
        self._logits(np.zeros((1, 3, STRIDE_PX, STRIDE_PX), np.float32))

    def invoke(self, body: bytes, content_type: str, attributes: str = "") -> bytes:
        """Logits float32 (B, C, h', w') as .npy, of images float32 (B, 3, h, w) as .npy; a task's prediction, of JSON.

        A `version=` in `attributes`, SageMaker's custom attributes, or among the content type's parameters must be the
        version that is here.

        Raises:
            Refused: it is not such a request.
        """
        self.check_version(content_type, attributes)
        media_type = content_type.partition(";")[0].strip()
        if media_type == JSON:
            config, task, images = _task(body, self._settings)
            prediction = Predictor(config, self.model, images, self._settings).predict([task])[0]
            return json.dumps({**prediction, "model_version": self.name}).encode()
        if media_type != NPY:
            raise Refused(
                HTTPStatus.UNSUPPORTED_MEDIA_TYPE, f"the content type is {content_type!r}: send {NPY} or {JSON}"
            )
        answer = io.BytesIO()
        np.save(answer, self._logits(_images(body)), allow_pickle=False)
        return answer.getvalue()

    def check_version(self, content_type: str, attributes: str) -> None:
        """Refuse a request that names another version.

        Raises:
            Refused: it does.
        """
        for wanted in re.findall(r"(?:^|[,;\s])version=([^,;\s]+)", f"{content_type};{attributes}"):
            if wanted != self.name:
                reason = f"this endpoint serves {self.name}, not {wanted}: deploy that one"
                raise Refused(HTTPStatus.CONFLICT, reason)

    def _logits(self, images: NDArray[np.float32]) -> NDArray[np.float32]:
        return np.stack(self.model.batcher.logits(list(images)))


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


def serve(handler: Handler, port: int) -> None:
    """Answer GET /ping and POST /invocations on a port, until SIGTERM."""

    with ThreadingHTTPServer(("0.0.0.0", port), http_of(handler)) as server:  # noqa: S104 - SageMaker asks from outside
        # shutdown() waits for the loop that this thread runs
        signal.signal(signal.SIGTERM, lambda *_: threading.Thread(target=server.shutdown).start())
        logger.info("%s answers on port %d", handler.name, port)
        server.serve_forever()


def http_of(handler: Handler) -> type[BaseHTTPRequestHandler]:
    """What answers a connection with a handler."""
    return type("Http", (_Http,), {"handler": handler})


class _Http(BaseHTTPRequestHandler):
    handler: Handler
    protocol_version = "HTTP/1.1"
    timeout = _READ_S

    def do_GET(self) -> None:
        if self.path != "/ping":
            self._answer(HTTPStatus.NOT_FOUND, b"", "text/plain")
            return
        self._answer(HTTPStatus.OK, json.dumps({"version": self.handler.name}).encode(), "application/json")

    def do_POST(self) -> None:
        try:
            # an answer has the type of what was asked
            self._answer(HTTPStatus.OK, self._invoke(), self._content_type().partition(";")[0].strip())
        except Refused as refusal:
            # what was not read would be taken for the next request
            self.close_connection = True
            self._answer(refusal.status, str(refusal).encode(), "text/plain; charset=utf-8")
        except Exception:
            logger.exception("a request failed")
            self.close_connection = True
            self._answer(HTTPStatus.INTERNAL_SERVER_ERROR, b"the network failed; see the log", "text/plain")

    def _invoke(self) -> bytes:
        if self.path != "/invocations":
            raise Refused(HTTPStatus.NOT_FOUND, "post to /invocations")
        length = self.headers.get("Content-Length", "")
        if not length.isdecimal():
            raise Refused(HTTPStatus.LENGTH_REQUIRED, "the request has no Content-Length")
        if int(length) > REQUEST_BYTES:
            raise Refused(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"a request may have {REQUEST_BYTES} bytes")
        attributes = self.headers.get("X-Amzn-SageMaker-Custom-Attributes", "")
        return self.handler.invoke(self.rfile.read(int(length)), self._content_type(), attributes)

    def _content_type(self) -> str:
        return str(self.headers.get("Content-Type", ""))

    def _answer(self, status: HTTPStatus, body: bytes, content_type: str) -> None:
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the name of http.server
        logger.debug(format, *args)


def _engine(folder: Path, info: VersionInfo, settings: Settings) -> Engine:
    """The engine that the settings decide on, of those whose files are here; torch where its model is not."""
    name = pick_engine(settings, info.engines)
    files = [f"{name}.xml", f"{name}.bin"]
    if name != "torch" and all((folder / file).is_file() and file in info.files for file in files):
        verify_files(folder, info, files)
        logger.info("%s runs on %s", _name_of(info), name)
        return OpenVINOEngine(folder / files[0])
    from segloop.network.network import load_bundle

    verify_files(folder, info, [WEIGHTS_FILE])
    network, _ = load_bundle(folder)
    logger.info("%s runs on torch", _name_of(info))
    return TorchEngine(network, "cuda" if on_gpu(settings) else "cpu")


def _name_of(info: VersionInfo) -> str:
    return info.version or f"candidate-{info.snapshot[:8]}"


def _images(body: bytes) -> NDArray[np.float32]:
    if len(body) > REQUEST_BYTES:
        raise Refused(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"a request may have {REQUEST_BYTES} bytes")
    try:
        images = np.load(io.BytesIO(body), allow_pickle=False)
    except (ValueError, OSError, EOFError, MemoryError) as error:
        raise Refused(HTTPStatus.BAD_REQUEST, f"the body is no .npy: {error}") from error
    if not isinstance(images, np.ndarray) or images.dtype != np.float32 or images.ndim != 4 or images.shape[1] != 3:
        found = f"{images.dtype} {images.shape}" if isinstance(images, np.ndarray) else "an archive"
        raise Refused(HTTPStatus.BAD_REQUEST, f"the body is {found}: send float32 (B, 3, h, w)")
    count, _, height, width = images.shape
    fits = all(side % STRIDE_PX == 0 and 0 < side <= _LONGEST_PX for side in (height, width))
    if not 1 <= count <= _MOST_IMAGES or not fits:
        reason = f"the body is {images.shape}: send 1 to {_MOST_IMAGES} images with sides that are multiples of {STRIDE_PX}, at most {_LONGEST_PX}"
        raise Refused(HTTPStatus.BAD_REQUEST, reason)
    return images


def _task(body: bytes, settings: Settings) -> tuple[LabelConfig, dict[str, Any], _Images]:
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
