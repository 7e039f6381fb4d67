"""segloop aws deploy, status and destroy, against a real ministack and the SageMaker emulator."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from click.testing import CliRunner, Result

from segloop.cli import main
from tests.aws.managed import connect, save
from tests.aws.ministack import Ministack, Stack
from tests.aws.sagemaker_emulator import Emulator, emulated_aws
from tests.waiting import until

pytestmark = pytest.mark.slow

# a MaximumConcurrency that comes from a parameter is text to this ministack, and its poller then fails
QUIET = ("--worker-concurrency", "0", "--label-studio-url", "https://labels.example.org")


@dataclass
class Account:
    """An account of ministack and the emulator, and the command line in it."""

    ministack: Ministack
    emulator: Emulator

    def run(self, *arguments: str, **environment: str) -> Result:
        variables = {
            "AWS_ENDPOINT_URL": self.ministack.url,
            "AWS_ENDPOINT_URL_SAGEMAKER": self.emulator.url,
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": "test",
            "AWS_DEFAULT_REGION": "us-east-1",
            "COLUMNS": "200",
            **environment,
        }
        return CliRunner(env=variables).invoke(main, ["aws", *arguments])

    def json(self, *arguments: str) -> Any:
        result = self.run(*arguments, "--json")
        assert result.exit_code == 0, result.output
        return json.loads(result.stdout)

    def stacks(self) -> dict[str, str]:
        found = self.ministack.client("cloudformation").list_stacks()["StackSummaries"]
        return {item["StackName"]: item["StackStatus"] for item in found if item["StackStatus"] != "DELETE_COMPLETE"}

    def buckets(self) -> set[str]:
        return {item["Name"] for item in self.ministack.client("s3").list_buckets()["Buckets"]}


@pytest.fixture(scope="module")
def account(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Account]:
    with (
        emulated_aws(tmp_path_factory.mktemp("instances"), "unused") as (emulator, _),
        Ministack(environment={"AWS_ENDPOINT_URL_SAGEMAKER": emulator.url}, sagemaker=True) as ministack,
    ):
        yield Account(ministack, emulator)


def test_a_route_from_its_dry_run_to_its_end(account: Account) -> None:
    refused = account.run("deploy", "--name", "street", "--target", "segloop")
    assert (refused.exit_code, refused.output.count("\n")) == (1, 1)
    planned = account.json("deploy", "--name", "street", *QUIET, "--dry-run")
    assert [(stack["stack"], stack["done"]) for stack in planned["stacks"]] == [
        ("street", "planned"),
        ("street-sagemaker", "planned"),
    ]
    assert ("Add", "Pipeline") in [(change["action"], change["resource"]) for change in planned["stacks"][1]["changes"]]
    assert (account.stacks(), account.buckets()) == ({}, set())

    made = account.json("deploy", "--name", "street", *QUIET)
    assert [stack["done"] for stack in made["stacks"]] == ["created", "created"]
    outputs = made["outputs"]
    names = {name: outputs[name] for name in ("SourceBucketName", "TargetBucketName", "ArtifactsBucketName")}
    assert account.buckets() == {*names.values(), "street-code-000000000000-us-east-1"}
    cors = account.ministack.client("s3").get_bucket_cors(Bucket=names["SourceBucketName"])["CORSRules"]
    assert cors[0]["AllowedOrigins"] == ["https://labels.example.org"]
    definition = json.dumps(account.emulator.pipelines["street"])
    (uri,) = set(re.findall(r's3://[^"]+/code/[0-9a-f]{64}/', definition))
    code = account.ministack.client("s3").list_objects_v2(Bucket=names["ArtifactsBucketName"], Prefix="code/")
    files = {f"s3://{names['ArtifactsBucketName']}/{item['Key']}" for item in code["Contents"]}
    names_there = ("train.py", "segloop.zip", "requirements.txt", "inference.py", "lacking.txt")
    assert {uri + name for name in names_there} <= files
    assert "us-east-1.amazonaws.com/pytorch-inference:2.6.0-cpu-py312" in definition

    again = account.run("deploy", "--name", "street")
    assert "street: nothing to change\nstreet-sagemaker: nothing to change" in again.stdout
    assert again.stderr == ""

    changed = account.run("deploy", "--name", "street", "--annotations", "2")
    assert "street: updated" in changed.stdout
    assert "modify Counter (AWS::Lambda::Function" in changed.stdout
    assert "street-sagemaker: nothing to change" in changed.stdout
    planned = account.json("deploy", "--name", "street", "--epochs", "3", "--dry-run")
    assert [stack["done"] for stack in planned["stacks"]] == ["unchanged", "planned"]
    assert '"DefaultValue": "3"' not in json.dumps(account.emulator.pipelines["street"])

    count_and_look(account, Stack(account.ministack, "street"))
    destroy(account, names)


def count_and_look(account: Account, stack: Stack) -> None:
    """Three annotations at two a training: one launch, one pending; then a message that nobody can read."""
    for number in (1, 2, 3):
        event = {"action": "ANNOTATION_CREATED", "project": {"id": 7}, "annotation": {"id": number}, "task": {"id": 1}}
        assert stack.post(event).status_code < 300
    found = account.json("status", "--name", "street")
    assert [(item["name"], item["status"]) for item in found["stacks"]] == [
        ("street", "UPDATE_COMPLETE"),
        ("street-sagemaker", "CREATE_COMPLETE"),
    ]
    found = await_status(
        account,
        lambda found: found["projects"] == [{"project": "7", "pending": 1, "counted": 3, "generation": 1}],
    )
    found = await_status(account, lambda found: found["launches"][0]["started_at"])
    (launch,) = found["launches"]
    assert (launch["project"], launch["generation"], found["annotations_per_training"]) == ("7", 1, 2)
    assert launch["started_as"].endswith(found["executions"][0]["execution"])
    backfill(account, stack)
    # the emulator's S3 has no code for the training
    found = await_status(account, lambda found: found["executions"][0]["status"] == "Failed")
    assert found["last_error"].endswith("failed: Step failure: One or multiple steps failed.")
    assert stack.invoke("Sweeper", {})["error"]
    found = account.json("status", "--name", "street")
    assert found["last_error"].startswith("launch ")
    assert "of project 7 failed 1 times, is tried again at 20" in found["last_error"]
    assert "training-job" in found["last_error"] or "Training job" in found["last_error"]
    queue = stack.outputs["DeadLetterQueueUrl"]
    account.ministack.client("sqs").send_message(QueueUrl=queue, MessageBody="poison")
    shown = account.run("status", "--name", "street").stdout
    assert "last error: 1 events could not be handled; the functions' logs say why" in shown
    assert "street: UPDATE_COMPLETE since 20" in shown


def backfill(account: Account, stack: Stack) -> None:
    """Three annotations that nobody told of, one of them in another project, and one that was counted."""
    s3, target = account.ministack.client("s3"), stack.outputs["TargetBucketName"]
    told = s3.get_bucket_notification_configuration(Bucket=target)
    assert "EventBridgeConfiguration" in told
    # as a route was that was made before its bucket told of anything
    s3.put_bucket_notification_configuration(Bucket=target, NotificationConfiguration={})
    for project in (7, 8):
        connect(s3, stack.outputs["ArtifactsBucketName"], str(project))
    for project, number in ((7, 3), (7, 4), (8, 1)):
        save(s3, target, number, project)
    s3.put_object(Bucket=target, Key="projects/7/notes.txt", Body=b"no annotation")
    assert account.json("backfill", "--name", "street", "--project", "7") == {"told": 2}
    counted = {"project": "7", "pending": 0, "counted": 4, "generation": 2}
    await_status(account, lambda found: counted in found["projects"])
    assert "told to the counter: 3 annotations" in account.run("backfill", "--name", "street").stdout
    other = {"project": "8", "pending": 1, "counted": 1, "generation": 0}
    await_status(account, lambda found: found["projects"] == [counted, other])
    assert "there is no route nowhere" in account.run("backfill", "--name", "nowhere").output


def destroy(account: Account, names: dict[str, str]) -> None:
    """What holds data stays, until one says so; repeats do no harm."""
    account.ministack.client("s3").put_object(Bucket=names["SourceBucketName"], Key="projects/7/a.png", Body=b"a")
    group = {"ModelPackageGroupName": "street", "InferenceSpecification": {}}
    account.emulator.flow.create_model_package(group)
    refused = account.run("destroy", "--name", "street")
    assert refused.exit_code == 1
    assert f"keeps the bucket {names['SourceBucketName']}" in refused.stderr
    assert "street" in account.stacks()

    result = account.json("destroy", "--name", "street", "--yes")
    assert result["stacks"] == ["street-sagemaker", "street"]
    kept = set(names.values())
    assert set(result["kept"]) == account.buckets() == kept
    assert (account.stacks(), account.emulator.pipelines, account.emulator.flow.groups) == ({}, {}, {})
    again = account.run("destroy", "--name", "street", "--yes")
    assert "there is no route street" in again.stdout
    assert f"kept: s3://{names['SourceBucketName']}" in again.stdout
    assert account.buckets() == kept
    account.json("destroy", "--name", "street", "--yes", "--delete-data")
    assert account.buckets() == set()
    assert account.run("destroy", "--name", "street", "--yes", "--delete-data").exit_code == 0


def test_a_route_of_the_same_name_takes_up_what_was_left(account: Account) -> None:
    options = ("--name", "ramp", *QUIET, "--target", "segloop", "--segloop-url", "https://a.b", "--tag", "team=a")
    outputs = account.json("deploy", *options)["outputs"]
    left = {outputs["SourceBucketName"], outputs["TargetBucketName"]}
    for bucket in left:
        account.ministack.client("s3").put_object(Bucket=bucket, Key="projects/7/a.png", Body=b"a")
    assert set(account.json("destroy", "--name", "ramp", "--yes")["kept"]) == left
    again = account.run("deploy", *options)
    assert all(f"Takes up the bucket {bucket}" in again.stderr for bucket in left)
    stack = Stack(account.ministack, "ramp")
    assert {stack.outputs["SourceBucketName"], stack.outputs["TargetBucketName"]} == left
    (described,) = account.ministack.client("cloudformation").describe_stacks(StackName="ramp")["Stacks"]
    assert {item["Key"]: item["Value"] for item in described["Tags"]} == {"team": "a", "segloop:route": "ramp"}
    account.json("destroy", "--name", "ramp", "--yes", "--delete-data")
    assert not left & account.buckets()


def test_buckets_of_ones_own(account: Account) -> None:
    s3 = account.ministack.client("s3")
    s3.create_bucket(Bucket="photos-of-ours")
    options = ("--name", "alley", *QUIET, "--target", "segloop", "--segloop-url", "https://a.b")
    missing = account.run("deploy", *options, "--source-bucket", "not-there", "--annotations", "0")
    assert missing.exit_code == 1
    assert "--annotations 0" in missing.stderr
    assert "--source-bucket not-there: there is no such bucket" in missing.stderr
    made = account.json("deploy", *options, "--source-bucket", "photos-of-ours", "--target-bucket", "photos-of-ours")
    assert made["outputs"]["SourceBucketName"] == made["outputs"]["TargetBucketName"] == "photos-of-ours"
    assert "EventBridgeConfiguration" in s3.get_bucket_notification_configuration(Bucket="photos-of-ours")
    result = account.json("destroy", "--name", "alley", "--yes", "--delete-data")
    assert result["kept"] == ["photos-of-ours"]
    assert account.buckets() == {"photos-of-ours"}
    s3.delete_bucket(Bucket="photos-of-ours")


def test_a_failed_creation_says_why_and_can_be_repeated(account: Account) -> None:
    taken = {"PipelineName": "road", "PipelineDefinition": '{"Version": "2020-12-01", "Steps": [{"Type": "Fail"}]}'}
    taken["PipelineDefinition"] = taken["PipelineDefinition"].replace('"Type"', '"Name": "x", "Type"')
    account.emulator.flow.create_pipeline(taken)
    failed = account.run("deploy", "--name", "road", *QUIET)
    assert failed.exit_code == 1
    assert "the stack road-sagemaker is ROLLBACK_COMPLETE: Pipeline (AWS::SageMaker::Pipeline): " in failed.stderr
    assert "Pipeline names must be unique" in failed.stderr
    assert "Traceback" not in failed.stderr
    found = account.json("status", "--name", "road")
    assert "Pipeline names must be unique" in found["last_error"]

    planned = account.run("deploy", "--name", "road", "--dry-run")
    assert "A deployment removes it and makes it anew" in planned.stderr
    assert account.stacks()["road-sagemaker"] == "ROLLBACK_COMPLETE"
    del account.emulator.pipelines["road"]
    repeated = account.run("deploy", "--name", "road")
    assert repeated.exit_code == 0, repeated.output
    assert "It is removed and made anew" in repeated.stderr
    assert "road-sagemaker: created" in repeated.stdout
    account.json("destroy", "--name", "road", "--yes", "--delete-data")
    assert (account.stacks(), account.buckets()) == ({}, set())


def test_the_route_to_segloop_has_one_stack_and_segloops_secret(account: Account) -> None:
    options = ("--name", "lane", *QUIET, "--target", "segloop", "--segloop-url", "https://segloop.example.org")
    first = account.run("deploy", *options)
    assert "SEGLOOP_WEBHOOK_SECRET is empty" in first.stderr
    second = account.run("deploy", *options, SEGLOOP_WEBHOOK_SECRET="a secret of ours")
    assert set(account.stacks()) == {"lane"}
    assert "a secret of ours" not in second.output
    arn = re.search(r"SegloopSecretArn: (\S+)", second.stdout)
    assert arn is not None
    secrets = account.ministack.client("secretsmanager")
    assert secrets.get_secret_value(SecretId=arn[1])["SecretString"] == "a secret of ours"
    third = account.run("deploy", "--name", "lane", SEGLOOP_WEBHOOK_SECRET="a secret of ours")
    assert "lane: nothing to change" in third.stdout
    assert third.stderr == ""
    account.json("destroy", "--name", "lane", "--yes", "--delete-data")


def test_a_route_that_is_not_there(account: Account) -> None:
    missing = account.run("status", "--name", "nowhere")
    assert (missing.exit_code, missing.stdout) == (1, "there is no route nowhere in us-east-1\n")


def await_status(account: Account, holds: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
    """The status of the route, once it is so."""

    def found() -> dict[str, Any] | None:
        status = account.json("status", "--name", "street")
        return status if holds(status) else None

    return until(found, "the route's status") or {}
