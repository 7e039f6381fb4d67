"""Where an image may come from, and how much of it is read."""

from __future__ import annotations

import base64
import ipaddress
import os
from pathlib import Path

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from segloop.errors import ImageError, ImageForbidden, ImageTooLarge
from segloop.images.addresses import describe, unsigned
from segloop.images.files import data_url, read_below
from segloop.images.hosts import HostPolicy


class TestHosts:
    LABEL_STUDIO = ("localhost", 8080)

    def allows(self, patterns: tuple[str, ...], host: str, address: str, port: int = 443) -> bool:
        policy = HostPolicy(patterns, self.LABEL_STUDIO)
        try:
            policy.check_host(host, port)
            policy.check_address(host, port, ipaddress.ip_address(address))
        except ImageForbidden:
            return False
        return True

    @pytest.mark.parametrize(
        "address", ["93.184.215.14", "2606:2800:21f:cb07:6820:80da:af6b:8b2c", "64:ff9b::5db8:d70e"]
    )
    def test_any_public_address_while_nothing_is_listed(self, address: str) -> None:
        assert self.allows((), "example.org", address)

    @pytest.mark.parametrize(
        "address",
        [
            "127.0.0.1", "10.0.0.1", "172.16.0.1", "192.168.1.1", "169.254.169.254", "100.64.0.1", "0.0.0.0",
            "224.0.0.1", "255.255.255.255", "::1", "::", "fe80::1", "fd00::1", "ff02::1", "::ffff:10.0.0.1",
            "64:ff9b::a9fe:a9fe", "2002:7f00:1::",
        ],
    )  # fmt: skip
    def test_no_private_address_unless_listed(self, address: str) -> None:
        assert not self.allows((), "example.org", address)
        assert not self.allows(("*",), "example.org", address)
        assert not self.allows(("*.org",), "example.org", address)
        assert self.allows(("example.org",), "example.org", address)

    def test_listed_addresses(self) -> None:
        for patterns in [("10.0.0.5",), ("10.0.0.0/8",), ("10.0.*",), ("*.org", "10.0.0.0/8")]:
            assert self.allows(patterns, "minio.org", "10.0.0.5")
        assert not self.allows(("10.0.0.0/8",), "minio", "11.0.0.5")
        assert not self.allows(("10.0.0.0/8",), "example.org", "93.184.215.14")
        assert self.allows(("fd00::/8",), "minio", "fd00::1")

    def test_once_something_is_listed_nothing_else_is_allowed(self) -> None:
        assert not self.allows(("example.org",), "example.com", "93.184.215.14")
        assert self.allows(("*.example.org",), "a.example.org", "93.184.215.14")
        assert not self.allows(("*.example.org",), "example.org.evil.com", "93.184.215.14")
        assert self.allows(("Example.ORG.",), "example.org", "93.184.215.14")

    def test_label_studio_only_at_its_port(self) -> None:
        assert self.allows(("example.org",), "localhost", "127.0.0.1", 8080)
        assert not self.allows((), "localhost", "127.0.0.1", 6379)


class TestAddresses:
    @pytest.mark.parametrize(
        ("uri", "shown"),
        [
            ("https://user:secret@example.org/a/b.png?X-Amz-Signature=secret#secret", "https://example.org/a/b.png"),
            ("s3://bucket/key.png", "s3://bucket/key.png"),
            ("data:image/png;base64,secret", "data: URL"),
            ("/data/upload/1/x.png?token=secret", "/data/upload/1/x.png"),
            ("http://example.org/\nfake log line", r"'http://example.org/\nfake log line'"),
        ],
    )
    def test_describe_shows_no_secret(self, uri: str, shown: str) -> None:
        assert describe(uri) == shown

    def test_describe_is_short(self) -> None:
        assert len(describe("https://example.org/" + "a" * 10_000)) < 210

    def test_unsigned_is_the_same_for_every_signature(self) -> None:
        one = httpx.URL("https://b.s3.amazonaws.com/k.png?versionId=3&X-Amz-Date=1&X-Amz-Signature=aa")
        other = httpx.URL("https://b.s3.amazonaws.com/k.png?versionId=3&X-Amz-Date=2&X-Amz-Signature=bb")
        assert unsigned(one) == unsigned(other) == "https://b.s3.amazonaws.com/k.png?versionId=3"

    def test_unsigned_keeps_parameters_that_sign_nothing(self) -> None:
        assert unsigned(httpx.URL("https://example.org/tile?policy=a&se=1")) == "https://example.org/tile?policy=a&se=1"


class TestDataUrls:
    def test_base64_and_percent_encoding(self) -> None:
        assert data_url("data:image/png;base64," + base64.b64encode(b"\x89PNG").decode(), 10) == b"\x89PNG"
        assert data_url("data:image/png;base64,iVBO%0ARw%3D%3D", 10) == b"\x89PNG"
        assert data_url("data:,a%20b", 10) == b"a b"

    @pytest.mark.parametrize("uri", ["data:image/png;base64", "data:;base64,a", "data:;base64,*!"])
    def test_malformed(self, uri: str) -> None:
        with pytest.raises(ImageError):
            data_url(uri, 10)

    def test_limit(self) -> None:
        assert len(data_url("data:," + "a" * 10, 10)) == 10
        for body in ("a" * 11, "a" * 1000):
            with pytest.raises(ImageTooLarge):
                data_url("data:," + body, 10)

    @given(st.binary(max_size=300))
    def test_round_trip(self, data: bytes) -> None:
        assert data_url("data:x/y;base64," + base64.b64encode(data).decode(), 300) == data


class TestReadBelow:
    @pytest.fixture
    def folder(self, tmp_path: Path) -> Path:
        (tmp_path / "secret").write_bytes(b"secret")
        (tmp_path / "root-2").mkdir()
        (tmp_path / "root-2" / "x").write_bytes(b"secret")
        root = tmp_path / "root"
        (root / "a").mkdir(parents=True)
        (root / "a" / "x.png").write_bytes(b"pixels")
        (root / "inside.png").symlink_to("a/x.png")
        (root / "outside.png").symlink_to("../secret")
        (root / "up").symlink_to("..")
        (root / "loop").symlink_to("loop")
        os.mkfifo(root / "pipe")
        return root

    @pytest.mark.parametrize("relative", ["a/x.png", "/a/x.png", "a/../a/x.png", "inside.png"])
    def test_inside(self, folder: Path, relative: str) -> None:
        assert read_below(folder, relative, 6) == b"pixels"

    @pytest.mark.parametrize(
        "relative", ["../secret", "../root-2/x", "a/../../secret", "outside.png", "up/secret", "pipe", "", "a"]
    )
    def test_forbidden(self, folder: Path, relative: str) -> None:
        with pytest.raises(ImageForbidden):
            read_below(folder, relative, 100)

    @pytest.mark.parametrize("relative", ["missing", "loop", "a\0b", "x" * 5000])
    def test_unreadable(self, folder: Path, relative: str) -> None:
        with pytest.raises(ImageError, match="cannot be read"):
            read_below(folder, relative, 100)

    def test_limit(self, folder: Path) -> None:
        with pytest.raises(ImageTooLarge):
            read_below(folder, "a/x.png", 5)
