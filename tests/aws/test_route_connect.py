"""segloop aws connect: a real Label Studio, its storages on an S3 server of moto, the route's stack on a real ministack."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import boto3
import pytest
from click.testing import CliRunner, Result

from demo.label_studio import RunningLabelStudio
from segloop.cli import main
from segloop.labelstudio import SECRET_HEADER, LabelStudio
from segloop.payloads import project_key
from tests.aws.ministack import Ministack, Stack
from tests.aws.moto_server import running_moto
from tests.labelling import CONFIG, half

pytestmark = [pytest.mark.label_studio, pytest.mark.slow]

KEYS = {"aws_access_key_id": "test", "aws_secret_access_key": "test"}


@dataclass
class Route:
    """A route whose buckets are moto's, and the command line beside a Label Studio."""

    stack: Stack
    s3: Any
    s3_url: str
    label_studio: RunningLabelStudio

    def run(self, project: int, *arguments: str, **environment: str) -> Result:
        variables = {
            "AWS_ENDPOINT_URL": self.stack.ministack.url,
            "AWS_ENDPOINT_URL_S3": self.s3_url,
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": "test",
            "AWS_DEFAULT_REGION": "us-east-1",
            "LABEL_STUDIO_URL": self.label_studio.url,
            "LABEL_STUDIO_API_KEY": self.label_studio.api_key,
            "SEGLOOP_STORAGE_ACCESS_KEY_ID": "label-studio",
            "SEGLOOP_STORAGE_SECRET_ACCESS_KEY": "secret-of-label-studio",
            **environment,
        }
        given = ["--name", self.stack.name, "--project", str(project), "--s3-endpoint", self.s3_url, *arguments]
        return CliRunner(env=variables).invoke(main, ["aws", "connect", *given])

    def connect(self, project: int, *arguments: str) -> dict[str, dict[str, Any]]:
        """What was done, by what it was done to."""
        result = self.run(project, *arguments, "--json")
        assert result.exit_code == 0, result.output
        return {item["what"]: item for item in json.loads(result.stdout)}

    def bucket(self, kind: str) -> str:
        return self.stack.outputs[f"{kind}BucketName"]

    def put(self, project: int, *names: str) -> None:
        for name in names:
            self.s3.put_object(Bucket=self.bucket("Source"), Key=f"projects/{project}/{name}", Body=b"x")


@pytest.fixture(scope="module")
def route(running: RunningLabelStudio) -> Iterator[Route]:
    with running_moto() as url, Ministack() as ministack:
        stack = ministack.deploy("street")
        s3 = boto3.client("s3", "us-east-1", endpoint_url=url, **KEYS)
        made = Route(stack, s3, url, running)
        for kind in ("Source", "Target", "Artifacts"):
            s3.create_bucket(Bucket=made.bucket(kind))
        yield made
        s3.close()


@pytest.fixture
def project(running: RunningLabelStudio) -> dict[str, Any]:
    return running.create_project("connected", CONFIG)


def doings(done: dict[str, dict[str, Any]]) -> dict[str, str]:
    return {what: item["done"] for what, item in done.items()}


def test_a_project_is_connected_once_and_then_left_alone(
    route: Route, running: RunningLabelStudio, studio: LabelStudio, project: dict[str, Any]
) -> None:
    ident = int(project["id"])
    route.put(ident, "a.png", "deeper/b.JPG", "notes.txt")
    first = route.connect(ident)
    assert set(doings(first).values()) == {"created"}
    assert first["source storage"]["synced"] == 2
    with running.client() as client:
        tasks = client.get("/api/tasks/", params={"project": ident, "resolve_uri": False}).json()["tasks"]
        place = f"s3://{route.bucket('Source')}/projects/{ident}"
        assert sorted(task["data"]["image"] for task in tasks) == [f"{place}/a.png", f"{place}/deeper/b.JPG"]
        (source,) = client.get("/api/storages/s3", params={"project": ident}).json()
        assert (source["presign"], source["presign_ttl"], source["region_name"]) == (True, 60, "us-east-1")

        kept = route.s3.get_object(Bucket=route.bucket("Artifacts"), Key=f"projects/{ident}/project.json")
        described = json.loads(kept["Body"].read())
        assert (described["project"], described["title"], described["key"]) == (
            ident,
            "connected",
            project_key(project),
        )
        assert described["label_config"] == project["label_config"]

        (webhook,) = studio.webhooks.all(ident)
        assert sorted(webhook["actions"]) == ["ANNOTATIONS_CREATED", "ANNOTATION_CREATED"]
        assert webhook["headers"] == {SECRET_HEADER: route.stack.secret}
        assert webhook["url"] == route.stack.outputs["WebhookUrl"]

        again = route.connect(ident)
        assert set(doings(again).values()) == {"unchanged"}
        assert (again["source storage"]["synced"], len(studio.webhooks.all(ident))) == (0, 1)

        annotation = running.submit_annotation(tasks[0]["id"], [half("Sky")])
        saved = route.s3.get_object(Bucket=route.bucket("Target"), Key=f"projects/{ident}/{annotation['id']}")
        assert json.loads(saved["Body"].read())["task"]["id"] == tasks[0]["id"]
        client.delete(f"/api/annotations/{annotation['id']}/").raise_for_status()
        left = route.s3.list_objects_v2(Bucket=route.bucket("Target"), Prefix=f"projects/{ident}/")
        assert left["KeyCount"] == 0


def test_what_differs_is_named_and_no_secret_is_shown(
    route: Route, running: RunningLabelStudio, project: dict[str, Any]
) -> None:
    ident = int(project["id"])
    # an empty folder is enough for Label Studio
    assert route.connect(ident)["source storage"]["synced"] == 0
    route.put(ident, "later.webp")
    with running.client() as client:
        client.patch(f"/api/projects/{ident}/", json={"title": "renamed"}).raise_for_status()
    result = route.run(ident, "--presign-minutes", "5", "--webhook-url", "https://hooks.example.org/LcWebHook")
    lines = result.stdout.splitlines()
    assert lines[0].startswith("source storage: updated (presign_ttl), s3://")
    assert lines[0].endswith("/, 1 synced")
    assert lines[1].startswith("target storage: unchanged, s3://")
    assert lines[2].startswith("description: updated (title), s3://")
    assert lines[3] == "webhook: created, https://hooks.example.org/LcWebHook"
    assert route.stack.secret not in result.output
    assert "secret-of-label-studio" not in result.output


@pytest.mark.parametrize(
    ("arguments", "environment", "message"),
    [
        (("--name", "nowhere"), {}, "there is no route nowhere in us-east-1: deploy it first, by segloop aws deploy"),
        (("--project", "999999"), {}, "answered 404 to GET /api/projects/999999/"),
        ((), {"SEGLOOP_STORAGE_SECRET_ACCESS_KEY": ""}, "SEGLOOP_STORAGE_SECRET_ACCESS_KEY go together"),
        (("--s3-endpoint", "http://127.0.0.1:9"), {}, "making the storage segloop street: images"),
        (("--presign-minutes", "0"), {}, "--presign-minutes 0: use 1 to 32767"),
        ((), {"LABEL_STUDIO_API_KEY": "wrong"}, "answered 401"),
        ((), {"LABEL_STUDIO_URL": "http://127.0.0.1:9"}, "cannot be reached"),
    ],
)
def test_a_mistake_is_one_line(
    route: Route, project: dict[str, Any], arguments: tuple[str, ...], environment: dict[str, str], message: str
) -> None:
    result = route.run(int(project["id"]), *arguments, **environment)
    assert result.exit_code == 1
    assert result.output.startswith("Error: ")
    assert message in result.output
    assert result.output.count("\n") == 1
