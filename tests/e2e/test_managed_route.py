"""The managed route, whole: from images in S3 to predictions of a version that its pipeline trained.

Real are Label Studio, segloop with its workers, the functions of aws/webhook and the training. ministack stands for
CloudFormation, API Gateway, Lambda, SQS, DynamoDB and EventBridge, moto for S3, the emulator of this folder for SageMaker.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from pydantic import SecretStr

from demo.data import DemoData, Example, from_folder
from demo.label_studio import RunningLabelStudio
from demo.scenes import write_scenes
from demo.stack import RunningSegloop
from segloop.cli import main
from segloop.labelstudio import BackendSpec, Credentials, LabelStudio
from segloop.payloads import project_key
from segloop.registry import open_registry
from segloop.settings import Settings
from tests.aws.ministack import Ministack, Stack
from tests.aws.sagemaker_emulator import Emulator, emulated_aws, tell
from tests.e2e.browser import wait_for
from tests.e2e.loop import region, title_of

pytestmark = [pytest.mark.label_studio, pytest.mark.slow, pytest.mark.timeout(900)]

ROUTE = "street"
LABELLED, UNLABELLED = 12, 2
#: Annotations that start a training: two fewer than there will be, so that a second one must not start.
DUE = 10
KEYS = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_DEFAULT_REGION": "us-east-1"}
#: A training of seconds.
TINY = {"SEGLOOP_INPUT_SIZE": "64", "SEGLOOP_TRAIN_MIN_STEPS": "2", "SEGLOOP_ARCH": "fcn_resnet50"}


@dataclass
class World:
    """The account, and Label Studio beside it; `s3` is of moto."""

    ministack: Ministack
    emulator: Emulator
    label_studio: RunningLabelStudio
    folder: Path
    outputs: dict[str, str] = field(default_factory=dict)

    @property
    def s3(self) -> Any:
        return self.emulator.s3

    def aws(self, *arguments: str, **environment: str) -> Any:
        """What `segloop aws` says in JSON."""
        variables = {
            "LABEL_STUDIO_URL": self.label_studio.url,
            "LABEL_STUDIO_API_KEY": self.label_studio.api_key,
            "SEGLOOP_STORAGE_ACCESS_KEY_ID": "test",
            "SEGLOOP_STORAGE_SECRET_ACCESS_KEY": "test",
            **environment,
        }
        result = CliRunner(env=variables).invoke(main, ["aws", *arguments, "--name", ROUTE, "--json"])
        assert result.exit_code == 0, result.output
        return json.loads(result.stdout)

    def deploy(self) -> None:
        """Deploy the route; its buckets, with the code in them, are then also at moto, where the rest looks for them."""
        options = ("--annotations", str(DUE), "--weights", "none", "--epochs", "1", "--minimum-miou", "0")
        # a MaximumConcurrency that comes from a parameter is text to this ministack, and its poller then fails
        made = self.aws("deploy", *options, "--worker-concurrency", "0", AWS_ENDPOINT_URL_S3=self.ministack.url)
        self.outputs = made["outputs"]
        origin = self.ministack.client("s3")
        for name in ("SourceBucketName", "TargetBucketName", "ArtifactsBucketName"):
            self.s3.create_bucket(Bucket=self.outputs[name])
            for item in origin.list_objects_v2(Bucket=self.outputs[name]).get("Contents", []):
                body = origin.get_object(Bucket=self.outputs[name], Key=item["Key"])["Body"].read()
                self.s3.put_object(Bucket=self.outputs[name], Key=item["Key"], Body=body)
        events = self.ministack.client("events")
        self.emulator.told = lambda description: tell(events, description)

    def keys(self, bucket: str, prefix: str) -> list[str]:
        found = self.s3.list_objects_v2(Bucket=self.outputs[bucket], Prefix=prefix)
        return [item["Key"] for item in found.get("Contents", [])]

    def segloop(self) -> RunningSegloop:
        """A segloop that takes up what the route trains."""
        return RunningSegloop(
            self.folder,
            **{name.removeprefix("SEGLOOP_").lower(): value for name, value in TINY.items()},
            weights="none",
            label_studio_url=self.label_studio.url,
            label_studio_api_key=self.label_studio.api_key,
            guided_steps=0,
            suspects="off",
            # what is not told by an event is then too late for this test
            reconcile_s=3600,
            retrain_threshold=0,
            adapt_threshold=0,
            sagemaker_route=ROUTE,
            sagemaker_events=self.outputs["EventQueueUrl"],
            sagemaker_poll_s=1,
            store=self.outputs["StoreUri"],
            annotations_from=f"s3://{self.outputs['TargetBucketName']}/projects/{{project}}",
        )


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> DemoData:
    folder = tmp_path_factory.mktemp("scenes")
    write_scenes(folder, train=LABELLED, val=UNLABELLED, size=(96, 64))
    return from_folder(folder, LABELLED, UNLABELLED)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("route")
    with (
        emulated_aws(folder / "instances", "unused") as (emulator, _),
        Ministack(environment={"AWS_ENDPOINT_URL_SAGEMAKER": emulator.url}, sagemaker=True) as ministack,
        RunningLabelStudio() as label_studio,
        pytest.MonkeyPatch.context() as patch,
    ):
        reached = {"AWS_ENDPOINT_URL_S3": emulator.s3_url, **KEYS}
        emulator.environment = {**reached, **TINY}
        for name, value in reached.items():
            patch.setenv(name, value)
        patch.setenv("AWS_ENDPOINT_URL", ministack.url)
        patch.setenv("AWS_ENDPOINT_URL_SAGEMAKER", emulator.url)
        made = World(ministack, emulator, label_studio, folder)
        made.deploy()
        yield made
        for log in (folder / "segloop.log", ministack.log):
            print(log.read_text(errors="replace")[-6000:])


def test_from_images_in_s3_to_predictions_of_a_trained_version(world: World, data: DemoData) -> None:
    project = world.label_studio.create_project("street", data.label_config)
    ident, key = int(project["id"]), project_key(project)
    for example in (*data.train, *data.val):
        name = f"projects/{ident}/{name_of(example)}"
        world.s3.put_object(Bucket=world.outputs["SourceBucketName"], Key=name, Body=example.image.read_bytes())
    stack = Stack(world.ministack, ROUTE)
    with world.segloop() as segloop, world.label_studio.client() as http:
        api = LabelStudio(
            world.label_studio.url, Credentials(world.label_studio.url, SecretStr(world.label_studio.api_key))
        )
        spec = BackendSpec(
            segloop.url,
            "segloop",
            basic_auth=(segloop.user, SecretStr(segloop.password)),
            webhook_secret=SecretStr(segloop.secret),
        )
        backend = api.backends.connect(ident, spec).backend
        api.close()
        place = ("--project", str(ident), "--s3-endpoint", world.emulator.s3_url, "--webhook-url", stack.webhook_url)
        done = {item["what"]: item for item in world.aws("connect", *place)}
        assert done["source storage"]["synced"] == LABELLED + UNLABELLED
        tasks = tasks_of(http, ident)

        refuse_strangers(world, stack, project)
        ids = annotate(world, data, tasks)
        assert sorted(world.keys("TargetBucketName", "projects/")) == sorted(f"projects/{ident}/{one}" for one in ids)

        version = promoted(world, key, segloop)
        wait_for("the title in Label Studio", lambda: title_of(http, ident, backend["id"]) == version)
        for example in data.val:
            task = tasks[name_of(example)]
            [prediction] = wait_for(f"a prediction of task {task}", lambda task=task: predictions(http, task))
            assert prediction["model_version"] == version
            assert 0 <= prediction["score"] <= 1
        assert "Traceback" not in segloop.log.read_text(errors="replace")
    look_back(world, key)


def refuse_strangers(world: World, stack: Stack, project: dict[str, Any]) -> None:
    """Who does not know the secret gets 401, and nothing is counted. The functions are warm after this."""
    event = {"action": "ANNOTATION_CREATED", "project": project, "annotation": {"id": 1}, "task": {"id": 1}}
    for headers in ({"X-Segloop-Secret": "wrong"}, {"X-Other": "none"}):
        assert stack.post(event, **headers).status_code == 401
    assert stack.post({"action": "PROJECT_UPDATED", "project": project}).status_code < 300
    found = world.aws("status")
    assert (found["projects"], found["queue"], found["last_error"]) == ([], {"waiting": 0, "in_flight": 0}, "")


def annotate(world: World, data: DemoData, tasks: dict[str, int]) -> list[int]:
    """Submit the truth of the scenes for training; the annotations' ids."""
    ids = []
    for example in data.train:
        truth = example.truth(len(data.classes))
        regions = [region(truth, index, name) for index, name in enumerate(data.classes, 1)]
        ids.append(int(world.label_studio.submit_annotation(tasks[name_of(example)], regions)["id"]))
    return ids


def promoted(world: World, key: str, segloop: RunningSegloop) -> str:
    """The version that segloop promotes once the pipeline has trained it."""
    registry = open_registry(Settings(store=world.outputs["StoreUri"]))

    def served() -> str | None:
        for execution in world.emulator.flow.executions.values():
            jobs = [job.log[-20:] for job in world.emulator.jobs.values()]
            assert execution.status in ("Executing", "Succeeded"), (execution, jobs)
        champion = registry.champion(key)
        return None if champion is None else champion.version

    return wait_for("a promoted version", served)


def look_back(world: World, key: str) -> None:
    """One launch of ten, two annotations left; one execution, whose model is registered; no letter is dead."""
    found = wait_for("the end of the execution", lambda: ended(world.aws("status")))
    assert found["projects"] == [{"project": key, "pending": LABELLED - DUE, "counted": LABELLED, "generation": 1}]
    assert [(launch["project"], launch["generation"]) for launch in found["launches"]] == [(key, 1)]
    assert [execution["status"] for execution in found["executions"]] == ["Succeeded"]
    assert (found["dead_letters"]["waiting"], found["last_error"]) == (0, "")
    (package,) = world.emulator.flow.groups[ROUTE]
    assert package["CustomerMetadataProperties"] == {"project": key.partition(".")[0], "generation": "1"}


def ended(found: dict[str, Any]) -> dict[str, Any] | None:
    return None if any(execution["status"] == "Executing" for execution in found["executions"]) else found


def tasks_of(http: Any, ident: int) -> dict[str, int]:
    """Ids of the tasks by the names of their images, each with its folder."""
    answer = http.get("/api/tasks/", params={"project": ident, "page_size": 100, "resolve_uri": False})
    tasks = answer.raise_for_status().json()["tasks"]
    return {"/".join(task["data"]["image"].split("/")[-2:]): task["id"] for task in tasks}


def name_of(example: Example) -> str:
    """An example's image in the source bucket, below its project."""
    return f"{example.image.parents[1].name}/{example.image.name}"


def predictions(http: Any, task: int) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = http.get("/api/predictions/", params={"task": task}).raise_for_status().json()
    return found
