"""Launches that fail, on a real table (ministack): what AWS refuses does not use up its annotations."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import boto3
import pytest

from counting import Counter
from launching import FAILURES, FIRST_WAIT_S, LONGEST_WAIT_S, REFUSALS, REST_S, Launches, Pipeline
from saved import Saved
from sweeping import LaunchesFailed, sweep
from tests.aws.hosting_emulator import Refusal
from tests.aws.managed import PROJECT, add_pipeline, counts, launches
from tests.aws.ministack import REGION, Ministack
from tests.aws.sagemaker_emulator import Emulator
from tests.waiting import until

pytestmark = pytest.mark.slow

PER_TRAINING = 5
QUOTA = "ClientError: Failed to invoke sagemaker:CreateTrainingJob. Error Details: The account-level service limit is 0 Instances."
OWN = "ClientError: AlgorithmError: , exit code: 1"


class World:
    """A table, a pipeline that ends as a test says, and a clock."""

    def __init__(self, ministack: Ministack, emulator: Emulator, name: str) -> None:
        self.dynamodb, self.emulator, self.table = ministack.client("dynamodb"), emulator, name
        self.now_s = 1_800_000_000.0
        schema = [{"AttributeName": "pk", "KeyType": "HASH"}, {"AttributeName": "sk", "KeyType": "RANGE"}]
        types = [{"AttributeName": key, "AttributeType": "S"} for key in ("pk", "sk")]
        self.dynamodb.create_table(
            TableName=name, KeySchema=schema, AttributeDefinitions=types, BillingMode="PAY_PER_REQUEST"
        )
        emulator.pipelines.pop("failing", None)
        emulator.executions.clear()
        add_pipeline(emulator, "failing")
        keys = {"aws_access_key_id": "test", "aws_secret_access_key": "test"}
        self.sagemaker = boto3.client("sagemaker", REGION, endpoint_url=emulator.url, **keys)
        start = Pipeline(self.sagemaker, "failing", name)
        self.launches = Launches(self.dynamodb, name, PER_TRAINING, start, clock=lambda: self.now_s)
        self.counter = Counter(self.dynamodb, name, self.launches, Saved(None, "", "", count_updates=False))

    def count(self, *numbers: int) -> None:
        body = json.dumps({"project": PROJECT, "annotations": [str(number) for number in numbers]})
        assert self.counter.handle({"Records": [{"messageId": "1", "body": body}]}) == {"batchItemFailures": []}

    def end(self, status: str, reason: str = "", trained: str = "") -> None:
        """Let the latest execution end: with its training step as told, or without one."""
        *_, execution = self.emulator.executions.values()
        assert until(lambda: execution.status != "Executing")
        execution.status, execution.reason = status, "Step failure: One or multiple steps failed."
        step = {"StepName": "Train", "StepStatus": trained or "Failed", "FailureReason": reason}
        job = {"TrainingJob": {"Arn": f"arn:aws:sagemaker:{REGION}:000000000000:training-job/pipelines-x-Train"}}
        execution.steps = [{**step, "Metadata": job if trained else {}}]

    def sweep(self, pass_s: float = 0.0) -> bool:
        """Sweep after some time; whether the sweeper is content."""
        self.now_s += pass_s
        try:
            sweep(self.launches, sagemaker=self.sagemaker)
        except LaunchesFailed:
            return False
        return True

    def launch(self, generation: int = 1) -> dict[str, Any]:
        key = {"pk": {"S": "launches"}, "sk": {"S": f"{PROJECT}#{generation:09d}"}}
        item = self.dynamodb.get_item(TableName=self.table, Key=key, ConsistentRead=True)["Item"]
        return {name: next(iter(value.values())) for name, value in item.items()}

    @property
    def started(self) -> int:
        return len(self.emulator.executions)

    @property
    def pending(self) -> int:
        return counts(self.dynamodb, self.table)["pending"]


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Ministack, Emulator]]:
    ministack = Ministack()
    with ministack, Emulator(ministack.url, tmp_path_factory.mktemp("failures")) as emulator:
        yield ministack, emulator


@pytest.fixture
def world(servers: tuple[Ministack, Emulator], request: pytest.FixtureRequest) -> World:
    return World(*servers, re.sub(r"\W", "-", request.node.name))


def test_what_aws_refuses_is_tried_later_and_later_and_then_given_back(world: World) -> None:
    world.count(*range(1, PER_TRAINING + 1))
    for attempt in range(REFUSALS):
        assert (world.started, world.pending) == (attempt + 1, 0)
        world.end("Failed", QUOTA)
        assert not world.sweep()
        if attempt < REFUSALS - 1:
            wait_s = min(FIRST_WAIT_S * 2**attempt, LONGEST_WAIT_S)
            assert not world.sweep(wait_s - 1)
            assert (world.started, world.launch()["problem"]) == (attempt + 1, QUOTA)
            assert world.sweep(1)
    assert (world.pending, world.launch()["outcome"]) == (PER_TRAINING, "released")
    # while it rests nothing is started, whatever is counted, and the alarm goes on
    world.count(6)
    assert not world.sweep(REST_S / 2)
    assert world.started == REFUSALS
    assert world.sweep(REST_S / 2 + 1)
    assert (world.started, world.pending) == (REFUSALS + 1, 1)
    world.end("Succeeded")
    assert world.sweep()
    assert world.launch(2)["outcome"] == "trained"
    assert counts(world.dynamodb, world.table)["counted"] == PER_TRAINING + 1


def test_a_training_that_fails_by_itself_is_tried_once_more(world: World) -> None:
    world.count(*range(1, PER_TRAINING + 1))
    for attempt in range(FAILURES):
        world.end("Failed", OWN, trained="Failed")
        assert not world.sweep()
        world.sweep(FIRST_WAIT_S * 2**attempt)
    assert world.started == FAILURES
    assert (world.pending, world.launch()["problem"]) == (PER_TRAINING, OWN)


def test_a_second_try_that_trains_is_the_end_of_it(world: World) -> None:
    world.count(*range(1, PER_TRAINING + 1))
    world.end("Failed", "CapacityError: Unable to provision requested ML compute capacity.", trained="Failed")
    assert not world.sweep()
    assert world.sweep(FIRST_WAIT_S)
    world.end("Succeeded")
    assert world.sweep()
    assert "problem" not in world.launch()
    assert launches(world.emulator) == [("29", 1), ("29", 1)]


@pytest.mark.parametrize(("status", "outcome"), [("Failed", "trained"), ("Stopped", "stopped")])
def test_a_low_miou_and_a_person_end_a_launch(world: World, status: str, outcome: str) -> None:
    world.count(*range(1, PER_TRAINING + 1))
    world.end(status, trained="Succeeded" if status == "Failed" else "Stopped")
    assert world.sweep()
    assert (world.launch()["outcome"], world.pending, world.started) == (outcome, 0, 1)


def test_an_execution_that_nobody_knows_is_not_asked_for_again(world: World) -> None:
    world.count(*range(1, PER_TRAINING + 1))
    world.emulator.executions.clear()
    assert world.sweep()
    assert world.launch()["outcome"] == "unknown"


def test_a_start_that_is_refused_says_why_and_waits(world: World) -> None:
    refused = ("StartPipelineExecution", Refusal("AccessDeniedException", "not authorized to perform"))
    world.emulator.faults.append(refused)
    world.count(*range(1, PER_TRAINING + 1))
    assert "not authorized to perform" in world.launch()["problem"]
    assert not world.sweep(FIRST_WAIT_S - 1)
    assert world.started == 0
    assert world.sweep(1)
    assert (world.started, world.pending) == (1, 0)
