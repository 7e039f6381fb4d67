"""The roles of the managed route under ministack's IAM: what they hold suffices, and nothing of it is idle.

Functions run here with the credentials of their roles, as in Lambda; what Lambda itself does in a role's name (polling
the queue, writing the log) is done here too. SageMaker's emulator has no IAM, so that ministack's simulator is asked.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore import xform_name
from botocore.exceptions import ClientError
from PIL import Image

from counting import Counter
from credentials import SharedSecret
from demo.label_studio import RunningLabelStudio
from labelling import LabelStudio
from launching import Launch, Launches, Pipeline
from LsCustomWebhook import Receiver
from prelabelling import PreLabeller
from saved import Saved
from segloop.aws.endpoints.handler import Handler
from segloop.settings import Settings
from sweeping import LaunchesFailed, sweep
from tests.aws.hosting_emulator import Endpoint
from tests.aws.managed import add_pipeline, connect, counts, created, launches, recorded, save
from tests.aws.ministack import REGION, Ministack, Stack
from tests.aws.sagemaker_emulator import Emulator
from tests.aws.template_roles import actions, permissions, without
from tests.toys import BRUSH, half_red_half_blue, toy_registry
from tests.waiting import until

pytestmark = [pytest.mark.slow, pytest.mark.label_studio]

ENDPOINT = "street"
PER_TRAINING = 2
Json = dict[str, Any]
Clients = Callable[[str], Any]


class InProcess:
    """A container of the hosting emulator that is a handler of segloop's own."""

    def __init__(self, handler: Handler) -> None:
        self._handler = handler

    def ask(self, method: str, path: str, body: bytes, headers: dict[str, str]) -> tuple[int, bytes]:
        kinds = {name.lower(): value for name, value in headers.items()}
        return 200, self._handler.invoke(body, kinds["content-type"])


class World:
    """Two stacks under IAM: one that starts a pipeline and pre-labels, one whose target is a segloop."""

    def __init__(self, ministack: Ministack, emulator: Emulator, studio: RunningLabelStudio) -> None:
        self.ministack, self.emulator, self.studio = ministack, emulator, studio
        own = {"AnnotationsPerTraining": str(PER_TRAINING)}
        self.full = ministack.deploy(
            "full", {**own, "EndpointName": ENDPOINT, "LabelStudioUrl": studio.url, "PipelineName": "full"}
        )
        self.to_segloop = ministack.deploy("other", {**own, "Target": "segloop", "SegloopUrl": "http://127.0.0.1:9"})
        add_pipeline(emulator, "full")
        secrets = ministack.client("secretsmanager")
        secrets.put_secret_value(SecretId=self.full.outputs["LabelStudioTokenArn"], SecretString=studio.api_key)
        self.project = studio.create_project("managed", BRUSH)["id"]
        self.numbers = iter(range(1, 10_000))

    def stack_of(self, role: str, action: str) -> Stack:
        """The stack in which a role holds an action."""
        for stack in (self.full, self.to_segloop):
            if role in stack.resources and action in self.held(stack, role):
                return stack
        raise AssertionError(f"no stack has {role} with {action}")

    def policy(self, stack: Stack, role: str) -> tuple[Json, Json]:
        """A role's inline policy, and what names it."""
        iam, name = self.ministack.client("iam"), stack.resources[role]
        (policy,) = iam.list_role_policies(RoleName=name)["PolicyNames"]
        where = {"RoleName": name, "PolicyName": policy}
        return iam.get_role_policy(**where)["PolicyDocument"], where

    def held(self, stack: Stack, role: str) -> set[str]:
        return {action for statement in self.policy(stack, role)[0]["Statement"] for action in actions(statement)}

    def clients(self, stack: Stack, role: str) -> Clients:
        """Clients with the credentials of a role."""
        arn = f"arn:aws:iam::000000000000:role/{stack.resources[role]}"
        answer = self.ministack.client("sts").assume_role(RoleArn=arn, RoleSessionName="function")["Credentials"]
        keys = {
            "aws_access_key_id": answer["AccessKeyId"],
            "aws_secret_access_key": answer["SecretAccessKey"],
            "aws_session_token": answer["SessionToken"],
        }

        def client(service: str) -> Any:
            if service.startswith("sagemaker"):
                found = boto3.client(service, REGION, endpoint_url=self.emulator.url, **keys)
                return Guarded(found, partial(self.may, arn))
            return self.ministack.client(service, keys)

        return client

    def may(self, role_arn: str, action: str, resource: str) -> bool:
        found = self.ministack.client("iam").simulate_principal_policy(
            PolicySourceArn=role_arn, ActionNames=[action], ResourceArns=[resource]
        )
        return bool(found["EvaluationResults"][0]["EvalDecision"] == "allowed")

    def new_task(self, key: str) -> int:
        """A task of the project whose image lies in the source bucket."""
        data = {"image": f"s3://{self.full.outputs['SourceBucketName']}/{key}"}
        with self.studio.client() as client:
            path = f"/api/projects/{self.project}/import?return_task_ids=true"
            number: int = client.post(path, json=[{"data": data}]).json()["task_ids"][0]
        return number

    def ministack_sagemaker(self) -> Any:
        """SageMaker as the account's root."""
        keys = {"aws_access_key_id": "test", "aws_secret_access_key": "test"}
        return boto3.client("sagemaker", REGION, endpoint_url=self.emulator.url, **keys)

    def predictions(self, task: int) -> list[Json]:
        with self.studio.client() as client:
            found: list[Json] = client.get(f"/api/tasks/{task}/").json()["predictions"]
        return found


class Guarded:
    """A client of SageMaker's emulator that asks IAM first."""

    def __init__(self, client: Any, may: Callable[[str, str], bool]) -> None:
        self._client, self._may = client, may
        self.exceptions = client.exceptions

    def start_pipeline_execution(self, **request: Any) -> Any:
        return self._ask("StartPipelineExecution", f"pipeline/{request['PipelineName']}", request)

    def invoke_endpoint(self, **request: Any) -> Any:
        return self._ask("InvokeEndpoint", f"endpoint/{request['EndpointName']}", request)

    def describe_pipeline_execution(self, **request: Any) -> Any:
        resource = request["PipelineExecutionArn"].rpartition(":")[2]
        return self._ask("DescribePipelineExecution", resource, request)

    def get_paginator(self, operation: str) -> Any:
        assert operation == "list_pipeline_execution_steps"
        return self

    def paginate(self, **request: Any) -> Any:
        resource = request["PipelineExecutionArn"].rpartition(":")[2]
        return [self._ask("ListPipelineExecutionSteps", resource, request)]

    def _ask(self, operation: str, resource: str, request: Json) -> Any:
        if not self._may(f"sagemaker:{operation}", f"arn:aws:sagemaker:{REGION}:000000000000:{resource}"):
            raise ClientError({"Error": {"Code": "AccessDeniedException", "Message": operation}}, operation)
        return getattr(self._client, xform_name(operation))(**request)


@pytest.fixture(scope="module")
def world(running: RunningLabelStudio, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("roles")
    registry = toy_registry(folder)
    info = registry.versions("7.1795383040")[0]
    settings = Settings(_env_file=None, device="cpu", weights="none")
    handler = Handler(registry.bundle(info.project, info.version), settings)
    ministack = Ministack(auth=True)
    with Emulator(ministack.url, folder) as emulator:
        ministack.environment["AWS_ENDPOINT_URL_SAGEMAKER"] = emulator.url
        ministack.environment["AWS_ENDPOINT_URL_SAGEMAKER_RUNTIME"] = emulator.url
        emulator.hosting.endpoints[ENDPOINT] = Endpoint({"EndpointStatus": "InService"}, InProcess(handler))  # type: ignore[arg-type]
        with ministack:
            yield World(ministack, emulator, running)


# -- what each function does with its role; each raises where it cannot


def write_log(clients: Clients, stack: Stack, function: str) -> None:
    where = {"logGroupName": stack.resources[f"{function}Logs"], "logStreamName": f"stream-{time.monotonic_ns()}"}
    logs = clients("logs")
    logs.create_log_stream(**where)
    logs.put_log_events(**where, logEvents=[{"timestamp": int(time.time() * 1000), "message": "a line"}])


def poll(clients: Clients, queue: str, body: Json, handle: Callable[[Json], Json], root: Any) -> None:
    """A message sent by root, polled by the role as Lambda does, handled, deleted."""
    root.purge_queue(QueueUrl=queue)
    root.send_message(QueueUrl=queue, MessageBody=json.dumps(body))
    sqs = clients("sqs")
    sqs.get_queue_attributes(QueueUrl=queue, AttributeNames=["VisibilityTimeout"])
    (message,) = sqs.receive_message(QueueUrl=queue)["Messages"]
    answer = handle({"Records": [{"messageId": message["MessageId"], "body": message["Body"]}]})
    assert answer == {"batchItemFailures": []}
    sqs.delete_message(QueueUrl=queue, ReceiptHandle=message["ReceiptHandle"])


def starts(world: World, clients: Clients, stack: Stack) -> Launches:
    table = stack.outputs["TableName"]
    if stack is world.full:
        start: Callable[[Launch], str] = Pipeline(clients("sagemaker"), "full", table)
    else:
        secret = SharedSecret(clients("secretsmanager"), stack.outputs["SegloopSecretArn"])

        def start(launch: Launch) -> str:
            # test_managed_webhook.py asks a real segloop; the role's part in it is the secret
            return f"{launch.generation} with {len(secret.value())} characters"

    return Launches(clients("dynamodb"), table, PER_TRAINING, start)


def receive(world: World, clients: Clients, stack: Stack) -> None:
    write_log(clients, stack, "Receiver")
    secret = SharedSecret(clients("secretsmanager"), stack.outputs["WebhookSecretArn"])
    tasks = stack.resources["TaskQueue"]
    receiver = Receiver(secret, clients("sqs"), stack.outputs["QueueUrl"], tasks, count_updates=False)
    for event in (created(next(world.numbers)), recorded("16_webhook_TASKS_CREATED.json")):
        request = {"headers": {"X-Segloop-Secret": stack.secret}, "body": json.dumps(event)}
        assert receiver.answer(request)["statusCode"] == 202


def count(world: World, clients: Clients, stack: Stack) -> None:
    write_log(clients, stack, "Counter")
    found = starts(world, clients, stack)
    target, artifacts = stack.outputs["TargetBucketName"], stack.outputs["ArtifactsBucketName"]
    saved = Saved(clients("s3"), target, artifacts, count_updates=False)
    counter = Counter(clients("dynamodb"), stack.outputs["TableName"], found, saved)
    number, sqs = next(world.numbers), world.ministack.client("sqs")
    project = f"{number}.1"
    connect(world.ministack.client("s3"), artifacts, project)
    save(world.ministack.client("s3"), target, 2, number)
    # one of them is gone when it is read
    for key in (f"projects/{number}/2", f"projects/{number}/3"):
        told = {"detail": {"bucket": {"name": target}, "object": {"key": key}}}
        poll(clients, stack.outputs["QueueUrl"], told, counter.handle, sqs)
    poll(clients, stack.outputs["QueueUrl"], {"project": project, "annotations": ["1"]}, counter.handle, sqs)
    root = Launches(world.ministack.client("dynamodb"), stack.outputs["TableName"], PER_TRAINING, str)
    assert project in {launch.project for launch in root.running()}


def finish(world: World, clients: Clients, stack: Stack) -> None:
    write_log(clients, stack, "Sweeper")
    root = world.ministack.client("dynamodb")

    def dies(launch: Launch) -> str:
        raise KeyboardInterrupt(f"{launch} is left behind")

    table = stack.outputs["TableName"]
    left = Launches(root, table, PER_TRAINING, dies)
    counter = Counter(root, table, left, Saved(None, "", "", count_updates=False))
    first, second, third = (f"{next(world.numbers)}.1" for _ in range(3))
    counter.count(first, ["1", "2"])
    with pytest.raises(KeyboardInterrupt):
        left.launch_due(first)
    counter.count(second, ["1", "2"])
    sagemaker = clients("sagemaker") if stack is world.full else None
    if sagemaker is not None:
        counter.count(third, ["1", "2"])
        emulated = world.ministack_sagemaker()
        assert Launches(root, table, PER_TRAINING, Pipeline(emulated, "full", table)).launch_due(third) == 0
        *_, execution = world.emulator.executions.values()
        assert until(lambda: execution.status != "Executing")
        execution.status = "Failed"
    try:
        sweep(starts(world, clients, stack), left_s=0, sagemaker=sagemaker)
    except LaunchesFailed:
        # the third waits for its next try
        assert sagemaker is not None
    assert counts(root, table, second)["pending"] == 0
    assert {first, second} <= {launch.project for launch in Launches(root, table, PER_TRAINING, str).running()}


def prelabel(world: World, clients: Clients, stack: Stack) -> None:
    write_log(clients, stack, "PreLabeller")
    secret = SharedSecret(clients("secretsmanager"), stack.outputs["LabelStudioTokenArn"])
    studio = LabelStudio(world.studio.url, secret.value)
    bucket = stack.outputs["SourceBucketName"]
    labeller = PreLabeller(clients("s3"), clients("sagemaker-runtime"), studio, bucket=bucket, endpoint=ENDPOINT)
    task = world.new_task("projects/1/a.png")
    body = {"project": world.project, "tasks": [task]}
    for _ in range(2):
        poll(clients, stack.resources["TaskQueue"], body, labeller.handle, world.ministack.client("sqs"))
    assert len(world.predictions(task)) == 1


JOURNEYS = {"ReceiverRole": receive, "CounterRole": count, "SweeperRole": finish, "PreLabellerRole": prelabel}


@pytest.fixture(scope="module")
def quiet(world: World) -> World:
    """The world once its functions have shown that they run with their roles, and no longer poll themselves."""
    _deployed_functions_run(world)
    functions = world.ministack.client("lambda")
    for mapping in functions.list_event_source_mappings()["EventSourceMappings"]:
        functions.delete_event_source_mapping(UUID=mapping["UUID"])
    return world


def _deployed_functions_run(world: World) -> None:
    s3, bucket = world.ministack.client("s3"), world.full.outputs["SourceBucketName"]
    path = Path(world.studio.folder) / "a.png"
    Image.fromarray(half_red_half_blue(60, 80)).save(path)
    for stack in (world.full, world.to_segloop):
        for name in ("SourceBucketName", "TargetBucketName", "ArtifactsBucketName"):
            policy = json.loads(s3.get_bucket_policy(Bucket=stack.outputs[name])["Policy"])
            assert [one["Condition"] for one in policy["Statement"]] == [{"Bool": {"aws:SecureTransport": "false"}}]
            # ministack here has no TLS: what the policy forbids is all that it offers
            s3.delete_bucket_policy(Bucket=stack.outputs[name])
    s3.put_object(Bucket=bucket, Key="projects/1/a.png", Body=path.read_bytes())
    for number in range(20_000, 20_000 + PER_TRAINING):
        assert world.full.post(created(number)).status_code == 202
    task = world.new_task("projects/1/a.png")
    event = recorded("16_webhook_TASKS_CREATED.json")
    event["project"]["id"] = world.project
    event["tasks"][0]["id"] = task
    assert world.full.post(event).status_code == 202
    assert until(lambda: bool(launches(world.emulator)) and bool(world.predictions(task)))
    (prediction,) = world.predictions(task)
    assert prediction["model_version"].startswith("v1-")
    assert 0 <= prediction["score"] <= 1


@pytest.mark.parametrize("role", sorted(JOURNEYS))
def test_a_role_suffices(quiet: World, role: str) -> None:
    for stack in (quiet.full, quiet.to_segloop):
        if role in stack.resources and not (stack is quiet.to_segloop and role == "ReceiverRole"):
            JOURNEYS[role](quiet, quiet.clients(stack, role), stack)


#: Without the right to list, S3 says of an object that is not there that it is forbidden; this ministack says that it is not there.
UNSEEN = {("CounterRole", "s3:ListBucket")}


@pytest.mark.parametrize(("role", "action"), sorted({*permissions()} - UNSEEN))
def test_no_action_is_idle(quiet: World, role: str, action: str) -> None:
    stack, iam = quiet.stack_of(role, action), quiet.ministack.client("iam")
    policy, where = quiet.policy(stack, role)
    iam.put_role_policy(**where, PolicyDocument=json.dumps(without(policy, action)))
    try:
        with pytest.raises((ClientError, AssertionError, LaunchesFailed)):
            JOURNEYS[role](quiet, quiet.clients(stack, role), stack)
    finally:
        iam.put_role_policy(**where, PolicyDocument=json.dumps(policy))


def test_every_role_is_tried() -> None:
    assert {role for role, _ in permissions()} == set(JOURNEYS)
