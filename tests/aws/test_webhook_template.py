"""aws/template.yaml: what can be told of it without deploying it. test_webhook*.py deploy it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.aws.ministack import TEMPLATE, WEBHOOK
from tests.aws.template_roles import statements, template

RESOURCES: dict[str, Any] = template()["Resources"]


def of_type(kind: str) -> dict[str, Any]:
    return {name: item["Properties"] for name, item in RESOURCES.items() if item["Type"] == kind}


@pytest.mark.slow
def test_cfn_lint_has_nothing_to_say() -> None:
    program = Path(sys.executable).parent / "cfn-lint"
    done = subprocess.run([program, TEMPLATE], capture_output=True, text=True, check=False, timeout=120)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_no_role_holds_a_wildcard() -> None:
    found = list(statements())
    assert len(found) > 10
    for role, statement in found:
        text = json.dumps(statement)
        assert '"*"' not in text, role
        # prefixes alone: objects of the source bucket, annotations, projects' descriptions
        for prefix in (":::${Bucket}/*", ":::${Bucket}/projects/*"):
            text = text.replace(prefix, "")
        assert "*" not in text.replace("pipeline/${PipelineName}/execution/*", ""), role


def test_invoke_endpoint_is_held_only_with_an_endpoint() -> None:
    holders = {role for role, statement in statements() if "InvokeEndpoint" in json.dumps(statement)}
    assert {RESOURCES[role].get("Condition") for role in holders} == {"PreLabels"}


def test_every_function_has_a_log_of_its_own_that_ends() -> None:
    functions, logs = of_type("AWS::Lambda::Function"), of_type("AWS::Logs::LogGroup")
    assert len(functions) == 4
    assert {item["LoggingConfig"]["LogGroup"]["Ref"] for item in functions.values()} == set(logs) - {"ApiLogs"}
    (stage,) = of_type("AWS::ApiGatewayV2::Stage").values()
    assert stage["AccessLogSettings"]["DestinationArn"] == {"Fn::GetAtt": "ApiLogs.Arn"}
    assert all(item["RetentionInDays"] == {"Ref": "LogRetentionDays"} for item in logs.values())


def test_handlers_are_in_the_code() -> None:
    for item in of_type("AWS::Lambda::Function").values():
        module, function = item["Handler"].split(".")
        assert f"def {function}(" in (WEBHOOK / f"{module}.py").read_text("utf-8")
        assert item["Runtime"] == "python3.13"


@pytest.mark.parametrize("name", ["SourceBucket", "TargetBucket", "ArtifactsBucket"])
def test_buckets_are_closed(name: str) -> None:
    bucket = RESOURCES[name]
    assert set(bucket["Properties"]["PublicAccessBlockConfiguration"].values()) == {True}
    assert "SSEAlgorithm" in json.dumps(bucket["Properties"]["BucketEncryption"])
    assert bucket["DeletionPolicy"] == "RetainExceptOnCreate"
    policies = [item for item in of_type("AWS::S3::BucketPolicy").values() if item["Bucket"] == {"Ref": name}]
    (statement,) = policies[0]["PolicyDocument"]["Statement"]
    assert (statement["Effect"], statement["Condition"]) == ("Deny", {"Bool": {"aws:SecureTransport": "false"}})


def test_what_trainings_leave_expires_and_every_bucket_keeps_versions() -> None:
    for bucket in of_type("AWS::S3::Bucket").values():
        assert bucket["VersioningConfiguration"] == {"Status": "Enabled"}
    rules = RESOURCES["ArtifactsBucket"]["Properties"]["LifecycleConfiguration"]["Rules"]
    expiring = {rule["Prefix"]: rule["ExpirationInDays"] for rule in rules if "Prefix" in rule}
    assert expiring == {"pipeline/output/": {"Ref": "ModelDays"}, "pipeline/checkpoints/": 30}


def test_queues_wait_six_times_as_long_as_their_functions_run() -> None:
    queues, functions = of_type("AWS::SQS::Queue"), of_type("AWS::Lambda::Function")
    mappings = of_type("AWS::Lambda::EventSourceMapping").values()
    for mapping in mappings:
        queue = queues[mapping["EventSourceArn"]["Fn::GetAtt"].split(".")[0]]
        assert queue["VisibilityTimeout"] == 6 * functions[mapping["FunctionName"]["Ref"]]["Timeout"]
        assert queue["RedrivePolicy"]["deadLetterTargetArn"] == {"Fn::GetAtt": "DeadLetterQueue.Arn"}
        assert mapping["FunctionResponseTypes"] == ["ReportBatchItemFailures"]


def test_the_table_forgets_markers_and_can_be_restored() -> None:
    (table,) = of_type("AWS::DynamoDB::Table").values()
    assert table["TimeToLiveSpecification"] == {"AttributeName": "expires", "Enabled": True}
    assert table["PointInTimeRecoverySpecification"] == {"PointInTimeRecoveryEnabled": True}
