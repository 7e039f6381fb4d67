"""Images from S3: by credentials of segloop's own, or through Label Studio."""

from __future__ import annotations

import base64
import contextlib
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import boto3
import pytest

from segloop.errors import ImageDenied, ImageError, ImageTooLarge, ImageUnavailable
from segloop.images.s3 import S3Reader
from tests.aws.moto_server import running_moto
from tests.image_server import PNG, Make, Server, label_studio, make, ok, png, serving, to

__all__ = ["label_studio", "make"]


@pytest.fixture(scope="module")
def s3_url() -> Iterator[str]:
    with running_moto() as url:
        yield url


@pytest.fixture
def no_aws(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, s3_url: str) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    for name in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):
        monkeypatch.setenv(name, str(tmp_path / "none"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", s3_url)
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")


@pytest.fixture
def bucket(s3_url: str) -> Any:
    session = boto3.session.Session("testing", "testing", region_name="us-east-1")
    client = session.client("s3", endpoint_url=s3_url)
    client.create_bucket(Bucket="images")
    client.put_object(Bucket="images", Key="a b/ü?#.png", Body=PNG)
    yield client
    client.close()


class TestS3:
    URI = "s3://images/a b/ü?#.png"

    @pytest.fixture
    def aws(self, no_aws: None, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "testing")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "testing")

    @pytest.mark.slow
    @pytest.mark.usefixtures("aws")
    def test_own_credentials(self, make: Make, bucket: Any, label_studio: Server) -> None:
        source = make()
        assert [source.fetch(self.URI, 7).bytes for _ in range(2)] == [PNG, PNG]
        bucket.put_object(Bucket="images", Key="a b/ü?#.png", Body=png((9, 9, 9)))
        assert source.fetch(self.URI, 7).bytes == png((9, 9, 9))
        assert label_studio.requests == []
        with pytest.raises(ImageTooLarge):
            make(image_max_bytes=10, image_cache_bytes=0).fetch(self.URI, 7)

    @pytest.mark.slow
    @pytest.mark.usefixtures("aws")
    def test_missing_objects_and_malformed_addresses(self, make: Make, bucket: Any) -> None:
        for uri in ("s3://images/missing", "s3://nowhere-1/a", "s3://images", "s3:///a", "s3://arn:aws:s3:x/a", "s3:a"):
            with pytest.raises(ImageError):
                make().fetch(uri, None)

    @pytest.mark.usefixtures("no_aws")
    def test_through_label_studio(self, make: Make, bucket: Any, label_studio: Server) -> None:
        signed = bucket.generate_presigned_url("get_object", Params={"Bucket": "images", "Key": "a b/ü?#.png"})
        label_studio.answers["/tasks/7/resolve/"] = to(signed, 303)
        assert make(image_hosts="127.0.0.1").fetch(self.URI, 7).bytes == PNG
        encoded = label_studio.paths[0].partition("fileuri=")[2]
        assert base64.urlsafe_b64decode(encoded).decode() == self.URI

    @pytest.mark.slow
    @pytest.mark.usefixtures("no_aws")
    def test_without_credentials_or_a_task(self, make: Make, label_studio: Server) -> None:
        with pytest.raises(ImageError, match="S3: Unable to locate credentials"):
            make().fetch(self.URI, None)
        with pytest.raises(ImageError, match=r"Unable to locate credentials\), nor through Label Studio.*404"):
            make().fetch(self.URI, 7)

    @pytest.mark.slow
    @pytest.mark.usefixtures("aws")
    def test_an_s3_that_refuses_connections_may_come_back(
        self, make: Make, label_studio: Server, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for name in ("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3"):
            monkeypatch.setenv(name, "http://127.0.0.1:1")
        for task in (None, 7):
            with pytest.raises(ImageUnavailable):
                make().fetch(self.URI, task)

    @pytest.mark.slow
    @pytest.mark.usefixtures("aws")
    @pytest.mark.parametrize("pays", [False, True])
    def test_the_reader_pays_where_that_is_set(self, make: Make, monkeypatch: pytest.MonkeyPatch, pays: bool) -> None:
        with serving() as s3:
            s3.answers["/images/a.png"] = ok()
            for name in ("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3"):
                monkeypatch.setenv(name, s3.url)
            assert make(s3_requester_pays=pays).fetch("s3://images/a.png", 7).bytes == PNG
            [(_, headers)] = s3.requests
        assert headers.get("x-amz-request-payer") == ("requester" if pays else None)

    @pytest.mark.slow
    @pytest.mark.usefixtures("aws")
    def test_an_s3_that_leaves_a_request_unanswered_is_asked_again_in_time(
        self, make: Make, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        answer = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(PNG), PNG)
        taken: list[socket.socket] = []

        def answer_the_second() -> None:
            taken.extend(listening.accept()[0] for _ in range(2))
            taken[1].recv(2**16)
            taken[1].sendall(answer)

        with socket.create_server(("127.0.0.1", 0)) as listening:
            for name in ("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3"):
                monkeypatch.setenv(name, f"http://127.0.0.1:{listening.getsockname()[1]}")
            server = threading.Thread(target=answer_the_second, daemon=True)
            server.start()
            try:
                assert make(image_timeout_s=8).fetch("s3://images/a.png", None).bytes == PNG
            finally:
                server.join()
                for connection in taken:
                    connection.close()

    def test_of_a_slow_line_no_more_is_read_than_there_is_time_for(self, monkeypatch: pytest.MonkeyPatch) -> None:
        now, bytes_a_second = [0.0], 10_000

        class Body(contextlib.AbstractContextManager["Body", None]):
            def read(self, count: int) -> bytes:
                now[0] += count / bytes_a_second
                return bytes(count)

            def __exit__(self, *_: object) -> None: ...

        monkeypatch.setattr("segloop.images.s3.time.monotonic", lambda: now[0])
        reader = S3Reader(20)
        monkeypatch.setattr(reader, "_client", SimpleNamespace(get_object=lambda **_: {"Body": Body()}))
        with pytest.raises(ImageUnavailable, match="SEGLOOP_IMAGE_TIMEOUT_S"):
            reader.get("s3://images/a.png", deadline=20.0, max_bytes=2**26)
        assert now[0] < 22

    def test_a_key_that_label_studio_refuses_is_no_fault_of_the_image(self, make: Make, label_studio: Server) -> None:
        label_studio.answers["/tasks/7/resolve/"] = lambda handler: handler.reply(401)
        with pytest.raises(ImageDenied, match="LABEL_STUDIO_API_KEY"):
            make().fetch("gs://b/a.png", 7)

    @pytest.mark.parametrize("uri", ["gs://b/a.png", "azure-blob://b/a.png"])
    def test_other_clouds_only_through_label_studio(self, make: Make, label_studio: Server, uri: str) -> None:
        label_studio.answers["/tasks/7/resolve/"] = ok()
        assert make().fetch(uri, 7).bytes == PNG
        with pytest.raises(ImageError, match="only Label Studio can, for a task"):
            make().fetch(uri, None)
