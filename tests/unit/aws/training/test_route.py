"""The managed route's training half without AWS: the template, what its events tell, and what the container is told."""

from __future__ import annotations

import fnmatch
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from segloop.aws.endpoints.packing import inference_files
from segloop.aws.endpoints.requests import EndpointSpec, requests_of
from segloop.aws.training import entry
from segloop.aws.training.events import parse_message
from segloop.aws.training.requests import METRICS, RUN, JobSpec, training_job
from segloop.aws.training.route import RouteTraining, route_training
from segloop.policy import Changes, Thresholds, should_rerun, should_retrain
from segloop.settings import Settings
from tests.aws.sagemaker_emulator.stack import IMAGE, INFERENCE_IMAGE, TEMPLATE
from tests.aws.sagemaker_emulator.template import Template
from tests.toys import toy_info

GIVEN = {
    "SourceBucketName": "photos",
    "TargetBucketName": "annotations",
    "ArtifactsBucketName": "artifacts",
    "CodeUri": "s3://artifacts/code/0a1b/",
    "TrainingImage": IMAGE,
    "InferenceImage": INFERENCE_IMAGE,
}
STORE = {"StoreUri": "s3://versions/segloop/store"}


def stack(**parameters: str) -> Template:
    return Template(TEMPLATE, {**GIVEN, **parameters}, lambda name: f"arn:aws:test:::{name}")


def definition(**parameters: str) -> Any:
    return json.loads(stack(**parameters).resource("Pipeline")["PipelineDefinition"]["PipelineDefinitionBody"])


def statements(template: Template, kind: str) -> list[dict[str, Any]]:
    """The statements of a role, or of a managed policy."""
    resource = template.resource(kind)
    documents = [resource] if "PolicyDocument" in resource else resource["Policies"]
    return [one for document in documents for one in document["PolicyDocument"]["Statement"]]


def allows(found: list[dict[str, Any]], action: str, arn: str) -> bool:
    return any(
        action in ([one["Action"]] if isinstance(one["Action"], str) else one["Action"])
        and any(
            fnmatch.fnmatchcase(arn, pattern)
            for pattern in ([one["Resource"]] if isinstance(one["Resource"], str) else one["Resource"])
        )
        for one in found
        if one["Effect"] == "Allow"
    )


# -- the template


@pytest.mark.slow
def test_cfn_lint_has_nothing_to_say() -> None:
    program = Path(sys.executable).with_name("cfn-lint")
    result = subprocess.run([program, str(TEMPLATE)], capture_output=True, text=True, timeout=120, check=False)
    assert (result.returncode, result.stdout) == (0, ""), result.stdout + result.stderr


@pytest.mark.slow
@pytest.mark.parametrize("parameters", [{}, STORE, {"UseSpot": "true"}])
def test_no_star_where_an_arn_can_stand(parameters: dict[str, str]) -> None:
    template = stack(**parameters)
    for name in ("TrainingRole", "PipelineRole", "SegloopPolicy"):
        for one in statements(template, name):
            actions = [one["Action"]] if isinstance(one["Action"], str) else one["Action"]
            assert not any("*" in action for action in actions), one
            if one["Resource"] == "*":
                # the service authorization reference gives these no resource
                assert set(actions) <= {"ecr:GetAuthorizationToken", "cloudwatch:PutMetricData"}, one


def test_a_training_may_do_what_it_does_and_no_more() -> None:
    found = statements(stack(), "TrainingRole")
    for action, arn in [
        ("s3:GetObject", "arn:aws:s3:::photos/projects/29/1.png"),
        ("s3:GetObject", "arn:aws:s3:::annotations/projects/29/101"),
        ("s3:ListBucket", "arn:aws:s3:::annotations"),
        ("s3:GetObject", "arn:aws:s3:::artifacts/code/0a1b/train.py"),
        ("s3:GetObject", "arn:aws:s3:::artifacts/projects/29/project.json"),
        ("s3:PutObject", "arn:aws:s3:::artifacts/projects/29/split.json"),
        ("s3:GetObject", "arn:aws:s3:::artifacts/store/29.1/champion.json"),
        ("s3:PutObject", "arn:aws:s3:::artifacts/pipeline/output/x/output/model.tar.gz"),
        ("ecr:BatchGetImage", "arn:aws:ecr:us-east-1:763104351884:repository/pytorch-training"),
    ]:
        assert allows(found, action, arn), (action, arn)
    for action, arn in [
        ("s3:PutObject", "arn:aws:s3:::photos/projects/29/1.png"),
        ("s3:PutObject", "arn:aws:s3:::annotations/projects/29/101"),
        ("s3:PutObject", "arn:aws:s3:::artifacts/projects/29/project.json"),
        ("s3:PutObject", "arn:aws:s3:::artifacts/code/0a1b/train.py"),
        ("s3:PutObject", "arn:aws:s3:::artifacts/store/29.1/champion.json"),
        ("s3:GetObject", "arn:aws:s3:::others/x"),
    ]:
        assert not allows(found, action, arn), (action, arn)
    elsewhere = statements(stack(**STORE), "TrainingRole")
    assert allows(elsewhere, "s3:GetObject", "arn:aws:s3:::versions/segloop/store/29.1/champion.json")
    assert allows(elsewhere, "s3:ListBucket", "arn:aws:s3:::versions")
    assert not allows(elsewhere, "s3:GetObject", "arn:aws:s3:::versions/other")


def test_the_pipeline_passes_one_role_to_sagemaker() -> None:
    (passes,) = [one for one in statements(stack(), "PipelineRole") if one["Action"] == "iam:PassRole"]
    assert passes["Resource"] == "arn:aws:test:::TrainingRole.Arn"
    assert passes["Condition"] == {"StringEquals": {"iam:PassedToService": "sagemaker.amazonaws.com"}}


def test_the_queue_takes_the_rules_messages_alone() -> None:
    template = stack()
    allowed, denied = template.resource("EventQueuePolicy")["PolicyDocument"]["Statement"]
    assert allowed["Principal"] == {"Service": "events.amazonaws.com"}
    assert allowed["Condition"] == {"ArnEquals": {"aws:SourceArn": "arn:aws:test:::TrainingEvents.Arn"}}
    assert denied["Condition"] == {"Bool": {"aws:SecureTransport": "false"}}
    assert template.resource("EventQueue")["SqsManagedSseEnabled"] is True


@pytest.mark.slow
def test_its_training_is_segloops_own() -> None:
    """Entry point and metrics are those of the training jobs that segloop creates itself."""
    settings = Settings(sagemaker_role="arn:aws:iam::123456789012:role/x", sagemaker_image=IMAGE)
    inputs = {"snapshot": "s3://b/s/", "code": "s3://b/c/"}
    own = training_job(settings, "us-east-1", JobSpec("n", "r", inputs, {}, "s3://b/o/", "s3://b/k/"))
    arguments = definition()["Steps"][0]["Arguments"]
    assert arguments["AlgorithmSpecification"] == own["AlgorithmSpecification"]
    assert len(arguments["AlgorithmSpecification"]["MetricDefinitions"]) == len(METRICS)
    assert arguments["StoppingCondition"] == own["StoppingCondition"]
    assert RUN not in arguments["HyperParameters"]
    assert all(len(value) <= 256 for value in arguments["HyperParameters"].values() if isinstance(value, str))


def test_a_registered_model_has_the_container_of_an_endpoint() -> None:
    role = "arn:aws:iam::123456789012:role/x"
    settings = Settings(_env_file=None, sagemaker_role=role)
    archive = {"Get": "Steps.Train.ModelArtifacts.S3ModelArtifacts"}
    model = requests_of(settings, "us-east-1", EndpointSpec("street"), toy_info(), "s3://b/model.tar.gz").model
    [container] = register()["InferenceSpecification"]["Containers"]
    assert container == {**model["PrimaryContainer"], "ModelDataUrl": archive}
    own = "123456789012.dkr.ecr.us-east-1.amazonaws.com/own/image:1"
    given = {"InferenceImage": own, "InferenceRepository": "own/image"}
    [container] = register(**given)["InferenceSpecification"]["Containers"]
    assert container["Image"] == own
    arn = "arn:aws:ecr:us-east-1:123456789012:repository/own/image"
    assert allows(statements(stack(**given), "PipelineRole"), "ecr:BatchGetImage", arn)


def register(**parameters: str) -> Any:
    """The arguments of the step that registers a model."""
    return definition(**parameters)["Steps"][1]["Arguments"]["IfSteps"][0]["Arguments"]


def test_options_of_the_training() -> None:
    spot = definition(UseSpot="true", MaxWaitSeconds="20000", WheelsUri="s3://artifacts/wheels/", **STORE)
    arguments = spot["Steps"][0]["Arguments"]
    assert arguments["EnableManagedSpotTraining"] is True
    assert arguments["StoppingCondition"] == {"MaxWaitTimeInSeconds": 20000, "MaxRuntimeInSeconds": 14400}
    assert [channel["ChannelName"] for channel in arguments["InputDataConfig"]] == ["wheels", "code"]
    assert arguments["HyperParameters"]["segloop_store"] == STORE["StoreUri"]
    assert register(ModelPackageGroupName="models")["ModelPackageGroupName"] == "models"
    assert stack(**STORE).outputs()["StoreUri"] == STORE["StoreUri"]
    assert stack().outputs()["StoreUri"] == "s3://artifacts/store"


# -- events

HYPERPARAMETERS = {"segloop_route": "segloop", "segloop_project": "29", "segloop_generation": "4"}


def event(hyperparameters: Any, status: str = "Completed", kind: str = "SageMaker Training Job State Change") -> str:
    detail = {"TrainingJobName": "pipelines-x", "TrainingJobStatus": status, "HyperParameters": hyperparameters}
    return json.dumps({"detail-type": kind, "detail": detail})


@pytest.mark.parametrize("status", ["InProgress", "Completed", "Failed", "Stopped"])
def test_an_event_of_the_route(status: str) -> None:
    assert parse_message(event(HYPERPARAMETERS, status)) == RouteTraining("pipelines-x", "segloop", 29, "4")


def test_an_event_of_a_run_of_segloops() -> None:
    assert parse_message(event({RUN: "retrain-7"})) == "retrain-7"
    assert parse_message(event({RUN: "retrain-7"}, "InProgress")) is None


@pytest.mark.parametrize(
    "body",
    [
        "hello",
        "[]",
        "null",
        "{}",
        event({}),
        event(None),
        event([1]),
        event(HYPERPARAMETERS, kind="another"),
        event("x"),
    ],
)
def test_other_messages_tell_nothing(body: str) -> None:
    assert parse_message(body) is None


@pytest.mark.parametrize("project", ["", "x", "-1", "29.1", "٣", None])
def test_a_route_training_names_a_project(project: Any) -> None:
    assert route_training("job", {**HYPERPARAMETERS, "segloop_project": project}) is None


# -- the container's entry


def test_the_images_own_sdk_is_left_alone() -> None:
    text = "boto3==0.0.1 \\\n    --hash=sha256:00\nsix==0.0.1 \\\n    --hash=sha256:11\nno-such-thing==1.0 \\\n    --hash=sha256:22\n"
    assert "boto3" in entry.lacking(text)
    left = entry.lacking(text, entry.AWS_SDK)
    assert "boto3" not in left
    assert "six" not in left
    assert "no-such-thing==1.0" in left


@pytest.mark.parametrize(
    ("info", "always", "expected"),
    [
        ({"metrics": {"miou": 0.625}}, False, '{"phase": "trained", "miou": 0.625}'),
        ({"metrics": {"miou": None}}, True, '{"phase": "trained", "miou": 0.0}'),
        ({"metrics": {"miou": None}}, False, ""),
        (None, False, ""),
    ],
)
def test_the_last_line_tells_the_models_miou(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    info: Any,
    always: bool,
    expected: str,
) -> None:
    monkeypatch.setattr(entry, "BASE", tmp_path)
    (tmp_path / "model").mkdir()
    if info is not None:
        (tmp_path / "model" / "version.json").write_text(json.dumps(info), "utf-8")
    entry.tell_result(always)
    assert capsys.readouterr().out.removeprefix(f"{entry.PROGRESS} ").strip() == expected


@pytest.mark.parametrize(
    ("channel", "has_model", "expected"),
    [(True, True, set(entry.INFERENCE)), (True, False, set()), (False, True, set())],
)
def test_the_endpoints_code_goes_with_the_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, channel: bool, has_model: bool, expected: set[str]
) -> None:
    """Where the code channel has it, and on the host alone that has the model."""
    code, model = tmp_path / "code", tmp_path / "model"
    for folder in (code, model):
        folder.mkdir()
    monkeypatch.setattr(entry, "BASE", tmp_path)
    monkeypatch.setattr(entry, "CODE", code)
    for name in ("train.py", "segloop.zip", *(inference_files() if channel else ())):
        (code / name).write_text(name, "utf-8")
    if has_model:
        (model / "version.json").write_text("{}", "utf-8")
    entry.add_inference()
    found = {path.relative_to(model).as_posix(): path for path in (model / "code").glob("*")}
    assert found.keys() == expected
    assert all(found[name].read_text("utf-8") == entry.INFERENCE[name] for name in found)


# -- the route counts, segloop does not


def test_no_number_of_changes_begins_a_full_retrain() -> None:
    never = Thresholds(0, 10)
    many = Changes(10_000, 3)
    kept = should_retrain(event="annotations", changes=many, thresholds=never, live=None, has_backbone=True)
    assert (kept.act, kept.reason.endswith("no number of them begins a retrain.")) == (False, True)
    again = should_rerun(changes=many, thresholds=never, requested=False, ended="full", has_backbone=True)
    assert not again.act
    quick = should_retrain(
        event="annotations", changes=Changes(10_000, 10), thresholds=never, live=None, has_backbone=True
    )
    assert (quick.act, quick.recipe) == (True, "quick")
    pressed = should_retrain(event="start", changes=many, thresholds=never, live=None, has_backbone=True)
    assert (pressed.act, pressed.recipe) == (True, "full")
