"""`/metrics` and `/ready` over a real registry and queue."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from segloop.errors import EngineError, RegistryError
from segloop.registry import Registry
from segloop.serving import swap as serving
from segloop.settings import Settings
from segloop.web import readiness
from segloop.web.metric_table import METRICS, TRAINING_S
from tests.toys import BRUSH, toy_loader
from tests.waiting import until
from tests.world import World

PROJECT = "1.1795382829"
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def world(settings: Settings, redis_url: str) -> Iterator[World]:
    made = World(settings.model_copy(update={"redis_url": redis_url}))
    yield made
    made.close()


def samples(world: World) -> dict[tuple[str, frozenset], float]:
    """What `/metrics` says now: values by name and labels."""
    answer = world.client.get("/metrics")
    assert answer.status_code == 200
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(answer.text)
        for sample in family.samples
    }


def key(name: str, **labels: str) -> tuple[str, frozenset]:
    return name, frozenset(labels.items())


def predict(world: World, *uris: str, context: Any = None) -> Any:
    tasks = [{"id": number, "data": {"image": uri}} for number, uri in enumerate(uris, 1)]
    body = {"tasks": tasks, "project": PROJECT, "label_config": BRUSH, "params": {"context": context}}
    return world.client.post("/predict", json=body)


@pytest.mark.slow
def test_predictions_are_counted_by_stage_cache_and_reason(world: World) -> None:
    version = world.promote(PROJECT)
    world.models.preload()  # which warms the network up
    before = samples(world)
    predict(world, "/a.png", "/bad.png")
    predict(world, "/a.png")
    after = samples(world)

    def more(name: str, **labels: str) -> float:
        return after.get(key(name, **labels), 0) - before.get(key(name, **labels), 0)

    assert more("segloop_predictions_total", kind="batch") == 3
    assert more("segloop_prediction_failures_total", reason="ImageError") == 1
    assert more("segloop_stage_duration_seconds_count", stage="network") == 1
    assert more("segloop_stage_duration_seconds_count", stage="inference") == 1
    assert more("segloop_stage_duration_seconds_count", stage="encode") == 2
    assert more("segloop_cache_requests_total", cache="prediction", result="miss") == 1
    assert more("segloop_cache_requests_total", cache="prediction", result="hit") == 1
    assert more("segloop_http_request_duration_seconds_count", method="POST", route="/predict", status="200") == 2
    assert after[key("segloop_served_version_info", project=PROJECT, version=version)] == 1
    assert after[key("segloop_prediction_cache_bytes")] > 0


@pytest.mark.slow
def test_smart_tools_and_what_they_fail_of_are_counted(world: World) -> None:
    world.promote(PROJECT)
    before = samples(world)
    predict(world, "/bad.png", context={"result": [{"type": "keypointlabels", "to_name": "image", "value": {}}]})
    after = samples(world)
    name, failures = key("segloop_predictions_total", kind="interactive"), "segloop_prediction_failures_total"
    assert after[name] - before.get(name, 0) == 1
    assert after[key(failures, reason="ImageError")] - before.get(key(failures, reason="ImageError"), 0) == 1


def test_routes_have_a_series_each_and_strange_paths_share_one(world: World) -> None:
    before = samples(world)
    for number in range(3):
        world.client.get(f"/nowhere/{number}")
    world.client.open("/health", method="BREW")
    after = samples(world)
    name = "segloop_http_request_duration_seconds_count"
    lost = key(name, method="GET", route="other", status="404")
    brewed = key(name, method="other", route="/health", status="405")
    assert after[lost] - before.get(lost, 0) == 3
    assert after[brewed] - before.get(brewed, 0) == 1
    assert not any("nowhere" in str(labels) for _, labels in after)


def test_a_swap_is_counted_and_one_that_fails_too(settings: Settings, redis_url: str) -> None:
    broken: list[str] = []

    def load(registry: Registry, project: str, version: str, own: Settings) -> Any:
        if version in broken:
            raise EngineError("broken")
        return toy_loader(registry, project, version, own)

    world = World(settings.model_copy(update={"redis_url": redis_url}), load)
    world.promote(PROJECT, 1)
    predict(world, "/a.png")
    before = samples(world)
    world.promote(PROJECT, 2)
    world.models.refresh()
    broken.append(world.promote(PROJECT, 3))
    world.models.refresh()
    after = samples(world)
    world.close()
    for name in ("segloop_swaps_total", "segloop_swap_failures_total"):
        assert after[key(name, project=PROJECT)] - before.get(key(name, project=PROJECT), 0) == 1


def test_the_queue_and_how_jobs_ended(world: World) -> None:
    job = world.jobs.enqueue_retrain(PROJECT, "test").job_id
    for _ in range(2):  # told twice, counted once
        world.jobs.counters.count_retrain(job, "full", "promoted", 250.0)
    world.jobs.counters.count_retrain("retrain-2", "quick", "failed")
    world.jobs.counters.count_prelabelled(7, 1)
    found = samples(world)
    assert found[key("segloop_queue_jobs", queue="segloop-retrain", state="queued")] == 1
    assert found[key("segloop_queue_jobs", queue="segloop-prelabel", state="queued")] == 0
    assert found[key("segloop_queue_workers", queue="segloop-retrain")] == 0
    assert found[key("segloop_retrains_total", recipe="full", outcome="promoted")] == 1
    assert found[key("segloop_retrains_total", recipe="quick", outcome="failed")] == 1
    training = "segloop_training_duration_seconds"
    assert found[key(f"{training}_sum", recipe="full")] == 250
    by_bound = {bound: found[key(f"{training}_bucket", recipe="full", le=str(bound))] for bound in TRAINING_S}
    assert [bound for bound, count in by_bound.items() if count] == [bound for bound in TRAINING_S if bound >= 300]
    assert found[key("segloop_prelabelled_tasks_total", outcome="predicted")] == 7


def test_every_metric_of_the_table_is_exposed_by_its_name(world: World) -> None:
    world.promote(PROJECT)
    predict(world, "/a.png", "/bad.png")
    world.jobs.counters.count_retrain("retrain-3", "full", "kept", 10.0)
    types = {family.name: family.type for family in text_string_to_metric_families(world.client.get("/metrics").text)}
    for metric in METRICS:
        if not metric.name.startswith("segloop_gpu"):
            # the text format shows an info as a gauge; the parser leaves out a counter's _total
            name = metric.series if metric.kind == "info" else metric.name
            assert types[name] == {"info": "gauge"}.get(metric.kind, metric.kind), name


def test_metrics_are_guarded_and_readiness_is_open(settings: Settings, redis_url: str) -> None:
    world = World(settings.model_validate(settings.model_dump() | {"redis_url": redis_url, "basic_auth_pass": "pw"}))
    assert world.client.get("/metrics").status_code == 401
    assert world.client.get("/metrics", auth=("segloop", "pw")).status_code == 200
    assert world.client.get("/ready?part=queue").status_code == 200
    world.close()


def test_openmetrics_is_spoken_where_it_is_asked_for(world: World) -> None:
    answer = world.client.get("/metrics", headers={"Accept": "application/openmetrics-text; version=1.0.0"})
    assert answer.content_type.startswith("application/openmetrics-text")
    assert answer.text.endswith("# EOF\n")


# -- readiness


def test_ready_once_what_is_promoted_is_loaded(settings: Settings, redis_url: str) -> None:
    may_load = threading.Event()

    def load(*arguments: Any) -> Any:
        may_load.wait(30)
        return toy_loader(*arguments)

    world = World(settings.model_copy(update={"redis_url": redis_url, "swap_poll_s": 0.05}), load)
    world.promote(PROJECT)
    world.models.start()
    answer = world.client.get("/ready")
    assert answer.status_code == 503
    assert answer.json["parts"] == {"model": "promoted versions are being loaded", "store": "ready", "queue": "ready"}
    assert world.client.get("/health").status_code == 200
    may_load.set()
    await_ready(world)
    world.close()


def await_ready(world: World) -> None:
    until(lambda: world.client.get("/ready").status_code == 200, "readiness")
    assert world.client.get("/ready").json["ready"] is True


def test_the_queue_is_away(settings: Settings) -> None:
    world = World(settings.model_copy(update={"redis_url": "redis://:s3cret@127.0.0.1:9"}))
    world.models.preload()
    answer = world.client.get("/ready")
    assert (answer.status_code, answer.json["parts"]["queue"]) == (503, "it does not answer; the log says why")
    assert "127.0.0.1" not in answer.text
    assert world.client.get("/ready?part=model&part=store").status_code == 200
    found = samples(world)
    assert found[key("segloop_ready", part="queue")] == 0
    assert not any(name.startswith("segloop_queue") for name, _ in found), "what cannot be asked has no figures"
    world.close()


@pytest.mark.slow
def test_a_store_that_hangs_is_not_waited_for(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    release = threading.Event()
    asked: list[int] = []

    def hang() -> list[str]:
        asked.append(1)
        release.wait(60)
        return []

    monkeypatch.setattr(readiness, "PATIENCE_S", 0.2)
    monkeypatch.setattr(world.registry, "projects", hang)
    try:
        for _ in range(3):
            assert world.client.get("/ready?part=store").json["parts"]["store"].startswith("no answer within")
        assert len(asked) == 1, "whoever hangs is not asked again and again"
    finally:
        release.set()


@pytest.mark.slow
def test_a_server_whose_store_was_away_at_its_start_becomes_ready(
    settings: Settings, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(serving, "PRELOAD_AGAIN_S", 0.05)
    world = World(settings.model_copy(update={"redis_url": redis_url, "swap_poll_s": 0.05}))
    world.promote(PROJECT)
    projects, away = world.registry.projects, [True]

    def sometimes() -> list[str]:
        if away[0]:
            raise RegistryError("the store is away")
        return projects()

    monkeypatch.setattr(world.registry, "projects", sometimes)
    world.models.start()
    assert world.client.get("/ready").status_code == 503
    away[0] = False
    await_ready(world)
    assert world.models.served()
    world.close()


def test_an_unknown_part_is_named(world: World) -> None:
    answer = world.client.get("/ready?part=disk")
    assert answer.status_code == 400
    assert "'disk'" in answer.json["error"]


# -- requests


@pytest.mark.parametrize("given", ["abc-1", "4bf92f35:7.a_b"])
def test_a_callers_request_id_comes_back(world: World, given: str) -> None:
    assert world.client.get("/health", headers={"X-Request-Id": given}).headers["X-Request-Id"] == given


@pytest.mark.parametrize("given", ["", "a b", "x" * 129, "a\tb", "ü"])
def test_others_get_a_new_one(world: World, given: str) -> None:
    ids = {world.client.get("/health", headers={"X-Request-Id": given}).headers["X-Request-Id"] for _ in range(2)}
    assert len(ids) == 2
    assert given not in ids


@pytest.mark.slow
def test_a_start_imports_nothing_of_this() -> None:
    program = (
        "import sys; from segloop.backend import Backend; from segloop.settings import load_settings;"
        "from segloop.web import create_app; settings = load_settings(None);"
        "app = create_app(Backend.from_settings(settings), settings); app.test_client().get('/health');"
        "print([name for name in ('prometheus_client', 'opentelemetry', 'pythonjsonlogger', 'torch') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
