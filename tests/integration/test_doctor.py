"""`segloop connect` and `segloop doctor` on a real Label Studio and a real segloop, broken in every way that is silent."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
from PIL import Image

from demo.label_studio import RunningLabelStudio
from demo.stack import RunningSegloop
from segloop.doctor import Examination
from segloop.labelstudio import ANNOTATION_ACTIONS, SECRET_HEADER
from segloop.registry import open_registry
from segloop.settings import Settings
from tests.aws.moto_server import running_moto
from tests.connected import CONFIG, MACHINE, Delayed, Stack
from tests.toys import toy_bundle

pytestmark = [pytest.mark.label_studio, pytest.mark.slow]


@pytest.fixture(scope="module")
def stack(running: RunningLabelStudio, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    folder = tmp_path_factory.mktemp("doctor")
    own = {"label_studio_url": running.url, "label_studio_api_key": running.api_key}
    with RunningSegloop(folder, weights="none", threads=8, **own) as segloop:
        stack = Stack(running, segloop, folder)
        yield stack
        stack.http.close()


@pytest.fixture(scope="module")
def project(stack: Stack) -> int:
    """A project that is connected, and that each test leaves as it was."""
    number = stack.project()
    stack.connect(number)
    return number


# -- connect


def test_connecting_twice_changes_nothing_the_second_time(stack: Stack) -> None:
    number = stack.project("connected twice")
    first = stack.connect(number)
    assert (first["backend"]["done"], first["webhook"]["done"]) == ("added", "updated")
    assert first["sampling"] == {"before": "Sequential sampling", "after": "Uncertainty sampling"}
    second = stack.connect(number)
    assert (second["backend"]["done"], second["backend"]["changed"]) == ("unchanged", [])
    assert second["webhook"] == {"id": first["webhook"]["id"], "done": "unchanged", "changed": []}
    assert second["warnings"] == []

    (entry,) = stack.http.get("/api/ml/", params={"project": number}).json()
    assert (entry["url"], entry["title"], entry["is_interactive"]) == (stack.segloop.url, "untrained", True)
    assert (entry["auth_method"], entry["basic_auth_user"]) == ("BASIC_AUTH", "segloop")
    assert stack.http.get(f"/api/projects/{number}/").json()["model_version"] == "untrained"
    webhook = stack.webhook(number)
    assert webhook["headers"] == {SECRET_HEADER: stack.segloop.secret}
    assert sorted(webhook["actions"]) == sorted(ANNOTATION_ACTIONS)

    third = stack.run("connect", "-p", str(number), "--no-interactive", "--sampling", "uniform")
    assert f"backend {stack.segloop.url}: updated (is_interactive); it serves untrained" in third.stdout
    assert "sampling: Uniform sampling (was Uncertainty sampling)" in third.stdout
    stack.no_secret_in(third.output)


@pytest.mark.parametrize(
    ("arguments", "environment", "message"),
    [
        (["-p", "99999"], {}, "answered 404"),
        (["-p", "1", "--url", "segloop:9090"], {}, "must begin with http://"),
        (["-p", "1"], {"SEGLOOP_LABEL_STUDIO_API_KEY": ""}, "LABEL_STUDIO_API_KEY is not set"),
        (["-p", "1", "--label-studio-url", "http://127.0.0.1:9"], {}, "cannot be reached"),
        (["-p", "1", "--url", "http://127.0.0.1:9"], {}, "Can't connect to ML backend"),
    ],
)
def test_what_cannot_be_connected_says_why(
    stack: Stack, project: int, arguments: list[str], environment: dict[str, str], message: str
) -> None:
    result = stack.run("connect", *(str(project) if part == "1" else part for part in arguments), **environment)
    assert result.exit_code in (1, 2)
    assert message in result.output
    assert "Traceback" not in result.output
    stack.no_secret_in(result.output)


NO_IMAGE = '<View><Text name="text" value="$text"/><Choices name="c" toName="text"><Choice value="a"/></Choices></View>'


def test_connecting_a_project_without_an_image_tag_says_what_doctor_says(stack: Stack) -> None:
    number = int(stack.running.create_project("texts", NO_IMAGE)["id"])
    result = stack.run("connect", "-p", str(number))
    found = stack.look(number)["label-config"]
    assert result.exit_code == 1
    assert found.text in result.output
    assert "no Image tag" in found.text
    assert found.fix in result.output
    assert stack.http.get("/api/ml/", params={"project": number}).json() == []


def test_label_studio_shows_why_a_setup_was_refused(stack: Stack) -> None:
    number = int(stack.running.create_project("texts by hand", NO_IMAGE)["id"])
    entry = {
        "project": number,
        "url": stack.segloop.url,
        "title": "segloop",
        "auth_method": "BASIC_AUTH",
        "basic_auth_user": stack.segloop.user,
    }
    refused = stack.http.post("/api/ml/", json={**entry, "basic_auth_pass": stack.segloop.password})
    assert refused.status_code == 400
    assert "400 Client Error" in refused.text, "the password went along to the second address"
    assert "/setup/The-label-config-has-no-Image-tag;-add-one-such-as-Image-name=" in refused.text
    refused = stack.http.post("/api/ml/", json={**entry, "basic_auth_pass": "wrong"})
    assert "/setup/Wrong-user-or-password" in refused.text

    # what the page of settings shows of a project whose labeling setup was changed later
    number = stack.project("changed later")
    stack.connect(number)
    stack.patch(f"/api/projects/{number}/", label_config=NO_IMAGE)
    [shown] = stack.http.get("/api/ml/", params={"project": number}).json()
    assert "no-Image-tag" in shown["error_message"]


# -- doctor


def test_all_is_well(stack: Stack, project: int) -> None:
    assert stack.look(project) == {}
    result = stack.run("doctor", "--project", str(project), "--json")
    report = json.loads(result.stdout)
    assert report["format"] == 1
    assert result.exit_code == (0 if report["ok"] else 1)
    assert all(set(finding) == {"check", "status", "text", "fix", "project"} for finding in report["findings"])
    bad = {finding["check"] for finding in report["findings"] if finding["status"] in ("warning", "failure")}
    assert bad <= MACHINE
    stack.no_secret_in(result.output)


def test_every_known_project_is_looked_at(stack: Stack, project: int) -> None:
    findings = Examination(stack.settings).run()
    assert project in {finding.project for finding in findings}


@pytest.mark.parametrize(
    ("key", "status", "text"),
    [
        ("", "failure", "is not set"),
        ("a.b.c", "failure", "refuses the personal access token"),
        ("0" * 40, "failure", "refuses the legacy token"),
        ("legacy", "warning", "switches such tokens off"),
    ],
)
def test_a_token_that_does_not_do(stack: Stack, project: int, key: str, status: str, text: str) -> None:
    secret = Settings(label_studio_api_key=stack.running.token if key == "legacy" else key).label_studio_api_key
    found = stack.look(project, label_studio_api_key=secret)
    assert set(found) == {"token"}
    assert (found["token"].status, text in found["token"].text) == (status, True)


def test_label_studio_is_away(stack: Stack, project: int) -> None:
    found = stack.look(project, label_studio_url="http://127.0.0.1:9")
    assert set(found) == {"label-studio"}
    assert "LABEL_STUDIO_URL" in found["label-studio"].fix
    result = stack.run("doctor", "--label-studio-url", "http://127.0.0.1:9")
    assert result.exit_code == 1
    assert "Failures: 1" in result.stdout


def without_webhook(stack: Stack, project: int) -> None:
    stack.http.delete(f"/api/webhooks/{stack.webhook(project)['id']}/").raise_for_status()


def webhook_with(**fields: Any) -> Callable[[Stack, int], None]:
    def change(stack: Stack, project: int) -> None:
        webhook = stack.webhook(project)
        stack.patch(f"/api/webhooks/{webhook['id']}/", **{"actions": webhook["actions"], **fields})

    return change


def other_title(stack: Stack, project: int) -> None:
    (entry,) = stack.http.get("/api/ml/", params={"project": project}).json()
    login = {"auth_method": "BASIC_AUTH", "basic_auth_user": "segloop", "basic_auth_pass": ""}
    fields = {"url": entry["url"], "project": project, "title": "My model", **login}
    stack.patch(f"/api/ml/{entry['id']}", **fields)


def other_model_version(stack: Stack, project: int) -> None:
    task = stack.http.get("/api/tasks/", params={"project": project, "page_size": 1}).json()["tasks"][0]["id"]
    prediction = {"task": task, "result": [], "model_version": "another"}
    stack.http.post("/api/predictions/", json=prediction).raise_for_status()
    stack.patch(f"/api/projects/{project}/", model_version="another")


def without_backend(stack: Stack, project: int) -> None:
    (entry,) = stack.http.get("/api/ml/", params={"project": project}).json()
    stack.http.delete(f"/api/ml/{entry['id']}").raise_for_status()


@pytest.mark.parametrize(
    ("break_it", "expected", "text"),
    [
        (without_webhook, {"webhook": "failure"}, "no webhook"),
        (webhook_with(is_active=False), {"webhook": "failure"}, "switched off"),
        (webhook_with(send_payload=False), {"webhook": "failure"}, "no payload"),
        (webhook_with(headers={}), {"webhook-secret": "failure"}, "no header X-Segloop-Secret"),
        (webhook_with(headers={SECRET_HEADER: "old"}), {"webhook-secret": "failure"}, "is not SEGLOOP_WEBHOOK_SECRET"),
        (webhook_with(actions=["ANNOTATION_CREATED"]), {"webhook-actions": "failure"}, "ANNOTATION_UPDATED"),
        (webhook_with(send_for_all_actions=True), {"webhook-actions": "warning"}, "every event"),
        (other_title, {"title": "failure"}, "the backend's title is 'My model'"),
        (other_model_version, {"title": "failure"}, "shows predictions of 'another'"),
        (without_backend, {"backend": "failure"}, "no ML backend"),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_a_broken_connection_is_found_and_connect_mends_it(
    stack: Stack, project: int, break_it: Callable[[Stack, int], None], expected: dict[str, str], text: str
) -> None:
    break_it(stack, project)
    found = stack.look(project)
    try:
        assert {check: finding.status for check, finding in found.items()} == expected
        (finding,) = found.values()
        assert text in finding.text
        assert finding.project == project
        assert f"segloop connect --project {project}" in finding.fix
    finally:
        # that it mends everything, the next one of these tests sees
        stack.connect(project)


def test_a_host_without_a_dot_gets_no_webhook(stack: Stack) -> None:
    number = stack.project("no dot")
    # 127.0.0.1 as one number: a host that can be reached, and that has no dot
    url = f"http://2130706433:{stack.segloop.port}"
    result = stack.connect(number, "--url", url)
    assert result["webhook"] is None
    assert ["no dot" in text for text in result["warnings"]] == [True]
    found = stack.look(number)
    assert {check: finding.status for check, finding in found.items()} == {
        "backend-address": "failure",
        "webhook": "failure",
    }
    assert "Enter a valid URL" in found["backend-address"].text


@pytest.mark.parametrize("blocks_backends", [False, True])
def test_private_addresses_that_label_studio_blocks(stack: Stack, blocks_backends: bool) -> None:
    protections = {
        "LABEL_STUDIO_SSRF_PROTECTION_ENABLED": "true",
        "LABEL_STUDIO_ML_BLOCK_LOCAL_IP": str(blocks_backends).lower(),
    }
    with RunningLabelStudio(environment=protections) as guarded:
        own = {"SEGLOOP_LABEL_STUDIO_URL": guarded.url, "SEGLOOP_LABEL_STUDIO_API_KEY": guarded.api_key}
        number = int(guarded.create_project("guarded", CONFIG)["id"])
        result = stack.run("connect", "--project", str(number), **own)
        assert "blocks those" in result.output
        assert " SSRF_PROTECTION_ENABLED=false" in result.output
        assert result.exit_code == (1 if blocks_backends else 0)
        with guarded.client() as client:
            assert len(client.get("/api/ml/", params={"project": number}).json()) == (0 if blocks_backends else 1)
        found = stack.look(
            number, label_studio_url=guarded.url, label_studio_api_key=Settings(**lower(own)).label_studio_api_key
        )
    assert {check: finding.status for check, finding in found.items()} == {
        "private-addresses": "failure",
        ("backend" if blocks_backends else "webhook"): "failure",
    }
    assert ("ML_BLOCK_LOCAL_IP=false" in found["private-addresses"].fix) == blocks_backends


def lower(environment: dict[str, str]) -> dict[str, str]:
    return {name.removeprefix("SEGLOOP_").lower(): value for name, value in environment.items()}


def test_a_slow_server_and_one_that_is_gone(stack: Stack) -> None:
    number = stack.project("slow")
    delayed = Delayed(stack.segloop.url)
    try:
        stack.connect(number, "--url", delayed.url)
        delayed.seconds = 1.8
        findings = Examination(stack.settings).run(number)
        slow = next(finding for finding in findings if finding.check == "setup-time")
        assert slow.status in ("warning", "failure")
        assert "Label Studio waits 3 s" in slow.text
        assert "ML_TIMEOUT_SETUP" in slow.fix
    finally:
        delayed.close()
    found = stack.look(number)
    assert {check: finding.status for check, finding in found.items()} == {"backend": "failure"}
    assert "gets no answer" in found["backend"].text


def test_a_server_with_other_secrets(stack: Stack, project: int) -> None:
    other = Settings(basic_auth_pass="other", webhook_secret=stack.segloop.secret)
    findings = Examination(stack.settings.model_copy(update={"basic_auth_pass": other.basic_auth_pass})).run(project)
    refused = {finding.check for finding in findings if "(401)" in finding.text}
    assert refused == {"setup-time", "predict-time"}


def test_a_project_that_shows_no_predictions(stack: Stack, project: int) -> None:
    stack.patch(f"/api/projects/{project}/", show_collab_predictions=False)
    found = stack.look(project)
    stack.patch(f"/api/projects/{project}/", show_collab_predictions=True)
    # Label Studio may have forgotten meanwhile whose predictions it shows
    assert stack.connect(project)["model_version"]["after"] == "untrained"
    assert {check: finding.status for check, finding in found.items()} == {"live-predictions": "warning"}


def test_a_label_config_that_cannot_be_used(stack: Stack) -> None:
    number = stack.project("choices")
    stack.connect(number)
    choices = """<View><Image name="image" value="$image"/>
    <Choices name="c" toName="image"><Choice value="a"/></Choices></View>"""
    stack.patch(f"/api/projects/{number}/", label_config=choices)
    found = stack.look(number)
    assert {check: finding.status for check, finding in found.items()} == {
        "label-config": "failure",
        "backend": "failure",
    }
    assert "Labeling Interface" in found["label-config"].fix


def test_labels_that_the_config_does_not_have(stack: Stack) -> None:
    number = stack.project("imports")
    stack.connect(number)
    shape = {"type": "brushlabels", "from_name": "brush", "original_width": 32, "original_height": 24}
    regions = [
        {**shape, "id": name, "to_name": to_name, "value": {"format": "rle", "rle": [0], "brushlabels": [name]}}
        for name, to_name in (("Sky", "image"), ("sky", "image"), ("Road", "img"))
    ]
    task = {"data": {"image": "/data/upload/1/gone.png"}, "annotations": [{"result": regions}]}
    stack.http.post(f"/api/projects/{number}/import", json=[task]).raise_for_status()
    found = stack.look(number)
    assert {check: finding.status for check, finding in found.items()} == {"labels": "warning"}
    assert "the label 'sky' is not in the label config, which has 'Sky'" in found["labels"].text
    assert "'img' is no tag of the label config" in found["labels"].text
    assert "Labeling Interface" in found["labels"].fix


@pytest.mark.parametrize(
    ("address", "text", "fix"),
    [
        ("http://127.0.0.1:9/a.png", "private address", "SEGLOOP_IMAGE_HOSTS"),
        ("/data/upload/1/gone.png", "gone.png answered", "LABEL_STUDIO_API_KEY"),
        ("ftp://example.org/a.png", "not an address that images are fetched from", "SEGLOOP_IMAGE_HOSTS"),
    ],
)
def test_an_image_that_cannot_be_had(stack: Stack, address: str, text: str, fix: str) -> None:
    number = int(stack.running.create_project("no image", CONFIG)["id"])
    stack.http.post(f"/api/projects/{number}/import", json=[{"image": address}]).raise_for_status()
    stack.connect(number)
    found = stack.look(number)
    assert {check: finding.status for check, finding in found.items()} == {"image": "failure"}
    assert (text in found["image"].text, fix in found["image"].fix) == (True, True)


@pytest.mark.parametrize("hosts", ["", "localhost"])
def test_label_studio_under_two_names(stack: Stack, hosts: str) -> None:
    """Whether or not the public address may be asked, it does not know the key."""
    number = stack.project("two names")
    public = f"http://localhost:{stack.running.port}"
    (task,) = stack.http.get("/api/tasks/", params={"project": number}).json()["tasks"]
    stack.patch(f"/api/tasks/{task['id']}/", data={"image": f"{public}{task['data']['image']}"})
    stack.connect(number)
    found = stack.look(number, image_hosts=tuple(hosts.split()))
    assert {check: finding.status for check, finding in found.items()} == {"image": "failure"}
    assert f"{public} looks like Label Studio under another name than {stack.running.url}" in found["image"].fix
    assert f"set SEGLOOP_LABEL_STUDIO_PUBLIC_URL={public}" in found["image"].fix
    assert stack.look(number, image_hosts=tuple(hosts.split()), label_studio_public_url=public) == {}


def test_versions_that_are_not_what_answers(stack: Stack, project: int, tmp_path: Path) -> None:
    settings = stack.settings
    elsewhere = settings.model_copy(update={"store": str(tmp_path / "store")})
    registry = open_registry(elsewhere)
    key = next(key for key in open_registry(settings).projects() if key.startswith(f"{project}."))
    version = registry.add(key, *toy_bundle(tmp_path / "bundle"))
    registry.promote(key, version, "test")
    found = stack.look(project, store=elsewhere.store)
    assert {check: finding.status for check, finding in found.items()} == {"served-version": "failure"}
    assert f"{version}, but the server answers with untrained" in found["served-version"].text

    (weights,) = (tmp_path / "store").rglob("model.safetensors")
    weights.write_bytes(b"damaged")
    found = stack.look(project, store=elsewhere.store)
    assert set(found) == {"served-version", "engine"}
    assert "cannot be served" in found["engine"].text


def test_a_queue_that_is_away_or_that_nobody_works_on(stack: Stack, project: int, redis_url: str) -> None:
    found = stack.look(project, redis_url="redis://127.0.0.1:9")
    assert {check: finding.status for check, finding in found.items()} == {"redis": "failure"}
    found = stack.look(project, redis_url=redis_url)
    assert {check: finding.status for check, finding in found.items()} == {"workers": "failure"}
    assert "segloop-retrain" in found["workers"].text


CORS = {"CORSRules": [{"AllowedOrigins": ["*"], "AllowedMethods": ["GET"], "AllowedHeaders": ["*"]}]}


def test_images_in_s3(stack: Stack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # moto's server lets every site read everything, whatever a bucket's own rules say
    monkeypatch.setattr("moto.moto_server.werkzeug_app.DISABLE_GLOBAL_CORS", True)
    keys = {"aws_access_key_id": "test", "aws_secret_access_key": "test"}
    place = {"LocationConstraint": "eu-central-1"}
    with running_moto() as url:
        s3 = boto3.client("s3", endpoint_url=url, region_name="eu-central-1", **keys)
        s3.create_bucket(Bucket="streets", CreateBucketConfiguration=place)
        Image.new("RGB", (32, 24)).save(tmp_path / "a.png")
        s3.upload_file(str(tmp_path / "a.png"), "streets", "a.png")
        number = int(stack.running.create_project("in S3", CONFIG)["id"])
        storage = {"project": number, "bucket": "streets", "s3_endpoint": url, "presign": True}
        made = stack.http.post("/api/storages/s3", json={**storage, **keys, "region_name": "us-east-1"})
        made.raise_for_status()
        stack.http.post(f"/api/projects/{number}/import", json=[{"image": "s3://streets/a.png"}]).raise_for_status()
        stack.connect(number)

        found = stack.look(number, image_hosts=("127.0.0.1",))
        assert {check: finding.status for check, finding in found.items()} == {
            "s3-region": "failure",
            "s3-cors": "failure",
        }
        assert "is in eu-central-1" in found["s3-region"].text
        assert stack.running.url in found["s3-cors"].fix
        assert "Signature" not in repr(found)

        s3.put_bucket_cors(Bucket="streets", CORSConfiguration=CORS)
        stack.patch(f"/api/storages/s3/{made.json()['id']}", region_name="eu-central-1")
        assert stack.look(number, image_hosts=("127.0.0.1",)) == {}
