"""The edges of aws/webhook over small stand-ins for clients of boto3: its secret, receiver, launches, pre-labels and log."""

from __future__ import annotations

import base64
import json
import socket
import subprocess
import sys
import threading
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ClientError

from credentials import FRESH_S, GRACE_S, RETRY_S, SharedSecret
from http_requests import Failed, request
from labelling import LabelStudio
from launching import Launch, Pipeline
from logs import fields, get_logger
from LsCustomWebhook import ANNOTATIONS, BODY_BYTES, TASKS, Receiver
from prelabelling import PreLabeller
from tests.aws.managed import PROJECT, bulk, created, recorded
from tests.aws.ministack import WEBHOOK

Json = dict[str, Any]


# -- requests


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n" + b"x" * 500,
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3e8\r\n" + b"x" * 500,
        b"nonsense\r\n\r\n",
    ],
)
def test_an_answer_that_is_cut_short_is_none(answer: bytes) -> None:
    """Half an upload of Label Studio's would be predicted as the image, for it decodes as a browser shows it."""
    with pytest.raises(Failed, match=r"GET http://127\.0\.0\.1:\d+/data/upload/1\.png"):
        request(told_once(answer), headers={}, timeout_s=5)


def test_no_more_of_an_answer_is_read_than_asked_for() -> None:
    whole = b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n" + b"x" * 1000
    assert request(told_once(whole), headers={}, timeout_s=5, most=10) == b"x" * 10
    assert request(told_once(whole), headers={}, timeout_s=5) == b"x" * 1000


def told_once(answer: bytes) -> str:
    """The address of a server that gives one answer and hangs up."""
    server = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        with server, server.accept()[0] as connection:
            connection.recv(65536)
            connection.sendall(answer)

    threading.Thread(target=serve, daemon=True).start()
    return f"http://127.0.0.1:{server.getsockname()[1]}/data/upload/1.png"


# -- the secret


class Secrets:
    """Stands for Secrets Manager with a current and a previous value."""

    class exceptions:  # noqa: N801 - the name of boto3
        class ResourceNotFoundException(Exception):
            pass

    def __init__(self) -> None:
        self.values: list[str] = []
        self.changed_s = 0.0
        self.calls = 0
        self.away = False

    def put(self, value: str, now_s: float) -> None:
        self.values.insert(0, value)
        self.changed_s = now_s

    def get_secret_value(self, *, SecretId: str, VersionStage: str = "AWSCURRENT") -> Json:  # noqa: N803
        assert SecretId == "arn"
        self.calls += 1
        if self.away:
            raise ClientError({"Error": {"Code": "InternalServiceError"}}, "GetSecretValue")
        index = ("AWSCURRENT", "AWSPREVIOUS").index(VersionStage)
        if index >= len(self.values):
            raise self.exceptions.ResourceNotFoundException
        return {"SecretString": self.values[index], "CreatedDate": datetime.fromtimestamp(self.changed_s, UTC)}


class Clock:
    now_s = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now_s


def test_a_secret_is_kept_and_its_rotation_noticed() -> None:
    secrets, clock = Secrets(), Clock()
    secrets.put("first", clock.now_s - 2 * GRACE_S)
    secret = SharedSecret(secrets, "arn", clock=clock)
    assert secret.matches("first")
    assert not secret.matches("")
    assert not secret.matches("wröng")
    assert secrets.calls == 1
    secrets.put("second", clock.now_s)
    clock.now_s += RETRY_S
    assert secret.matches("second")
    assert secret.matches("first")
    assert secret.value() == "second"
    clock.now_s += GRACE_S
    assert secret.matches("second")
    assert not secret.matches("first")


def test_wrong_secrets_do_not_make_it_ask_without_end() -> None:
    secrets, clock = Secrets(), Clock()
    secrets.put("first", clock.now_s - 2 * GRACE_S)
    secret = SharedSecret(secrets, "arn", clock=clock)
    assert not any(secret.matches(f"guess {number}") for number in range(100))
    assert secrets.calls == 1


def test_while_secrets_manager_is_away_the_last_value_opens() -> None:
    secrets, clock = Secrets(), Clock()
    secrets.away = True
    secret = SharedSecret(secrets, "arn", clock=clock)
    with pytest.raises(ClientError):
        secret.matches("first")
    secrets.away = False
    secrets.put("first", 0.0)
    assert secret.matches("first")
    secrets.away = True
    clock.now_s += FRESH_S
    assert secret.matches("first")


# -- the receiver


class Sqs:
    def __init__(self) -> None:
        self.sent: list[tuple[str, Json]] = []
        self.away = False

    def send_message(self, *, QueueUrl: str, MessageBody: str) -> None:  # noqa: N803
        if self.away:
            raise ClientError({"Error": {"Code": "ServiceUnavailable"}}, "SendMessage")
        assert len(MessageBody) < 256 * 1024
        self.sent.append((QueueUrl, json.loads(MessageBody)))


def receiver(sqs: Sqs, tasks: str = "tasks") -> Receiver:
    secrets = Secrets()
    secrets.put("right", 0.0)
    return Receiver(SharedSecret(secrets, "arn"), sqs, "queue", tasks, count_updates=True)


def answer(sqs: Sqs, event: Any, tasks: str = "tasks", **own: Any) -> tuple[int, Json]:
    request = {"headers": {"X-SEGLOOP-secret": "right"}, "body": json.dumps(event), **own}
    reply = receiver(sqs, tasks).answer(request)
    return reply["statusCode"], json.loads(reply["body"])


def test_a_large_event_becomes_several_messages() -> None:
    sqs = Sqs()
    assert answer(sqs, bulk(range(2 * ANNOTATIONS + 1)))[0] == 202
    assert [len(message["annotations"]) for _, message in sqs.sent] == [ANNOTATIONS, ANNOTATIONS, 1]
    sqs.sent.clear()
    updates = bulk([10**18 - 1 - number for number in range(ANNOTATIONS)]) | {"action": "ANNOTATION_UPDATED"}
    assert answer(sqs, updates)[0] == 202
    sqs.sent.clear()
    event = recorded("16_webhook_TASKS_CREATED.json")
    event["tasks"] = [{"id": number} for number in range(TASKS + 1)]
    assert answer(sqs, event)[1] == {"message": "handed over", "annotations": 0, "tasks": TASKS + 1}
    assert sqs.sent == [
        ("tasks", {"project": 29, "tasks": list(range(TASKS))}),
        ("tasks", {"project": 29, "tasks": [TASKS]}),
    ]
    assert answer(Sqs(), event, tasks="")[0] == 200


def test_what_api_gateway_encodes_is_decoded() -> None:
    sqs = Sqs()
    body = base64.b64encode(json.dumps(created(1)).encode()).decode()
    assert answer(sqs, None, body=body, isBase64Encoded=True)[0] == 202
    assert sqs.sent == [("queue", {"project": PROJECT, "annotations": ["1"]})]
    assert answer(sqs, None, body="%", isBase64Encoded=True)[0] == 400


def test_refusals_store_nothing() -> None:
    sqs = Sqs()
    assert answer(sqs, created(1), headers=None)[0] == 401
    assert answer(sqs, created(1), headers={"x-segloop-secret": "wrong"})[0] == 401
    assert answer(sqs, None, body="x" * (BODY_BYTES + 1))[0] == 413
    assert answer(sqs, None, body=None)[0] == 400
    assert sqs.sent == []
    sqs.away = True
    assert answer(sqs, created(1))[0] == 503


# -- launches


def test_a_token_follows_from_table_project_and_generation() -> None:
    launches = [Launch("29.1", 1), Launch("29.1", 11), Launch("29.11", 1), Launch("29", 1)]
    tokens = {Pipeline(None, "p", table).token(launch) for launch in launches for table in ("a", "b")}
    assert len(tokens) == 8
    assert {len(token) for token in tokens} == {64}
    assert Pipeline(None, "p", "a").token(launches[0]) in tokens


# -- pre-labelling


class Studio(LabelStudio):
    """Stands for Label Studio: two tasks, one of which names an image that is elsewhere."""

    def __init__(self) -> None:
        super().__init__("http://studio", lambda: "token")
        self.stored: list[Json] = []
        self.away = False

    def label_config(self, project: int) -> str:
        return "<View/>"

    def unpredicted(self, project: int, tasks: Any) -> list[Json]:
        data = {
            1: {"pages": [{"url": "s3://mine/a.PNG"}]},
            2: {"image": "s3://other/a.png"},
            3: {"image": "/data/upload/b.png"},
        }
        return [{"id": number, "data": data[number]} for number in tasks]

    def store(self, prediction: Json) -> None:
        self.stored.append(prediction)

    def upload(self, address: str, most: int) -> bytes | None:
        if not address.startswith("/data/upload/"):
            return None
        if self.away:
            raise Failed("away", 502)
        raise Failed("gone", 404)


class Stream:
    def __init__(self, content: bytes) -> None:
        self.content = content

    def __enter__(self) -> Stream:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def read(self, most: int = -1) -> bytes:
        return self.content


class Aws:
    """Stands for S3 and for the endpoint."""

    class exceptions:  # noqa: N801 - the name of boto3
        class NoSuchKey(Exception):
            pass

        class ModelError(ClientError):
            pass

    def __init__(self, score: float | None = 0.5, status: int = 0) -> None:
        self.score, self.status = score, status
        self.asked: list[Json] = []

    def get_object(self, *, Bucket: str, Key: str) -> Json:  # noqa: N803
        assert (Bucket, Key) == ("mine", "a.PNG")
        return {"Body": Stream(b"pixels")}

    def invoke_endpoint(self, *, Body: bytes, **own: Any) -> Json:  # noqa: N803
        if self.status:
            reason = {"Error": {"Code": "ModelError"}, "OriginalStatusCode": self.status, "OriginalMessage": "no"}
            raise self.exceptions.ModelError(reason, "InvokeEndpoint")  # type: ignore[arg-type]
        self.asked.append(json.loads(Body))
        answer = {"result": [], "score": self.score, "model_version": "v1"}
        return {"Body": Stream(json.dumps(answer).encode())}


def prelabel(studio: Studio, aws: Aws, *tasks: int) -> bool:
    labeller = PreLabeller(aws, aws, studio, bucket="mine", endpoint="e")
    body = json.dumps({"project": 1, "tasks": tasks})
    done = labeller.handle({"Records": [{"messageId": "m", "body": body}]})
    return done == {"batchItemFailures": []}


def test_images_of_the_bucket_go_to_the_endpoint() -> None:
    studio, aws = Studio(), Aws()
    assert prelabel(studio, aws, 1, 2, 3)
    assert aws.asked[0]["images"] == {"s3://mine/a.PNG": base64.b64encode(b"pixels").decode()}
    assert studio.stored == [{"task": 1, "result": [], "score": 0.5, "model_version": "v1"}]
    assert len(aws.asked) == 1


def test_what_cannot_be_predicted_is_left_alone_and_what_may_yet_be_comes_again() -> None:
    studio = Studio()
    assert prelabel(studio, Aws(score=None), 1)
    assert prelabel(studio, Aws(status=400), 1)
    assert not prelabel(studio, Aws(status=500), 1)
    assert studio.stored == []
    studio.away = True
    assert not prelabel(studio, Aws(), 3, 1)
    assert len(studio.stored) == 1


# -- logs and imports


def test_a_line_of_the_log_is_json(capsys: pytest.CaptureFixture[str]) -> None:
    logger = get_logger("test")
    try:
        raise ValueError("no")
    except ValueError:
        logger.exception("it %s", "failed", extra=fields(project="29"))
    line = json.loads(capsys.readouterr().out)
    assert (line["message"], line["level"], line["project"]) == ("it failed", "ERROR", "29")
    assert "ValueError: no" in line["error"]


@pytest.mark.slow
def test_the_functions_need_nothing_but_boto3(tmp_path: Path) -> None:
    modules = [path.stem for path in WEBHOOK.glob("*.py")]
    program = (
        f"import sys, importlib\nsys.path.insert(0, {str(WEBHOOK)!r})\n"
        f"for name in {modules!r}: importlib.import_module(name)\n"
        "import boto3\n"
        "own = set(sys.stdlib_module_names) | {'boto3', 'botocore', 's3transfer', 'jmespath', 'dateutil', 'six', 'urllib3', "
        f"'certifi', '__main__', 'sitecustomize', 'usercustomize'}} | set({modules!r})\n"
        "print(sorted({name.partition('.')[0] for name in sys.modules} - own))"
    )
    done = subprocess.run(
        [sys.executable, "-I", "-c", program], capture_output=True, text=True, check=True, cwd=tmp_path
    )
    assert [name for name in json.loads(done.stdout.replace("'", '"')) if not name.startswith("_")] == []
