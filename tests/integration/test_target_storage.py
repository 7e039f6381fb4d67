"""Annotations from an S3 target storage, as Label Studio writes them, on a real S3 server of moto."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import boto3
import pytest

from demo.label_studio import RunningLabelStudio
from segloop.dataset import Mirror, sync_target
from segloop.errors import LabelStudioError, LabelStudioUnreachable, SettingsError
from segloop.labelstudio import TargetStorage
from segloop.settings import load_settings
from tests.aws.moto_server import running_moto
from tests.labelling import CONFIG, annotation, half
from worker.jobs.mirrors import open_mirror, sync_mirror

BUCKET = "annotations"
PROJECT_ID = 29


@pytest.fixture(scope="module")
def moto_server() -> Iterator[str]:
    with running_moto() as url:
        yield url


class Bucket:
    """The target storage's bucket, as Label Studio writes to it."""

    def __init__(self) -> None:
        self.client = boto3.client("s3")
        self.client.create_bucket(Bucket=BUCKET)

    def put(self, key: str, value: Any) -> None:
        body = value if isinstance(value, bytes) else json.dumps(value).encode()
        self.client.put_object(Bucket=BUCKET, Key=key, Body=body)

    def save(self, number: int, task: int, *regions: dict[str, Any], prefix: str = "out", **fields: Any) -> None:
        """An annotation, saved in the form of today: its id is the key, its task inside."""
        inside = {"id": task, "data": {"image": f"s3://photos/{task}.png"}, "project": PROJECT_ID}
        self.put(f"{prefix}/{number}", annotation(number, *regions, project=PROJECT_ID, **fields) | {"task": inside})

    def delete(self, *numbers: int) -> None:
        for number in numbers:
            self.client.delete_object(Bucket=BUCKET, Key=f"out/{number}")


@pytest.fixture
def bucket(moto_server: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bucket]:
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", moto_server)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    bucket = Bucket()
    yield bucket
    boto3.resource("s3").Bucket(BUCKET).objects.delete()


@pytest.fixture
def mirror(tmp_path: Path) -> Iterator[Mirror]:
    with Mirror(tmp_path) as mirror:
        yield mirror


@pytest.fixture
def target(bucket: Bucket) -> TargetStorage:
    return TargetStorage(f"s3://{BUCKET}/out", PROJECT_ID)


def mirrored(mirror: Mirror) -> dict[int, list[int]]:
    return {task["id"]: [one["id"] for one in task["annotations"]] for task in mirror.tasks()}


@pytest.mark.slow
def test_annotations_are_read_once_and_deletions_seen_by_absence(
    bucket: Bucket, target: TargetStorage, mirror: Mirror
) -> None:
    for number in range(1, 61):
        bucket.save(number, 100 + number % 50, half("Sky"))
    bucket.put("out/notes.txt", b"not an annotation")
    bucket.put("out/deeper/7", b"not here")
    told: list[str] = []
    synced = sync_target(mirror, target, lambda progress: told.append(progress["message"]))
    assert (synced.read, synced.dropped) == (60, 0)
    assert told[-1] == "Syncing: 60 annotations read"
    assert mirrored(mirror)[101] == [1, 51]
    task = mirror.get(101)
    assert task is not None
    assert task["data"] == {"image": "s3://photos/101.png"}
    assert task["annotations"][0]["result"] == [half("Sky")]
    revision = mirror.revision
    assert sync_target(mirror, target).read == 0
    assert mirror.changed_after(revision) == []

    bucket.save(1, 101, half("Road"))
    bucket.save(2, 102, was_cancelled=True)
    bucket.delete(51, 30)
    synced = sync_target(mirror, target)
    assert (synced.read, synced.dropped) == (2, 2)
    assert mirrored(mirror)[101] == [1]
    assert 130 not in mirrored(mirror)
    assert mirror.changed_after(revision) == [101, 102, 130]


def test_task_objects_and_their_suffix_are_read_too(bucket: Bucket, target: TargetStorage, mirror: Mirror) -> None:
    whole = {"id": 5, "data": {"image": "s3://photos/5.png"}, "project": PROJECT_ID}
    bucket.put("out/5.json", {**whole, "annotations": [annotation(1), annotation(2, half("Sky"))]})
    bucket.put("out/6", {**whole, "id": 6, "annotations": [annotation(3)]})
    sync_target(mirror, target)
    assert mirrored(mirror) == {5: [1, 2], 6: [3]}
    bucket.put("out/5.json", {**whole, "annotations": [annotation(2, half("Road"))]})
    sync_target(mirror, target)
    assert mirrored(mirror) == {5: [2], 6: [3]}


def test_a_storage_whose_form_was_changed_has_annotations_twice(
    bucket: Bucket, target: TargetStorage, mirror: Mirror
) -> None:
    """The objects of annotations stay where FUTURE_SAVE_TASK_TO_STORAGE is set later, and somebody may remove them."""
    bucket.save(45, 3, half("Sky"), updated_at="2026-01-01T00:00:00Z")
    bucket.save(46, 3)
    newer = annotation(45, half("Road"), updated_at="2026-01-01T02:00:00+01:00")
    whole = {"id": 3, "data": {"image": "s3://photos/3.png"}, "project": PROJECT_ID, "annotations": [newer]}
    bucket.put("out/3.json", whole)  # of these keys, that of the older form comes last
    sync_target(mirror, target)
    assert mirrored(mirror) == {3: [45, 46]}

    def drawn() -> list[Any]:
        task = mirror.get(3)
        assert task is not None
        return [one["result"] for one in task["annotations"] if one["id"] == 45]

    assert drawn() == [[half("Road")]]
    bucket.delete(45, 46)
    sync_target(mirror, target)
    assert mirrored(mirror) == {3: [45]}
    assert drawn() == [[half("Road")]]
    bucket.put("out/3.json", {**whole, "annotations": []})
    sync_target(mirror, target)
    assert mirrored(mirror) == {}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (b"{", "is no annotation of Label Studio"),
        ([], "is no annotation of Label Studio"),
        (annotation(7) | {"task": 17}, "names its task 17 without the task's data"),
        (annotation(7, updated_at="yesterday") | {"task": {"id": 7, "data": {}}}, "is no annotation of Label Studio"),
        (annotation(7, updated_at="0001-01-01T00:00:00+14:00") | {"task": {"id": 7, "data": {}}}, "OverflowError"),
        (annotation(7) | {"id": "7", "task": {"id": 18, "data": {}}}, "the id '7' is no number"),
        (annotation(7) | {"id": 7.5, "task": {"id": 7, "data": {}}}, "the id 7.5 is no number"),
        (annotation(7) | {"task": {"id": 10**19, "data": {}}}, "the id 10000000000000000000 is no number"),
    ],
)
def test_object_that_cannot_be_used_costs_no_other(
    bucket: Bucket, target: TargetStorage, mirror: Mirror, caplog: pytest.LogCaptureFixture, value: Any, reason: str
) -> None:
    bucket.put("out/7", value)
    bucket.save(8, 18)
    sync_target(mirror, target)
    assert mirrored(mirror) == {18: [8]}
    assert "the object out/7 cannot be used" in caplog.text
    assert reason in caplog.text
    bucket.save(7, 17)
    sync_target(mirror, target)
    assert mirrored(mirror) == {17: [7], 18: [8]}


@pytest.mark.slow
def test_other_projects_in_the_same_bucket_are_passed_over(bucket: Bucket, mirror: Mirror) -> None:
    bucket.save(1, 17, prefix="shared")
    other = {"id": 18, "data": {"image": "a"}, "project": 30}
    bucket.put("shared/2", annotation(2) | {"task": other})
    sync_target(mirror, TargetStorage(f"s3://{BUCKET}/shared/", PROJECT_ID))
    assert mirrored(mirror) == {17: [1]}
    bucket.save(3, 19, prefix="of/29")
    sync_target(mirror, TargetStorage(f"s3://{BUCKET}/of/{{project}}", PROJECT_ID))
    assert mirrored(mirror) == {19: [3]}


@pytest.mark.slow
def test_sync_that_was_broken_off_is_repeated(bucket: Bucket, target: TargetStorage, mirror: Mirror) -> None:
    for number in range(1, 61):
        bucket.save(number, 100 + number)

    def stop(_: object) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        sync_target(mirror, target, stop)
    assert 0 < len(mirror) < 60
    assert sync_target(mirror, target).read == 60 - 50
    assert len(mirror) == 60


@pytest.mark.slow
def test_storage_that_cannot_be_read_is_said(bucket: Bucket, mirror: Mirror, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(LabelStudioError, match="s3://nowhere/at/all \\(annotations_from\\) cannot be read"):
        sync_target(mirror, TargetStorage("s3://nowhere/at/all", PROJECT_ID))
    with monkeypatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL_S3", "http://127.0.0.1:9")
        with pytest.raises(LabelStudioUnreachable):
            sync_target(mirror, TargetStorage(f"s3://{BUCKET}/out", PROJECT_ID))


def test_jobs_read_where_the_setting_says(bucket: Bucket, tmp_path: Path) -> None:
    bucket.save(1, 17, half("Sky"))
    settings = load_settings(None, annotations_from=f"s3://{BUCKET}/out", data_dir=tmp_path)
    context: Any = SimpleNamespace(settings=settings, label_studio=None)
    with open_mirror(context, "29.1795383040") as mirror:
        sync_mirror(context, mirror, "29.1795383040")
        assert mirrored(mirror) == {17: [1]}


@pytest.mark.label_studio
def test_what_a_real_label_studio_writes(bucket: Bucket, moto_server: str, mirror: Mirror) -> None:
    with RunningLabelStudio() as running, running.client() as client:
        project = int(running.create_project("targets", CONFIG)["id"])
        storage = {"project": project, "bucket": BUCKET, "prefix": "out", "can_delete_objects": True}
        keys = {"aws_access_key_id": "test", "aws_secret_access_key": "test", "region_name": "us-east-1"}
        client.post("/api/storages/export/s3", json={**storage, **keys, "s3_endpoint": moto_server}).raise_for_status()
        client.post(f"/api/projects/{project}/import", json=[{"image": f"s3://photos/{i}.png"} for i in range(2)])
        tasks = [task["id"] for task in client.get("/api/tasks/", params={"project": project}).json()["tasks"]]
        first, second = (running.submit_annotation(task, [half("Sky")])["id"] for task in tasks)
        target = TargetStorage(f"s3://{BUCKET}/out", project)
        sync_target(mirror, target)
        assert mirrored(mirror) == {tasks[0]: [first], tasks[1]: [second]}
        task = mirror.get(tasks[0])
        assert task is not None
        assert task["data"]["image"].startswith("s3://photos/")
        assert task["annotations"][0]["result"] == [half("Sky")]
        revision = mirror.revision
        client.patch(f"/api/annotations/{first}/", json={"result": []}).raise_for_status()
        client.delete(f"/api/annotations/{second}/").raise_for_status()
        sync_target(mirror, target)
        assert mirrored(mirror) == {tasks[0]: [first]}
        assert mirror.changed_after(revision) == tasks


@pytest.mark.parametrize("value", ["s3://", "s3:///", "gs://bucket", "bucket/prefix", "API"])
def test_setting_names_the_api_or_a_bucket(value: str) -> None:
    with pytest.raises(SettingsError, match="SEGLOOP_ANNOTATIONS_FROM"):
        load_settings(None, annotations_from=value)
    assert load_settings(None, annotations_from="s3://bucket/out/").annotations_from == "s3://bucket/out"
