"""Images from real servers on loopback: Label Studio's routes, other hosts, and hostile ones."""

from __future__ import annotations

import base64
import contextlib
import gzip
import hashlib
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from segloop.errors import ImageError, ImageForbidden, ImageTooLarge
from tests.image_server import PNG, TOKEN, Handler, Make, Server, label_studio, make, ok, png, serving, to

__all__ = ["label_studio", "make"]


@pytest.fixture
def other() -> Iterator[Server]:
    with serving() as server:
        yield server


class TestLabelStudio:
    def test_an_uploaded_image(self, make: Make, label_studio: Server) -> None:
        label_studio.answers["/data/upload/1/a.png"] = ok()
        image = make().load("/data/upload/1/a.png", 1)
        assert np.array_equal(image.pixels, np.full((2, 3, 3), (1, 2, 3), np.uint8))
        assert image.sha256 == hashlib.sha256(PNG).hexdigest()
        assert (image.blob.bytes, image.blob.suffix) == (PNG, ".png")
        assert (image.width, image.height) == (3, 2)
        assert label_studio.credentials == [TOKEN["Authorization"]]

    @pytest.mark.parametrize(
        "path",
        [
            "/data/local-files/?d=a/b.png",
            "/tasks/5/resolve/?fileuri=czM6Ly9i",
            "/tasks/5/presign/?fileuri=czM6Ly9i",
            "/projects/5/resolve/?fileuri=czM6Ly9i",
            "/projects/5/file-proxy/?url=aHR0",
            "/storage-data/uploaded/?filepath=a.png",
        ],
    )
    @pytest.mark.parametrize("absolute", [False, True])
    def test_its_image_routes_get_credentials(
        self, make: Make, label_studio: Server, path: str, absolute: bool
    ) -> None:
        label_studio.answers[path.partition("?")[0]] = ok()
        make().fetch((label_studio.url if absolute else "") + path, 5)
        assert label_studio.paths == [path]
        assert label_studio.credentials == [TOKEN["Authorization"]]

    @pytest.mark.parametrize(
        "path",
        [
            "/api/current-user/token",
            "/data/upload/%2e%2e/%2e%2e/api/users",
            "/data/upload/..%5capi",
            "/logout",
            "/data/../api/users",
        ],
    )
    def test_no_other_path_gets_credentials(self, make: Make, label_studio: Server, path: str) -> None:
        with pytest.raises(ImageError, match="404"):
            make().fetch(path, None)
        assert label_studio.credentials == [None]

    def test_below_a_path_prefix(self, make: Make, label_studio: Server) -> None:
        label_studio.answers["/studio/data/upload/1/a.png"] = ok()
        source = make(label_studio_url=f"{label_studio.url}/studio", image_cache_bytes=0)
        for uri in ("/data/upload/1/a.png", "/studio/data/upload/1/a.png"):
            assert source.fetch(uri, 1).bytes == PNG
        assert label_studio.credentials == [TOKEN["Authorization"]] * 2
        with pytest.raises(ImageError):
            source.fetch(f"{label_studio.url}/data/upload/1/a.png", 1)
        assert label_studio.credentials[-1] is None

    def test_a_refusal_names_the_key(self, make: Make, label_studio: Server) -> None:
        label_studio.answers["/data/upload/1/a.png"] = lambda handler: handler.reply(401)
        with pytest.raises(ImageError, match="401 Unauthorized: check LABEL_STUDIO_API_KEY"):
            make().fetch("/data/upload/1/a.png", 1)

    def test_a_login_page_is_no_image(self, make: Make, label_studio: Server) -> None:
        label_studio.answers["/data/upload/1/a.png"] = to("/user/login/?next=/data")
        label_studio.answers["/user/login/"] = ok(b"<!DOCTYPE html><html>")
        with pytest.raises(ImageError, match="a web page is not an image"):
            make().fetch("/data/upload/1/a.png", 1)
        assert label_studio.credentials == [TOKEN["Authorization"], None]

    def test_local_files_are_read_from_the_folder(self, make: Make, label_studio: Server, tmp_path: Path) -> None:
        folder = tmp_path / "files"
        (folder / "sub dir").mkdir(parents=True)
        (folder / "sub dir" / "a.png").write_bytes(PNG)
        (tmp_path / "secret.png").write_bytes(PNG)
        source = make(image_folder=folder)
        for prefix in ("", label_studio.url):
            assert source.fetch(f"{prefix}/data/local-files/?d=sub%20dir/a.png", 1).bytes == PNG
            with pytest.raises(ImageForbidden, match="leads out of"):
                source.fetch(f"{prefix}/data/local-files/?d=../secret.png", 1)
        assert label_studio.requests == []


class TestRedirects:
    def test_credentials_stay_with_label_studio(self, make: Make, label_studio: Server, other: Server) -> None:
        label_studio.answers["/tasks/1/resolve/"] = to(f"{other.url}/a.png?X-Amz-Signature=abc", 303)
        other.answers["/a.png"] = ok()
        blob = make(image_hosts="127.0.0.1").fetch("/tasks/1/resolve/?fileuri=czM", 1)
        assert blob.bytes == PNG
        assert other.paths == ["/a.png?X-Amz-Signature=abc"]
        assert other.credentials == [None]

    def test_credentials_return_with_label_studio(self, make: Make, label_studio: Server, other: Server) -> None:
        other.answers["/a.png"] = to(f"{label_studio.url}/data/upload/1/a.png")
        label_studio.answers["/data/upload/1/a.png"] = ok()
        make(image_hosts="127.0.0.1").fetch(f"{other.url}/a.png", 1)
        assert (other.credentials, label_studio.credentials) == ([None], [TOKEN["Authorization"]])

    def test_not_to_a_private_address(self, make: Make, label_studio: Server, other: Server) -> None:
        label_studio.answers["/tasks/1/resolve/"] = to(f"{other.url}/a.png")
        with pytest.raises(ImageForbidden, match=r"private address 127\.0\.0\.1"):
            make().fetch("/tasks/1/resolve/?fileuri=czM", 1)
        assert other.requests == []

    @pytest.mark.parametrize(
        "location", ["file:///etc/passwd", "ftp://127.0.0.1/a", "http://u:p@127.0.0.1/a", "//[::1"]
    )
    def test_not_to_anything_but_a_plain_web_address(self, make: Make, label_studio: Server, location: str) -> None:
        label_studio.answers["/tasks/1/resolve/"] = to(location)
        with pytest.raises(ImageError):
            make().fetch("/tasks/1/resolve/?fileuri=czM", 1)

    @pytest.mark.parametrize(("hops", "arrives"), [(4, True), (5, False)])
    def test_at_most_four(self, make: Make, label_studio: Server, hops: int, arrives: bool) -> None:
        for i in range(hops):
            label_studio.answers[f"/{i}"] = to(str(i + 1))
        label_studio.answers[f"/{hops}"] = ok()
        with contextlib.nullcontext() if arrives else pytest.raises(ImageError, match="more than 4 times"):
            make().fetch("/0", None)


class TestHosts:
    def test_a_private_address_must_be_listed(self, make: Make, other: Server) -> None:
        other.answers["/a.png"] = ok()
        for uri in (
            f"{other.url}/a.png",
            f"http://localhost:{other.server_port}/a.png",
            f"http://[::1]:{other.server_port}/a.png",
        ):
            for hosts in ("", "*", "*.1,*host", "example.org"):
                with pytest.raises(ImageForbidden):
                    make(image_hosts=hosts).fetch(uri, None)
        assert other.requests == []
        for hosts in ("127.0.0.1", "127.0.0.0/8", "127.*", "example.org,127.0.0.1"):
            assert make(image_hosts=hosts).fetch(f"{other.url}/a.png", None).bytes == PNG

    @pytest.mark.parametrize("hosts", ["localhost", "127.0.0.1"])
    def test_a_listed_name(self, make: Make, other: Server, hosts: str) -> None:
        other.answers["/a.png"] = ok()
        assert make(image_hosts=hosts).fetch(f"http://localhost:{other.server_port}/a.png", None).bytes == PNG
        assert other.requests[0][1]["host"] == f"localhost:{other.server_port}"

    @pytest.mark.parametrize(
        "uri",
        ["file:///etc/passwd", "//evil.example/a.png", "ftp://h/a", "a.png", "", "http://u:p@127.0.0.1/a", "http:///a"],
    )
    def test_no_other_kinds_of_address(self, make: Make, uri: str) -> None:
        with pytest.raises(ImageForbidden):
            make().fetch(uri, None)

    @pytest.mark.parametrize(
        "uri",
        ["http://a\0b/", "http://[::1", "http://h:99999999/a", "http://" + "a" * 300 + "/", "http://h/" + "a" * 70_000],
    )
    def test_malformed_addresses(self, make: Make, uri: str) -> None:
        with pytest.raises(ImageError):
            make(image_hosts="127.0.0.1").fetch(uri, None)

    def test_no_user_names(self, make: Make, other: Server) -> None:
        other.answers["/a.png"] = ok()
        with pytest.raises(ImageForbidden, match="user name"):
            make(image_hosts="127.0.0.1").fetch(f"http://u:p@127.0.0.1:{other.server_port}/a.png", None)
        assert other.requests == []


class TestLimits:
    def test_size(self, make: Make, label_studio: Server) -> None:
        def endless(handler: Handler) -> None:
            handler.send_response(200)
            handler.send_header("transfer-encoding", "chunked")
            handler.end_headers()
            for _ in range(10_000):
                handler.wfile.write(b"1000\r\n" + bytes(4096) + b"\r\n")

        label_studio.answers |= {"/exact": ok(), "/large": ok(PNG + b"\0"), "/endless": endless}
        source = make(image_max_bytes=len(PNG))
        assert source.fetch("/exact", None).bytes == PNG
        for path in ("/large", "/endless", "data:," + "a" * 10_000):
            with pytest.raises(ImageTooLarge, match=f"SEGLOOP_IMAGE_MAX_BYTES={len(PNG)}"):
                source.fetch(path, None)

    def test_pixels_are_counted_before_any_is_decoded(self, make: Make) -> None:
        uri = "data:image/png;base64," + base64.b64encode(PNG).decode()
        assert make(image_max_pixels=6).load(uri, None).pixels.shape == (2, 3, 3)
        with pytest.raises(ImageTooLarge, match="data: URL: image of 3 x 2 pixels"):
            make(image_max_pixels=5).load(uri, None)

    @pytest.mark.parametrize("drip", [b"x-a: b\r\n", None])
    def test_time_however_slowly_bytes_drip(self, make: Make, label_studio: Server, drip: bytes | None) -> None:
        stopped = threading.Event()

        def slow(handler: Handler) -> None:
            handler.send_response(200)
            if drip is None:
                handler.send_header("content-length", "1000000")
                handler.end_headers()
            else:
                handler.flush_headers()
            for _ in range(1200):  # a minute
                if stopped.wait(0.05):
                    break
                handler.wfile.write(drip or b"a")
            handler.close_connection = True

        label_studio.answers["/slow"] = slow
        began_s = time.monotonic()
        with pytest.raises(ImageError, match="longer than SEGLOOP_IMAGE_TIMEOUT_S"):
            make(image_timeout_s=0.4).fetch("/slow", None)
        assert time.monotonic() - began_s < 30
        stopped.set()

    def test_time_is_shared_by_redirects(self, make: Make, label_studio: Server) -> None:
        def late(handler: Handler) -> None:
            time.sleep(0.25)
            handler.reply(302, location="/late")

        label_studio.answers["/late"] = late
        with pytest.raises(ImageError, match="longer than"):
            make(image_timeout_s=0.4).fetch("/late", None)
        assert len(label_studio.requests) <= 2, "each redirect had a time of its own"

    def test_broken_answers(self, make: Make, label_studio: Server) -> None:
        def short(handler: Handler) -> None:
            handler.reply(200, PNG[:-5], content_length=str(len(PNG)))
            handler.close_connection = True

        def garbage(handler: Handler) -> None:
            handler.wfile.write(b"not HTTP\r\n\r\n")
            handler.close_connection = True

        label_studio.answers |= {
            "/short": short,
            "/garbage": garbage,
            "/gzip": ok(gzip.compress(PNG), content_encoding="gzip"),
            "/error": lambda handler: handler.reply(500),
            "/partial": lambda handler: handler.reply(206, PNG),
            "/unasked": lambda handler: handler.reply(304),
            "/nowhere": lambda handler: handler.reply(302),
            "/head": ok(PNG[:20]),
        }
        source = make()
        for path in label_studio.answers:
            with pytest.raises(ImageError):
                source.load(path, None)

    def test_a_cut_image_is_named_when_it_is_decoded(self, make: Make, label_studio: Server) -> None:
        label_studio.answers["/data/upload/1/a.png"] = ok(PNG[:50])
        image = make().load("/data/upload/1/a.png?token=s3cr3t", 1)
        assert (image.width, image.height) == (3, 2)
        for _ in range(2):
            with pytest.raises(ImageError, match=r"^/data/upload/1/a\.png: PNG image is truncated or corrupt"):
                _ = image.pixels

    def test_no_secret_in_a_message(self, make: Make, label_studio: Server, other: Server) -> None:
        other.answers["/page"] = ok(b"<html>")
        other.answers["/loop"] = to("/loop?X-Amz-Signature=s3cr3t")
        source = make(image_hosts="127.0.0.1")
        for uri in (
            f"{other.url}/missing",
            f"{other.url}/page",
            f"{other.url}/loop",
            "http://127.0.0.1:1/a",
            "ftp://h/a",
        ):
            with pytest.raises(ImageError) as raised:
                source.fetch(f"{uri}?X-Amz-Signature=s3cr3t&X-Amz-Credential=s3cr3t", None)
            assert "s3cr3t" not in str(raised.value)

    def test_a_connection_that_the_server_closed_is_replaced(self, make: Make, label_studio: Server) -> None:
        def close(handler: Handler) -> None:
            if len(label_studio.requests) != 2:
                handler.reply(200, PNG)
            handler.close_connection = True  # without saying so; the second request gets no answer at all

        label_studio.answers["/a"] = close
        source = make()
        for _ in range(5):
            assert source.fetch("/a", None).bytes == PNG
        assert len(label_studio.requests) == 6

    @pytest.mark.slow
    def test_many_threads(self, make: Make, label_studio: Server) -> None:
        files = {f"/data/upload/1/{i}.png": png((i, i, i)) for i in range(20)}
        label_studio.answers |= {path: ok(body) for path, body in files.items()}
        source = make()
        with ThreadPoolExecutor(16) as pool:
            images = list(pool.map(lambda path: source.load(path, 1), [*files, *files]))
        assert [image.pixels[0, 0, 0] for image in images] == [*range(20), *range(20)]


class TestCache:
    def test_uploads_never_change(self, make: Make, label_studio: Server) -> None:
        label_studio.answers["/data/upload/1/a.png"] = ok()
        for _ in range(2):
            assert make().fetch("/data/upload/1/a.png", 1).bytes == PNG
        assert len(label_studio.requests) == 1

    @pytest.mark.parametrize(
        ("header", "condition"), [("etag", "if-none-match"), ("last-modified", "if-modified-since")]
    )
    def test_others_are_asked_for_again(self, make: Make, other: Server, header: str, condition: str) -> None:
        version, body = "1", PNG

        def answer(handler: Handler) -> None:
            if handler.headers.get(condition) == version:
                handler.reply(304)
            else:
                handler.reply(200, body, **{header: version})

        other.answers["/a.png"] = answer
        source = make(image_hosts="127.0.0.1")
        uri = f"{other.url}/a.png?X-Amz-Signature="
        assert [source.fetch(uri + signature, None).bytes for signature in ("x", "y")] == [PNG, PNG]
        assert [headers.get(condition) for _, headers in other.requests] == [None, "1"]
        version, body = "2", png((9, 9, 9))
        assert source.fetch(uri + "z", None).bytes == body

    def test_a_cached_file_needs_the_right_to_read_it(self, make: Make, other: Server) -> None:
        def signed_only(handler: Handler) -> None:
            handler.reply(200, PNG, etag='"1"') if "Signature" in handler.path else handler.reply(403)

        other.answers["/a.png"] = signed_only
        source = make(image_hosts="127.0.0.1")
        source.fetch(f"{other.url}/a.png?X-Amz-Signature=x", None)
        with pytest.raises(ImageError, match="403"):
            source.fetch(f"{other.url}/a.png", None)

    def test_nothing_that_is_no_image_or_has_no_validator(
        self, make: Make, label_studio: Server, tmp_path: Path
    ) -> None:
        label_studio.answers |= {"/data/upload/1/a": ok(b"text"), "/plain": ok()}
        source = make()
        with pytest.raises(ImageError):
            source.fetch("/data/upload/1/a", 1)
        source.fetch("/plain", None)
        assert not (tmp_path / "cache").exists()
