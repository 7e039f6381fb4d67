"""Counting under a storm: on a real queue and table (ministack), with processes that die between any two steps."""

from __future__ import annotations

import json
import random
import re
import threading
from collections import Counter as Tally
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import boto3
import pytest
from botocore.config import Config

from counting import Counter
from credentials import SharedSecret
from launching import Launches, NotStarted, Pipeline
from LsCustomWebhook import Receiver
from saved import Saved
from sweeping import LaunchesFailed, sweep
from tests.aws.managed import PROJECT, add_pipeline, bulk, connect, counts, created, launches, save
from tests.aws.ministack import TEMPLATE, Ministack, Stack
from tests.aws.sagemaker_emulator import Emulator
from tests.waiting import until

pytestmark = pytest.mark.slow

DISTINCT, PER_TRAINING, THREADS = 127, 10, 8
#: Annotations whose events of the webhook are lost: the target bucket alone tells of them.
LOST = range(DISTINCT + 1, DISTINCT + 27)
POISON = ["no JSON", '{"annotations": ["1"]}', '{"project": "29", "annotations": "12"}', "[]"]
#: What a counter does for a message, in this order; get_item asks whether a training is due.
STEPS = ("count", "get_item", "claim", "start_pipeline_execution", "update_item")
CALLS = ("transact_write_items", "send_message", "get_object", *STEPS)
#: Processes that die before, and as many that die after, each step.
DEATHS = 2


class Died(BaseException):
    """Stands for the end of a process: nothing may catch it and live on."""


class Reaper:
    """Ends the first processes that come to each step, before or after it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.deaths: Tally[tuple[str, bool]] = Tally()

    def call(self, name: str, function: Callable[..., Any], **arguments: Any) -> Any:
        if name == "transact_write_items":
            name = "count" if "Put" in arguments["TransactItems"][0] else "claim"
        self._perhaps(name, done=False)
        answer = function(**arguments)
        self._perhaps(name, done=True)
        return answer

    def _perhaps(self, name: str, *, done: bool) -> None:
        with self._lock:
            if self.deaths[name, done] == DEATHS:
                return
            self.deaths[name, done] += 1
        raise Died


class Mortal:
    """A client of boto3 whose process may die."""

    def __init__(self, client: Any, reaper: Reaper) -> None:
        self._client, self._reaper = client, reaper

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._client, name)
        return partial(self._reaper.call, name, found) if name in CALLS else found


class World:
    """The stack of the template without its event source: the test polls."""

    def __init__(self, ministack: Ministack, emulator: Emulator) -> None:
        text = re.sub(r"  CounterEvents:\n(?:    .*\n)+", "", TEMPLATE.read_text("utf-8"))
        self.stack: Stack = ministack.deploy("storm", template=text)
        self.emulator = emulator
        self.table, self.queue = self.stack.outputs["TableName"], self.stack.outputs["QueueUrl"]
        self.dead = self.stack.outputs["DeadLetterQueueUrl"]
        self.dynamodb, self.sqs = ministack.client("dynamodb"), ministack.client("sqs")
        self.secrets, self.s3 = ministack.client("secretsmanager"), ministack.client("s3")
        self.buckets = (self.stack.outputs["TargetBucketName"], self.stack.outputs["ArtifactsBucketName"])
        connect(self.s3, self.buckets[1])
        keys = {"aws_access_key_id": "test", "aws_secret_access_key": "test"}
        self.sagemaker = boto3.client(
            "sagemaker", "us-east-1", endpoint_url=emulator.url, config=Config(max_pool_connections=16), **keys
        )
        self.reaper = Reaper()
        self.ended = threading.Event()
        add_pipeline(emulator, "storm")

    def mortal(self, client: Any, *, lives: bool) -> Any:
        return client if lives else Mortal(client, self.reaper)

    def launches(self, *, lives: bool) -> Launches:
        start = Pipeline(self.mortal(self.sagemaker, lives=lives), "storm", self.table)
        return Launches(self.mortal(self.dynamodb, lives=lives), self.table, PER_TRAINING, start)

    def deliver(self, event: dict[str, Any], *, lives: bool) -> None:
        secret = SharedSecret(self.secrets, self.stack.outputs["WebhookSecretArn"])
        receiver = Receiver(secret, self.mortal(self.sqs, lives=lives), self.queue, "", count_updates=False)
        headers = {"x-segloop-secret": self.stack.secret}
        try:
            answer = receiver.answer({"headers": headers, "body": json.dumps(event)})
        except Died:
            return
        skipped = event["action"] == "ANNOTATION_CREATED" and event["annotation"]["was_cancelled"]
        assert answer["statusCode"] == (200 if skipped else 202)

    def save(self, number: int) -> None:
        save(self.s3, self.buckets[0], number, was_cancelled=number >= 900)

    def poll(self) -> None:
        """What Lambda does: messages to a counter, and those that it has not named as failed are deleted."""
        while not self.ended.is_set():
            received = self.sqs.receive_message(
                QueueUrl=self.queue,
                MaxNumberOfMessages=random.randint(1, 10),
                MessageSystemAttributeNames=["ApproximateReceiveCount"],
            ).get("Messages", [])
            if not received:
                self.ended.wait(0.1)
                continue
            # five deaths would send a good message to the dead-letter queue, as they should
            tries = max(int(message["Attributes"]["ApproximateReceiveCount"]) for message in received)
            lives = tries > 2
            saved = Saved(self.mortal(self.s3, lives=lives), *self.buckets, count_updates=False)
            counter = Counter(self.mortal(self.dynamodb, lives=lives), self.table, self.launches(lives=lives), saved)
            records = [{"messageId": one["MessageId"], "body": one["Body"]} for one in received]
            try:
                failed = {item["itemIdentifier"] for item in counter.handle({"Records": records})["batchItemFailures"]}
            except Died:
                failed = {message["MessageId"] for message in received}
            for message in received:
                handle = {"QueueUrl": self.queue, "ReceiptHandle": message["ReceiptHandle"]}
                if message["MessageId"] in failed:
                    # time passes
                    self.sqs.change_message_visibility(**handle, VisibilityTimeout=0)
                else:
                    self.sqs.delete_message(**handle)

    def sweep(self, *, lives: bool) -> None:
        try:
            sweep(self.launches(lives=lives), left_s=0)
        except (Died, NotStarted, LaunchesFailed):
            assert not lives

    def waiting(self, queue: str) -> int:
        names = ["ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible"]
        found = self.sqs.get_queue_attributes(QueueUrl=queue, AttributeNames=names)["Attributes"]
        return sum(int(found[name]) for name in names)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    ministack = Ministack()
    with ministack, Emulator(ministack.url, tmp_path_factory.mktemp("storm")) as emulator:
        yield World(ministack, emulator)


def _saves(dice: random.Random) -> list[int]:
    """What Label Studio writes to the target bucket, and in which order: each annotation at least once, some again."""
    numbers = [*range(1, LOST[-1] + 1), *range(900, 905)]
    saves = [*numbers, *dice.choices(numbers, k=40)]
    dice.shuffle(saves)
    return saves


def _deliveries(dice: random.Random) -> list[tuple[dict[str, Any], bool]]:
    """Each annotation alone, and twice in bulk, shuffled; receivers of half the deliveries may die, of one never."""
    numbers = list(range(1, DISTINCT + 1))
    events = [(created(number), True) for number in numbers]
    events += [(created(number, was_cancelled=True), True) for number in range(900, 910)]
    for lives in (True, False):
        dice.shuffle(numbers)
        sizes = dice.choices((5, 20, 60), k=DISTINCT)
        start = 0
        while start < DISTINCT:
            size = sizes.pop()
            part = numbers[start : start + size]
            events.append((bulk([*part, *part[:2]]), lives))
            start += size
    dice.shuffle(events)
    return events


def test_a_storm_from_both_sides_launches_exactly_as_often_as_it_must(world: World) -> None:
    dice = random.Random(6)
    for body in POISON:
        world.sqs.send_message(QueueUrl=world.queue, MessageBody=body)
    with ThreadPoolExecutor(THREADS) as senders, ThreadPoolExecutor(THREADS) as pollers:
        polls = [pollers.submit(world.poll) for _ in range(THREADS)]
        try:
            told: list[tuple[Callable[..., None], Any, dict[str, bool]]] = [
                *((world.deliver, event, {"lives": lives}) for event, lives in _deliveries(dice)),
                *((world.save, number, {}) for number in _saves(dice)),
            ]
            dice.shuffle(told)
            sent = [senders.submit(call, what, **how) for call, what, how in told]
            for each in sent:
                each.result()
            until(lambda: world.waiting(world.queue) == 0, "an empty queue")
        finally:
            world.ended.set()
        for each in polls:
            each.result()
    # counters died with what they had claimed or left unclaimed; sweepers finish it, and die too
    for _ in range(16):
        world.sweep(lives=False)
    world.sweep(lives=True)
    distinct = LOST[-1]
    generations = distinct // PER_TRAINING
    expected = {"pending": distinct % PER_TRAINING, "counted": distinct, "generation": generations}
    assert counts(world.dynamodb, world.table) == expected
    assert launches(world.emulator) == [(PROJECT.split(".")[0], number + 1) for number in range(generations)]
    assert len(world.emulator.executions) == generations
    everywhere = {(step, done): DEATHS for step in (*STEPS, "send_message", "get_object") for done in (False, True)}
    assert world.reaper.deaths == everywhere
    dead = [
        message["Body"]
        for _ in range(len(POISON))
        for message in world.sqs.receive_message(QueueUrl=world.dead, MaxNumberOfMessages=10).get("Messages", [])
    ]
    assert sorted(dead) == sorted(POISON)
