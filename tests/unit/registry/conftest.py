"""A store in a folder and one on S3, and bundles to put there."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path

import boto3
import pytest

from segloop.registry import Registry, open_registry
from segloop.registry.s3 import S3Store
from segloop.registry.store import FolderStore, Store
from segloop.settings import Settings
from tests.aws.moto_server import running_moto
from tests.bundles import BUCKET


@pytest.fixture(scope="session")
def moto_server() -> Iterator[str]:
    with running_moto() as url:
        keys = {"aws_access_key_id": "test", "aws_secret_access_key": "test"}
        boto3.client("s3", "us-east-1", endpoint_url=url, **keys).create_bucket(Bucket=BUCKET)
        yield url


@pytest.fixture
def s3_url(moto_server: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> str:
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", moto_server)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    return f"s3://{BUCKET}/{tmp_path.name}/store"


# make test-fast leaves S3 to test_s3_cache.py and test_generations.py: each client of boto3 takes long to make
@pytest.fixture(params=["folder", pytest.param("s3", marks=pytest.mark.slow)])
def store_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return str(request.getfixturevalue("s3_url")) if request.param == "s3" else str(tmp_path / "store")


@pytest.fixture
def settings(store_url: str, tmp_path: Path) -> Settings:
    return Settings(store=store_url, data_dir=tmp_path / "data")


@pytest.fixture
def registry(settings: Settings) -> Registry:
    return open_registry(settings)


@pytest.fixture
def store(store_url: str) -> Store:
    return S3Store(store_url) if store_url.startswith("s3://") else FolderStore(Path(store_url))


@pytest.fixture
def make_bundle(tmp_path: Path) -> Callable[..., Path]:
    def make(weights: bytes, **files: bytes) -> Path:
        folder = tmp_path / f"bundle-{hashlib.sha256(weights).hexdigest()[:12]}"
        folder.mkdir(exist_ok=True)
        (folder / "model.safetensors").write_bytes(weights)
        (folder / "version.json").write_text("{}")
        for name, data in files.items():
            (folder / name).write_bytes(data)
        return folder

    return make
