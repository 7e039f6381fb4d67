"""Addresses as people's tasks have them: Label Studio under two names, slashes of Windows, proxies, hosts that are away."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from segloop.errors import ImageError, ImageForbidden, ImageUnavailable
from segloop.images.source import other_name
from segloop.settings import Settings
from tests.image_server import PNG, TOKEN, Handler, Make, Server, label_studio, make, ok, serving, to

__all__ = ["label_studio", "make"]

KEY = TOKEN["Authorization"]


@pytest.fixture
def other() -> Iterator[Server]:
    with serving() as server:
        yield server


class TestTwoNames:
    """The task has Label Studio's public address, LABEL_STUDIO_URL is the internal one."""

    @pytest.mark.parametrize("below", ["", "/studio"])
    def test_the_internal_one_is_asked_with_the_key(
        self, make: Make, label_studio: Server, other: Server, below: str
    ) -> None:
        label_studio.answers["/data/upload/1/a%20b.png"] = ok()
        source = make(label_studio_public_url=f"{other.url}{below}")
        assert source.fetch(f"{other.url}{below}/data/upload/1/a%20b.png?x=1", 1).bytes == PNG
        assert label_studio.requests[0][0] == "/data/upload/1/a%20b.png?x=1"
        assert label_studio.credentials == [KEY]
        assert other.requests == []

    def test_the_key_goes_nowhere_else(self, make: Make, label_studio: Server, other: Server) -> None:
        other.answers["/data/upload/1/a.png"] = ok()
        source = make(label_studio_public_url="https://labels.example.org", image_hosts=("127.0.0.1",))
        assert source.fetch(f"{other.url}/data/upload/1/a.png", 1).bytes == PNG
        assert other.credentials == [None]
        assert label_studio.requests == []

    def test_a_path_outside_the_public_prefix_is_another_site(
        self, make: Make, label_studio: Server, other: Server
    ) -> None:
        other.answers["/data/upload/1/a.png"] = ok()
        source = make(label_studio_public_url=f"{other.url}/studio", image_hosts=("127.0.0.1",))
        source.fetch(f"{other.url}/data/upload/1/a.png", 1)
        assert other.credentials == [None]
        assert label_studio.requests == []

    @pytest.mark.parametrize(
        ("uri", "name"),
        [
            ("https://labels.example.org/data/upload/1/a.png", "https://labels.example.org"),
            ("https://example.org/studio/data/local-files/?d=a.png", "https://example.org/studio"),
            ("http://internal:8080/data/upload/1/a.png", ""),
            ("https://photos.example.org/a.png", ""),
            ("/data/upload/1/a.png", ""),
            ("s3://bucket/data/upload/1/a.png", ""),
        ],
    )
    def test_the_mismatch_has_a_name_for_doctor(self, uri: str, name: str) -> None:
        assert other_name(uri, Settings(label_studio_url="http://internal:8080")) == name


@pytest.mark.parametrize(
    ("uri", "asked"),
    [
        ("/data/local-files?d=a.png", "/data/local-files?d=a.png"),
        ("//data/upload/1/a.png", "/data/upload/1/a.png"),
        ("///storage-data/uploaded/?filepath=a.png", "/storage-data/uploaded/?filepath=a.png"),
        ("\\data\\upload\\1\\a.png", "/data/upload/1/a.png"),
        ("/data\\upload/1\\a.png", "/data/upload/1/a.png"),
    ],
)
def test_label_studios_paths_however_they_are_written_get_the_key(
    make: Make, label_studio: Server, uri: str, asked: str
) -> None:
    label_studio.answers[asked.partition("?")[0]] = ok()
    assert make().fetch(uri, 1).bytes == PNG
    assert label_studio.paths == [asked]
    assert label_studio.credentials == [KEY]


@pytest.mark.parametrize("uri", ["//example.org/data/upload/1/a.png", "//data.example.org/a.png"])
def test_an_address_without_a_scheme_is_no_path(make: Make, label_studio: Server, uri: str) -> None:
    with pytest.raises(ImageForbidden):
        make().fetch(uri, 1)
    assert label_studio.requests == []


@pytest.mark.parametrize("path", ["sub\\a.png", "sub%5Ca.png", "sub/a.png", "\\sub\\a.png"])
def test_local_files_of_windows(make: Make, tmp_path: Path, path: str) -> None:
    folder = tmp_path / "files"
    (folder / "sub").mkdir(parents=True)
    (folder / "sub" / "a.png").write_bytes(PNG)
    source = make(image_folder=folder)
    assert source.fetch(f"/data/local-files/?d={path}", 1).bytes == PNG
    with pytest.raises(ImageForbidden):
        source.fetch("/data/local-files/?d=..\\..\\secret.png", 1)


def test_a_host_is_told_who_asks(make: Make, other: Server) -> None:
    def only_for_named(handler: Handler) -> None:
        named = handler.headers.get("User-Agent", "").startswith("segloop/")
        handler.reply(200 if named else 403, PNG if named else b"")

    other.answers["/a.png"] = only_for_named
    assert make(image_hosts=("127.0.0.1",)).fetch(f"{other.url}/a.png", 1).bytes == PNG


class TestAway:
    """What a later try may change is told apart from what it cannot."""

    @pytest.mark.parametrize("status", [408, 425, 429, 500, 502, 503, 504, 599])
    def test_answers_that_pass(self, make: Make, label_studio: Server, status: int) -> None:
        label_studio.answers["/data/upload/1/a.png"] = lambda handler: handler.reply(status)
        with pytest.raises(ImageUnavailable, match=str(status)):
            make().fetch("/data/upload/1/a.png", 1)

    @pytest.mark.parametrize("status", [400, 401, 403, 404, 410, 451])
    def test_answers_that_stay(self, make: Make, label_studio: Server, status: int) -> None:
        label_studio.answers["/data/upload/1/a.png"] = lambda handler: handler.reply(status)
        with pytest.raises(ImageError, match=str(status)) as caught:
            make().fetch("/data/upload/1/a.png", 1)
        assert not isinstance(caught.value, ImageUnavailable)

    def test_a_refused_connection_passes(self, make: Make) -> None:
        with socket.socket() as reserved:
            reserved.bind(("127.0.0.1", 0))
            port = reserved.getsockname()[1]
            with pytest.raises(ImageUnavailable):
                make(image_hosts=("127.0.0.1",)).fetch(f"http://127.0.0.1:{port}/a.png", 1)

    def test_a_silent_host_passes(self, make: Make) -> None:
        with contextlib.closing(socket.create_server(("127.0.0.1", 0))) as silent:
            source = make(image_hosts=("127.0.0.1",), image_timeout_s=0.3)
            with pytest.raises(ImageUnavailable, match="SEGLOOP_IMAGE_TIMEOUT_S"):
                source.fetch(f"http://127.0.0.1:{silent.getsockname()[1]}/a.png", 1)

    def test_a_storage_that_label_studio_cannot_reach_now_passes(self, make: Make, label_studio: Server) -> None:
        label_studio.answers["/tasks/1/resolve/"] = lambda handler: handler.reply(503)
        with pytest.raises(ImageUnavailable):
            make().fetch("gs://bucket/a.png", 1)
        label_studio.answers["/tasks/1/resolve/"] = lambda handler: handler.reply(404)
        with pytest.raises(ImageError) as caught:
            make().fetch("gs://bucket/a.png", 1)
        assert not isinstance(caught.value, ImageUnavailable)


class TestProxy:
    """HTTP_PROXY and NO_PROXY are followed, and open no way around the hosts that are allowed."""

    def test_a_proxy_is_asked(self, make: Make, other: Server, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("HTTP_PROXY", other.url)
        monkeypatch.setenv("http_proxy", other.url)
        other.answers["http://photos.invalid/a.png"] = ok()
        assert make().fetch("http://photos.invalid/a.png", 1).bytes == PNG
        assert other.paths == ["http://photos.invalid/a.png"]

    def test_not_for_what_no_proxy_names(
        self, make: Make, label_studio: Server, other: Server, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for name in ("HTTP_PROXY", "http_proxy"):
            monkeypatch.setenv(name, other.url)
        for name in ("NO_PROXY", "no_proxy"):
            monkeypatch.setenv(name, "localhost,127.0.0.1")
        label_studio.answers["/data/upload/1/a.png"] = ok()
        assert make().fetch("/data/upload/1/a.png", 1).bytes == PNG
        assert other.requests == []

    @pytest.mark.parametrize("uri", ["http://10.0.0.1/a.png", "http://localhost/a.png", "http://169.254.169.254/a"])
    def test_private_addresses_stay_closed(
        self, make: Make, other: Server, monkeypatch: pytest.MonkeyPatch, uri: str
    ) -> None:
        for name in ("HTTP_PROXY", "http_proxy"):
            monkeypatch.setenv(name, other.url)
        with pytest.raises(ImageForbidden):
            make().fetch(uri, 1)
        assert other.requests == []

    def test_a_redirect_through_a_proxy_is_checked(
        self, make: Make, other: Server, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for name in ("HTTP_PROXY", "http_proxy"):
            monkeypatch.setenv(name, other.url)
        other.answers["http://photos.invalid/a.png"] = to("http://10.0.0.1/a.png")
        with pytest.raises(ImageForbidden):
            make().fetch("http://photos.invalid/a.png", 1)
        assert other.paths == ["http://photos.invalid/a.png"]
