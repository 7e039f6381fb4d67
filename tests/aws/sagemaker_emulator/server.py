"""The emulator's server: AWS's JSON protocol, requests held against botocore's model of them."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from botocore.session import get_session

from segloop.aws.checks import problems
from tests.aws.hosting_emulator import Hosting, Refusal
from tests.aws.moto_server import running_moto
from tests.aws.sagemaker_emulator.pipelines import Pipelines
from tests.aws.sagemaker_emulator.training import Json, Training


class Emulator(Training):
    """SageMaker at `url`, with S3 at `s3_url`: training jobs; endpoints (`hosting`) and pipelines (`flow`).

    Attributes:
        faults: operations and what the next call of each is refused with.
        calls: every operation that was asked for, in order.
        pipelines: definitions by name.
        executions: of pipelines, by ARN.
    """

    def __init__(self, s3_url: str, folder: Path, *, second_s: float = 1.0) -> None:
        super().__init__(s3_url, folder, second_s=second_s)
        self.faults: list[tuple[str, Refusal]] = []
        self.calls: list[str] = []
        self.hosting = Hosting(self)
        self.flow = Pipelines(self)
        self.pipelines, self.executions = self.flow.definitions, self.flow.executions
        self._model = get_session().get_service_model("sagemaker")
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> Emulator:
        threading.Thread(target=self._server.serve_forever, args=(0.05,)).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.end_jobs()
        self.flow.close()
        self.hosting.close()
        self._server.shutdown()
        self._server.server_close()

    def answer(self, operation: str, request: Json) -> Json:
        """The answer to an operation.

        Raises:
            Refusal: it is refused.
        """
        self.calls.append(operation)
        for fault in self.faults:
            if fault[0] == operation:
                self.faults.remove(fault)
                raise fault[1]
        self.check(operation, request)
        method = re.sub(r"(?<!^)(?=[A-Z])", "_", operation).lower()
        part = next((part for part in (self, self.flow, self.hosting) if hasattr(part, method)), None)
        if part is None:
            raise Refusal("UnknownOperationException", f"The emulator has no {operation}", 404)
        with self.lock:
            answer: Json = getattr(part, method)(request)
        return answer

    def check(self, operation: str, request: Json) -> None:
        """Hold a request against botocore's model of the service.

        Raises:
            Refusal: it does not fit.
        """
        shape = self._model.operation_model(operation).input_shape
        for path, problem in problems(shape, request):
            raise Refusal("ValidationException", f"{path}: {problem}")


@contextmanager
def emulated_aws(folder: Path, bucket: str) -> Iterator[tuple[Emulator, dict[str, str]]]:
    """An emulator with an S3 of its own that has a bucket, and the environment in which boto3 uses both."""
    with running_moto() as url, Emulator(url, folder) as emulator:
        emulator.s3.create_bucket(Bucket=bucket)
        yield (
            emulator,
            {
                "AWS_ENDPOINT_URL_S3": emulator.s3_url,
                "AWS_ENDPOINT_URL_SQS": emulator.s3_url,
                "AWS_ENDPOINT_URL_EVENTS": emulator.s3_url,
                "AWS_ENDPOINT_URL_SAGEMAKER": emulator.url,
                "AWS_ENDPOINT_URL_SAGEMAKER_RUNTIME": emulator.url,
                "AWS_ACCESS_KEY_ID": "test",
                "AWS_SECRET_ACCESS_KEY": "test",
                "AWS_DEFAULT_REGION": "us-east-1",
            },
        )


def _handler(emulator: Emulator) -> Callable[..., BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            if self.path.startswith("/endpoints/"):
                self._invoke(self.path.split("/")[2], body)
                return
            operation = self.headers["X-Amz-Target"].removeprefix("SageMaker.")
            try:
                status, answer = 200, emulator.answer(operation, json.loads(body))
            except Refusal as refusal:
                status, answer = refusal.status, {"__type": refusal.code, "message": refusal.message}
            self._send(status, json.dumps(answer).encode(), {"Content-Type": "application/x-amz-json-1.1"})

        def _invoke(self, name: str, body: bytes) -> None:
            emulator.calls.append("InvokeEndpoint")
            status, data, error = emulator.hosting.invoke(name, body, dict(self.headers))
            content_type = "application/json" if error else "application/x-npy"
            self._send(status, data, {"Content-Type": content_type, "x-amzn-errortype": error})

        def _send(self, status: int, data: bytes, headers: dict[str, str]) -> None:
            self.send_response(status)
            for name, value in {**headers, "Content-Length": str(len(data))}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_: object) -> None:
            """Nothing: the tests look at `calls`."""

    return Handler
