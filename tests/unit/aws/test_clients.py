"""The maker of AWS clients."""

from __future__ import annotations

import socket
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest
from botocore import UNSIGNED

from segloop import installation
from segloop.aws.clients import ClientOptions, Clients, aws_client, bucket_region, code_of, s3_client
from segloop.errors import LabelStudioUnreachable, RegistryError, SettingsError
from segloop.images.s3 import S3Reader, StorageError
from segloop.labelstudio.target import TargetStorage
from segloop.registry.s3 import S3Store
from segloop.settings import load_settings


@pytest.fixture(autouse=True)
def configured(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"ACCESS_KEY_ID": "id", "SECRET_ACCESS_KEY": "key", "DEFAULT_REGION": "eu-west-1"}.items():
        monkeypatch.setenv(f"AWS_{name}", value)


@pytest.fixture
def silent() -> Iterator[str]:
    """Address of a server that takes connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


def test_a_client_is_made_as_the_options_say() -> None:
    options = ClientOptions(
        "us-east-2", "http://127.0.0.1:9", anonymous=True, read_timeout_s=7, attempts=3, connections=2
    )
    meta = s3_client(options).meta
    assert (meta.region_name, meta.endpoint_url) == ("us-east-2", "http://127.0.0.1:9")
    config = vars(meta.config)
    assert (config["connect_timeout"], config["read_timeout"], config["max_pool_connections"]) == (5, 7, 2)
    assert config["retries"] == {"mode": "standard", "total_max_attempts": 3}
    assert config["signature_version"] is UNSIGNED
    assert config["s3"]["addressing_style"] == "path"


@pytest.mark.slow
def test_a_client_without_options_is_of_the_configured_region_and_signs() -> None:
    meta = s3_client().meta
    assert meta.region_name == "eu-west-1"
    assert vars(meta.config)["signature_version"] == "s3v4"
    assert Clients(load_settings(None)).region == "eu-west-1"
    assert Clients(load_settings(None), region="us-west-2").sagemaker.meta.region_name == "us-west-2"


def test_no_region_at_all_is_a_mistake_in_the_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_DEFAULT_REGION")
    monkeypatch.setenv("AWS_CONFIG_FILE", "/nonexistent")
    with pytest.raises(SettingsError, match="SEGLOOP_SAGEMAKER_REGION is empty"):
        Clients(load_settings(None))


@pytest.mark.slow
def test_nobody_waits_long_for_the_region_of_a_bucket(silent: str, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[ClientOptions] = []

    def note(service: str, options: ClientOptions) -> object:
        made.append(options)
        return aws_client(service, ClientOptions(**{**vars(options), "read_timeout_s": 0.2}))

    monkeypatch.setattr("segloop.aws.clients.aws_client", note)
    assert bucket_region("photos", silent) == ""
    (options,) = made
    assert options.anonymous
    assert options.connect_timeout_s + options.read_timeout_s <= 10
    assert options.attempts == 1
    assert bucket_region("photos", "no address") == ""


def test_whoever_needs_s3_says_what_to_install_where_there_is_no_boto3(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(installation, "find_spec", lambda name: None)
    with pytest.raises(SettingsError, match=r"pip install 'segloop\[aws\]'"):
        aws_client("s3")
    with pytest.raises(StorageError, match=r"pip install 'segloop\[aws\]'"):
        S3Reader(1.0).get("s3://photos/1.jpg", deadline=time.monotonic() + 9, max_bytes=9)
    with pytest.raises(SettingsError, match=r"pip install 'segloop\[aws\]'"):
        S3Store("s3://store")
    with pytest.raises(SettingsError, match=r"pip install 'segloop\[aws\]'"):
        next(TargetStorage("s3://annotations", 1).pages())
    assert bucket_region("photos") == ""


@pytest.mark.slow
def test_a_store_that_cannot_be_reached_is_the_callers_own_error(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{port}")
    monkeypatch.setattr(time, "sleep", lambda _: None)  # botocore's pauses between its tries
    with pytest.raises(RegistryError, match="the store s3://store cannot be used"):
        S3Store("s3://store").read("key")
    with pytest.raises(LabelStudioUnreachable, match="cannot be read"):
        next(TargetStorage("s3://annotations", 1).pages())
    with pytest.raises(StorageError, match="S3: "):
        S3Reader(1.0).get("s3://photos/1.jpg", deadline=time.monotonic() + 9, max_bytes=9)


def test_an_error_that_is_not_of_aws_has_no_code() -> None:
    assert code_of(OSError("the disk is full")) == ""


@pytest.mark.slow
def test_importing_the_users_of_s3_does_not_import_boto3() -> None:
    modules = "segloop.aws.clients, segloop.registry.s3, segloop.images.s3, segloop.labelstudio.target, segloop.serving.endpoint"
    program = f"import sys, {modules}; sys.exit('boto3' in sys.modules or 'botocore' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
