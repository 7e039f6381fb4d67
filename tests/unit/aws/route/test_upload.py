from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import boto3
import pytest

from segloop.aws.clients import Clients
from segloop.aws.route.stack import Description, Stack
from segloop.aws.route.upload import Upload, Uploaded
from segloop.errors import SettingsError, StackError
from segloop.settings import Settings
from tests.aws.moto_server import running_moto

PLACE = "s3://photos/projects/7/"


@pytest.fixture
def upload(monkeypatch: pytest.MonkeyPatch) -> Iterator[Upload]:
    outputs = {"SourceBucketName": "photos"}
    monkeypatch.setattr(Stack, "describe", lambda self: Description(outputs=outputs if self.name == "street" else {}))
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "test")
    with running_moto() as url:
        monkeypatch.setenv("AWS_ENDPOINT_URL", url)
        boto3.client("s3", "us-east-1").create_bucket(Bucket="photos")
        clients = Clients(Settings(_env_file=None), region="us-east-1")
        with pytest.raises(StackError, match="there is no route lane"):
            Upload(clients, "lane", 7)
        yield Upload(clients, "street", 7)
        boto3.resource("s3", "us-east-1").Bucket("photos").objects.delete()
        boto3.client("s3", "us-east-1").delete_bucket(Bucket="photos")


@pytest.mark.slow
def test_a_folder_is_sent_once_and_goes_on_where_it_was(upload: Upload, tmp_path: Path) -> None:
    for number in range(5):
        path = tmp_path / f"drive-{number % 2}" / f"{number}.JPG"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"x" * (number + 1))
    (tmp_path / "notes.txt").write_text("no image")
    s3 = boto3.client("s3", "us-east-1")
    s3.put_object(Bucket="photos", Key="projects/7/drive-0/0.JPG", Body=b"x")
    # one that was broken off
    s3.put_object(Bucket="photos", Key="projects/7/drive-1/1.JPG", Body=b"x")
    told: list[tuple[int, int]] = []
    assert upload.run(tmp_path, lambda done, whole: told.append((done, whole))) == Uploaded(4, 1, 1, PLACE)
    assert told == [(done, 5) for done in range(1, 6)]
    assert upload.run(tmp_path) == Uploaded(0, 5, 1, PLACE)
    keys = {item["Key"] for item in s3.list_objects_v2(Bucket="photos")["Contents"]}
    assert keys == {f"projects/7/drive-{number % 2}/{number}.JPG" for number in range(5)}


@pytest.mark.slow
def test_what_is_no_folder_of_images_is_named(upload: Upload, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="is no folder"):
        upload.run(tmp_path / "missing")
    with pytest.raises(SettingsError, match="has no image"):
        upload.run(tmp_path)
