"""The pure parts of aws/webhook, and its edges over small stand-ins for clients of boto3."""

from __future__ import annotations

import base64
import io
import json
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ClientError

from credentials import FRESH_S, GRACE_S, RETRY_S, SharedSecret
from events import BadEvent, Event, parse_event, parse_saved, project_id, saved_project
from http_requests import Failed
from labelling import LabelStudio
from launching import Launch, Pipeline
from logs import fields, get_logger
from LsCustomWebhook import ANNOTATIONS, BODY_BYTES, TASKS, Receiver
from prelabelling import PreLabeller
from saved import NotConnected, Saved
from segloop.accepted import mark_of
from tests.aws.managed import PROJECT, bulk, created, recorded
from tests.aws.ministack import WEBHOOK

Json = dict[str, Any]


def parse(event: Any, *, count_updates: bool = False) -> Event:
    return parse_event(json.dumps(event).encode(), count_updates=count_updates)


# -- events


def test_annotations_count_by_their_ids() -> None:
    assert parse(created(7)) == Event("ANNOTATION_CREATED", PROJECT, ("7",))
    assert parse(bulk([3, 1, 3])).annotations == ("3", "1")
    assert project_id(PROJECT) == "29"


def test_a_skip_does_not_count() -> None:
    assert parse(recorded("13_webhook_skip.json")).annotations == ()
    assert parse(bulk([3, 1], was_cancelled=True)).annotations == ()


def test_each_save_counts_where_updates_do() -> None:
    update = recorded("11_webhook_ANNOTATION_UPDATED.json")
    assert parse(update).annotations == ()
    assert parse(update, count_updates=True).annotations == ("1@2026-11-22T21:30:42.680770Z",)
    # a skip that was annotated after all
    update["annotation"]["was_cancelled"] = True
    assert parse(update, count_updates=True).annotations == ()


def test_new_tasks_are_named_and_others_change_nothing() -> None:
    assert parse(recorded("16_webhook_TASKS_CREATED.json")).tasks == (79,)
    for name in ("12_webhook_ANNOTATIONS_DELETED", "15_webhook_PROJECT_UPDATED", "17_webhook_TASKS_DELETED"):
        event = parse(recorded(f"{name}.json"), count_updates=True)
        assert (event.annotations, event.tasks) == ((), ())


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"action": None}, "action is missing"),
        ({"action": "annotation created"}, "expected the name of an event"),
        ({"project": 29}, "project is 29"),
        ({"project": {"id": True}}, "project.id is True"),
        ({"project": {"id": 10**18}}, "project.id is 1000000000000000000"),
        ({"project": {"id": 29, "created_at": "yesterday"}}, "expected a time in ISO 8601"),
        ({"project": {"id": 29, "created_at": 5}}, "expected a time in ISO 8601"),
        ({"annotation": None}, "annotation is missing"),
        ({"annotation": [None]}, "annotation is missing"),
        ({"annotation": {"id": -1}}, "annotation.id is -1"),
    ],
)
def test_a_bad_field_is_named(change: Json, reason: str) -> None:
    with pytest.raises(BadEvent, match=reason):
        parse({**created(1), **change})


@pytest.mark.parametrize("body", [b"", b"\xff", b"null", b"[" * 100_000])
def test_what_is_not_json_is_refused(body: bytes) -> None:
    with pytest.raises(BadEvent):
        parse_event(body, count_updates=False)


def test_an_update_needs_its_time() -> None:
    update = recorded("11_webhook_ANNOTATION_UPDATED.json")
    update["annotation"]["updated_at"] = "x" * 100
    with pytest.raises(BadEvent, match=r"annotation\.updated_at"):
        parse(update, count_updates=True)


def test_what_segloop_accepted_counts_once_a_person_changes_it() -> None:
    result = [{"id": "a"}]
    made = created(7)
    made["annotation"] |= {"result": result, "import_id": mark_of(result)}
    assert parse(made).annotations == ()
    made["annotation"]["created_at"] = made["annotation"]["updated_at"] = "2026-11-22T20:00:00Z"
    assert parse_saved(json.dumps(made["annotation"]).encode(), 29, count_updates=True) == ()
    made["annotation"]["updated_at"] = "2026-11-22T21:00:00Z"
    assert parse({**made, "action": "ANNOTATION_UPDATED"}, count_updates=True).annotations != ()
    assert parse_saved(json.dumps(made["annotation"]).encode(), 29, count_updates=True) != ()


# -- what Label Studio saved


def saved(event: Json, **own: Any) -> Json:
    """An event's annotation as the target bucket has it."""
    return {**event["annotation"], "task": {"id": 76, "data": {}, "project": 29}, **own}


def names(value: Any, *, count_updates: bool = False) -> tuple[str, ...]:
    return parse_saved(json.dumps(value).encode(), 29, count_updates=count_updates)


@pytest.mark.parametrize("count_updates", [False, True])
@pytest.mark.parametrize("recording", ["10_webhook_ANNOTATION_CREATED.json", "13_webhook_skip.json"])
def test_an_event_and_what_was_saved_name_an_annotation_alike(recording: str, count_updates: bool) -> None:
    event = recorded(recording)
    assert names(saved(event), count_updates=count_updates) == parse(event, count_updates=count_updates).annotations


def test_a_later_save_is_named_as_its_event_names_it() -> None:
    update = recorded("11_webhook_ANNOTATION_UPDATED.json")
    update["annotation"]["created_at"] = "2026-11-22T20:00:00Z"
    (name,) = parse(update, count_updates=True).annotations
    number = str(update["annotation"]["id"])
    assert names(saved(update), count_updates=True) == (number, name)
    assert names(saved(update)) == (number,)
    # the same moment, as another time zone writes it
    elsewhere = saved(update, updated_at="2026-11-22T22:30:42.680770+01:00")
    assert names(elsewhere, count_updates=True) == (number, name)


def test_a_task_with_its_annotations_names_each() -> None:
    one, two, skipped = created(1), created(2), created(3, was_cancelled=True)
    whole = {"id": 76, "project": 29, "data": {}, "annotations": [one["annotation"], two["annotation"]]}
    whole["annotations"].append(skipped["annotation"])
    assert names(whole) == ("1", "2")


def test_keys_of_annotations_name_their_project() -> None:
    assert [saved_project(key) for key in ("projects/29/1", "projects/29/1.json")] == [29, 29]
    for key in ("projects/29/", "projects/29/notes.txt", "projects/29/1/2", "projects/x/1", "other/29/1", "29/1"):
        assert saved_project(key) is None


class Objects:
    """Stands for S3."""

    class exceptions:  # noqa: N801 - the name of boto3
        class NoSuchKey(Exception):
            pass

    def __init__(self, **objects: bytes) -> None:
        self.objects = {name.replace("__", "/"): body for name, body in objects.items()}

    def get_object(self, *, Bucket: str, Key: str) -> Json:  # noqa: N803
        try:
            return {"Body": io.BytesIO(self.objects[f"{Bucket}/{Key}"])}
        except KeyError:
            raise self.exceptions.NoSuchKey from None


def told_by(objects: Objects, key: str, bucket: str = "target") -> tuple[str, tuple[str, ...]]:
    event = {"detail": {"bucket": {"name": bucket}, "object": {"key": key}}}
    return Saved(objects, "target", "artifacts", count_updates=False).annotations(event)


def test_what_was_saved_is_counted_for_the_project_that_is_connected() -> None:
    objects = Objects(target__projects__29__7=json.dumps(saved(created(7))).encode())
    with pytest.raises(NotConnected, match="segloop aws connect --project 29"):
        told_by(objects, "projects/29/7")
    description = "artifacts/projects/29/project.json"
    objects.objects[description] = json.dumps({"key": PROJECT}).encode()
    assert told_by(objects, "projects/29/7") == (PROJECT, ("7",))
    objects.objects[description] = json.dumps(
        {"created_at": recorded("13_webhook_skip.json")["project"]["created_at"]}
    ).encode()
    assert told_by(objects, "projects/29/7") == (PROJECT, ("7",))


@pytest.mark.parametrize("body", [b"", b"[]", b"{}", b'{"id": "x"}', b'{"id": 1, "project": 30}'])
def test_what_is_no_annotation_counts_nothing(body: bytes) -> None:
    objects = Objects(target__projects__29__7=body)
    assert told_by(objects, "projects/29/7") == ("", ())
    assert told_by(objects, "projects/29/8") == ("", ())
    assert told_by(objects, "projects/29/7", bucket="another") == ("", ())


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
