"""A store that accepts and never answers: requests do not wait for it."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator

import pytest

from segloop.errors import RegistryError
from segloop.settings import Settings
from tests.toys import BRUSH
from tests.world import World

#: What Label Studio gives `/setup`, in seconds.
SETUP_S = 3.0


@pytest.fixture
def hanging(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", f"http://127.0.0.1:{listening.getsockname()[1]}")
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
        monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        yield


@pytest.mark.slow
@pytest.mark.usefixtures("hanging")
def test_setup_of_a_project_that_is_not_known_here(settings: Settings, redis_url: str) -> None:
    world = World(settings.model_copy(update={"redis_url": redis_url, "store": "s3://bucket/prefix"}))
    for project in ("1.1795382829", "1.1795382829", "2.1795382829"):
        began = time.monotonic()
        answer = world.client.post("/setup", json={"project": project, "schema": BRUSH})
        assert time.monotonic() - began < SETUP_S + 2, "with room for a busy machine"
        assert (answer.status_code, "Retry-After" in answer.headers) == (503, True)


def test_the_last_champion_goes_on_and_is_said_once(
    settings: Settings, redis_url: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    world = World(settings.model_copy(update={"redis_url": redis_url, "swap_poll_s": 0.001}))
    version = world.promote("1.1795382829")
    setup = {"project": "1.1795382829", "schema": BRUSH}
    assert world.client.post("/setup", json=setup).json["model_version"] == version

    def away(project: str) -> None:
        raise RegistryError("the store is away")

    monkeypatch.setattr(world.registry, "champion", away)
    for _ in range(20):
        time.sleep(0.002)
        assert world.client.post("/setup", json=setup).json["model_version"] == version
    lines = [record for record in caplog.records if "the champion pointer cannot be read" in record.message]
    assert len(lines) == 1
    assert lines[0].exc_info is None
    world.close()
