"""The checks of `segloop doctor`: facts in, findings out; and the examination that runs them."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from segloop.doctor import Examination, all_is_well, connection, machine, report, server
from segloop.doctor.findings import Finding, failure, ok, skipped, warning
from segloop.labelstudio import ANNOTATION_ACTIONS, SECRET_HEADER, Refusals
from segloop.labelstudio.entries import BackendEntry, ProjectEntry, WebhookEntry
from segloop.network.weights import published_path
from segloop.queue.state import QueueState
from segloop.registry import Registry, open_registry
from segloop.serving import engines
from segloop.settings import Settings
from segloop.versions import EngineFigures, EngineReport
from tests.toys import BRUSH, toy_bundle

URL = "http://10.0.0.5:9090"
NO_REFUSALS = Refusals()
PROJECT = "29.1795383040"


def test_all_is_well_unless_something_failed_or_is_worth_a_warning() -> None:
    fine = [ok("fine"), skipped("nothing to see")]
    assert all_is_well(fine)
    assert not all_is_well([*fine, warning("slow", "buy more")])
    told = report([*fine, failure("broken", "mend it", check="d")])
    assert (told["format"], told["ok"]) == (1, False)
    assert told["findings"][-1] == {
        "check": "d",
        "status": "failure",
        "text": "broken",
        "fix": "mend it",
        "project": None,
    }


@pytest.mark.parametrize(
    ("release", "status", "text"),
    [
        ("1.23.2", "ok", "1.23.2"),
        ("1.30.0", "ok", "tested with 1.23"),
        ("1.8.1", "warning", "older"),
        ("2.0.0", "warning", "newer generation"),
        ("", "warning", "''"),
        ("develop", "warning", "'develop'"),
    ],
)
def test_releases_of_label_studio(release: str, status: str, text: str) -> None:
    found = connection.version_skew(release)
    assert (found.status, text in found.text) == (status, True)


@pytest.mark.parametrize(
    ("given", "status"),
    [
        ({"label_studio_url": "http://studio.example.org"}, "failure"),
        ({"label_studio_url": "http://localhost:8080"}, "ok"),
        ({"label_studio_url": "http://[::1]:8080"}, "ok"),
        ({"label_studio_url": "http://studio.example.org", "basic_auth_pass": "p"}, "ok"),
    ],
)
def test_without_a_password_only_this_machine_is_served(given: dict[str, str], status: str) -> None:
    assert connection.access(Settings(**given)).status == status


@pytest.mark.parametrize(
    ("host", "expected"),
    [("ml-backend", False), ("segloop.internal", True), ("10.0.0.5", True), ("::1", True), ("localhost", True)],
)
def test_hosts_that_label_studio_makes_webhooks_for(host: str, expected: bool) -> None:
    address = f"http://[{host}]:9090" if ":" in host else f"http://{host}:9090"
    assert (connection.backend_address(address, NO_REFUSALS).status == "ok") == expected


def test_blocked_addresses_name_the_variable_that_lets_them_in() -> None:
    half = Refusals(webhook="URL resolves to a reserved network address", blocked=frozenset({"webhook"}))
    found = connection.private_addresses(URL, half)
    assert "SSRF_PROTECTION_ENABLED=false" in found.fix
    assert "ML_BLOCK_LOCAL_IP" not in found.fix
    both = Refusals("reserved", "reserved", frozenset({"backend", "webhook"}))
    found = connection.private_addresses(URL, both)
    assert "takes neither the backend nor its webhook" in found.text
    assert ("SSRF_PROTECTION_ENABLED=false" in found.fix, "ML_BLOCK_LOCAL_IP=false" in found.fix) == (True, True)
    unresolved = Refusals(backend="Can't resolve hostname segloop.internal")
    assert connection.private_addresses(URL, unresolved).status == "ok"
    found = connection.backend_address("http://segloop.internal:9090", unresolved)
    assert (found.status, "resolve hostname" in found.text) == ("failure", True)


def entry(**fields: Any) -> BackendEntry:
    known = {"url": URL, "state": "CO", "title": "v1", "model_version": "v1", "error_message": None}
    return BackendEntry.model_validate({**known, **fields})


@pytest.mark.parametrize(
    ("backends", "url", "text", "status"),
    [
        ([entry()], URL, "connected", "ok"),
        ([], "", "no ML backend", "failure"),
        ([entry(url="http://a.b"), entry(url="http://c.d")], "", "http://a.b, http://c.d", "failure"),
        ([entry(state="DI")], URL, "gets no answer", "failure"),
        ([entry(state="ER", error_message="401 Client Error: UNAUTHORIZED")], URL, "user and password", "failure"),
        ([entry(state="ER", error_message="boom\nmore")], URL, "broken: boom", "failure"),
    ],
)
def test_states_of_the_backend(backends: list[BackendEntry], url: str, text: str, status: str) -> None:
    found = connection.entry(backends, url, "", 7)
    assert (found.status, text in found.text) == (status, True)


def test_one_version_everywhere() -> None:
    project = ProjectEntry(id=7, model_version="v1")
    assert connection.title(entry(), project).status == "ok"
    assert "'v0', but it serves 'v1'" in connection.title(entry(title="v0"), project).text
    assert "predictions of 'v0'" in connection.title(entry(), ProjectEntry(id=7, model_version="v0")).text
    assert "predictions of 'no version'" in connection.title(entry(), ProjectEntry(id=7)).text
    hidden = ProjectEntry(id=7, show_collab_predictions=False)
    assert connection.title(entry(), hidden).status == "ok"
    assert connection.live_predictions(hidden).status == "warning"
    assert connection.title(entry(model_version=""), project).status == "skipped"
    assert connection.served_version(entry(), "v1").status == "ok"
    assert connection.served_version(entry(), None).status == "ok"
    assert connection.served_version(entry(), "v2").status == "failure"


def webhook(**fields: Any) -> WebhookEntry:
    known = {
        "url": f"{URL}/webhook",
        "is_active": True,
        "send_payload": True,
        "send_for_all_actions": False,
        "actions": list(ANNOTATION_ACTIONS),
        "headers": {SECRET_HEADER: "s3cret"},
    }
    return WebhookEntry.model_validate({**known, **fields})


@pytest.mark.parametrize(
    ("headers", "settings", "status"),
    [
        ({SECRET_HEADER.lower(): "s3cret"}, {"basic_auth_pass": "p", "webhook_secret": "s3cret"}, "ok"),
        ({SECRET_HEADER: "old"}, {"basic_auth_pass": "p", "webhook_secret": "s3cret"}, "failure"),
        ({}, {"basic_auth_pass": "p", "webhook_secret": "s3cret"}, "failure"),
        (None, {"basic_auth_pass": "p", "webhook_secret": "s3cret"}, "failure"),
        ({}, {"basic_auth_pass": "p"}, "failure"),
        ({}, {}, "ok"),
    ],
)
def test_the_secret_of_the_webhook(headers: dict[str, str] | None, settings: dict[str, str], status: str) -> None:
    found = connection.webhook_secret(webhook(headers=headers), Settings(**settings), 7)
    assert found.status == status
    assert not any(secret in found.text + found.fix for secret in ("s3cret", "old"))


def test_webhooks() -> None:
    assert connection.webhook_there([webhook(url=f"{URL}/webhook/")], URL, 7).status == "ok"
    assert connection.webhook_there([webhook(url="http://other.example/webhook")], URL, 7).status == "failure"
    assert connection.webhook_actions(webhook(), 7).status == "ok"
    assert connection.webhook_actions(webhook(actions=["ANNOTATION_CREATED"]), 7).status == "failure"
    assert connection.webhook_actions(webhook(send_for_all_actions=True), 7).status == "warning"


@pytest.mark.parametrize(
    ("config", "status", "text"),
    [
        (BRUSH, "ok", "Road, Sky"),
        ("<View/>", "failure", ""),
        ("<View", "failure", ""),
        (
            BRUSH.replace("BrushLabels", "RectangleLabels"),
            "failure",
            "BrushLabels",
        ),
    ],
)
def test_label_configs(config: str, status: str, text: str) -> None:
    found = connection.label_config(config)
    assert (found.status, text in found.text) == (status, True)


@pytest.mark.parametrize(
    ("what", "seconds", "answered", "status", "text"),
    [
        ("setup", 0.2, 200, "ok", "waits 3 s"),
        ("setup", 1.6, 200, "warning", "ML_TIMEOUT_SETUP"),
        ("setup", 3.1, 200, "failure", "ML_TIMEOUT_SETUP"),
        ("webhook", 1.2, 201, "failure", "WEBHOOK_TIMEOUT"),
        ("webhook", 0.1, 401, "failure", "SEGLOOP_WEBHOOK_SECRET"),
        ("predict", 0.1, 401, "failure", "BASIC_AUTH_PASS"),
        ("predict", 0.1, 503, "failure", "503"),
    ],
)
def test_time_that_answers_take(what: str, seconds: float, answered: int, status: str, text: str) -> None:
    found = server.answer_time(what, seconds, answered)
    assert found.status == status
    assert text in found.text + found.fix


def test_no_server() -> None:
    running, found = server.find_server(Settings(port=9), "http://127.0.0.1:9/")
    assert (running, found.status) == (None, "failure")
    assert "segloop up" in found.fix


def test_queue_states() -> None:
    fine = QueueState({"a": ("w1",), "b": ("w1", "w2")}, {"a": 0, "b": 3})
    assert (machine.redis(fine).status, machine.workers(fine).status) == ("ok", "ok")
    evicting = QueueState({}, {}, "allkeys-lru")
    assert machine.redis(evicting).status == "warning"
    idle = machine.workers(QueueState({"a": (), "b": ("w",)}, {"a": 3, "b": 0}))
    assert (idle.status, idle.text) == ("failure", "no worker listens to a, where 3 jobs wait")


def test_redis_that_drops_keys_is_found(settings: Settings, redis_url: str) -> None:
    import redis

    with redis.Redis.from_url(redis_url) as client:
        client.config_set("maxmemory-policy", "allkeys-lru")
        try:
            found = machine.queue(settings.model_copy(update={"redis_url": redis_url}))
        finally:
            client.config_set("maxmemory-policy", "noeviction")
    assert isinstance(found, dict)
    assert (found["redis"].status, "allkeys-lru" in found["redis"].text) == ("warning", True)


@pytest.mark.parametrize(("gib", "status"), [(0.5, "failure"), (3, "warning"), (50, "ok")])
def test_disk_space(gib: float, status: str) -> None:
    assert machine.disk_space("/data", int(gib * 2**30)).status == status


def test_a_store_that_cannot_be_written(settings: Settings, tmp_path: Path) -> None:
    assert machine.store(settings).status == "ok"
    (tmp_path / "file").touch()
    found = machine.store(settings.model_copy(update={"store": str(tmp_path / "file" / "store")}))
    assert (found.status, "who owns that folder" in found.fix) == ("failure", True)
    found = machine.store(settings.model_copy(update={"store": "s3:///prefix"}))
    assert found.status == "failure"


def test_gpu(settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engines, "_GPU_DEVICES", (str(tmp_path / "none"),))
    assert "no GPU" in machine.gpu(settings).text
    monkeypatch.setattr(engines, "_GPU_DEVICES", (str(tmp_path),))
    monkeypatch.setattr(machine, "on_gpu", lambda settings: False)
    assert machine.gpu(settings).status == "warning"
    monkeypatch.undo()
    assert machine.gpu(settings.model_copy(update={"device": "cpu"})).status == "ok"


@pytest.mark.slow  # it imports torch
def test_a_gpu_that_is_wanted_and_is_not_there(settings: Settings) -> None:
    torch = pytest.importorskip("torch")
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    assert machine.gpu(settings.model_copy(update={"device": "cuda"})).status == "failure"


@pytest.fixture
def registry(settings: Settings) -> Registry:
    return open_registry(settings)


def promoted(registry: Registry, folder: Path, **fields: Any) -> None:
    bundle, info = toy_bundle(folder)
    registry.promote(PROJECT, registry.add(PROJECT, bundle, info.model_copy(update=fields)), "test")


def test_the_engine_and_why(settings: Settings, registry: Registry, tmp_path: Path) -> None:
    said = EngineReport(
        openvino_int8=EngineFigures(reason="It loses 0.03 mIoU."),
        openvino=EngineFigures(serves=True, reason="It is exact."),
    )
    promoted(registry, tmp_path / "one", engines=said)
    found = machine.engine(settings, registry, PROJECT, BRUSH, "v1")
    assert (found.status, "runs on openvino: It is exact." in found.text) == ("ok", True)
    int8 = settings.model_copy(update={"engine": "openvino-int8"})
    found = machine.engine(int8, registry, PROJECT, BRUSH, "v1")
    assert (found.status, "It loses 0.03 mIoU." in found.text) == ("warning", True)
    endpoint = settings.model_copy(update={"engine": "sagemaker:streets"})
    assert "endpoint streets" in machine.engine(endpoint, registry, PROJECT, BRUSH, "v1").text


def test_a_version_that_could_not_be_exported(settings: Settings, registry: Registry, tmp_path: Path) -> None:
    promoted(registry, tmp_path / "one", engines=EngineReport(error="no memory"))
    found = machine.engine(settings, registry, PROJECT, BRUSH, "v1")
    assert (found.status, "no memory" in found.text) == ("warning", True)


@pytest.mark.parametrize(
    ("weights", "config", "answers", "status"),
    [
        ("none", BRUSH, "untrained", "ok"),
        ("coco", BRUSH, "untrained", "ok"),
        ("coco", BRUSH.replace("Road", "Car"), "deeplabv3_resnet50-coco", "ok"),
        ("coco", BRUSH.replace("Road", "Car"), "untrained", "warning"),
        ("/no/such/file.pth", BRUSH, "untrained", "failure"),
    ],
)
def test_what_answers_before_any_training(
    weights: str, config: str, answers: str, status: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    fetched = published_path(Settings(weights="coco"))
    fetched.parent.mkdir(parents=True)
    fetched.write_bytes(b"weights")
    assert machine.untrained(Settings(weights=weights), config, answers).status == status


# -- the examination


def test_no_check_stops_the_others_or_takes_for_ever(settings: Settings) -> None:
    examination = Examination(settings)
    examination._check("one", lambda: 1 / 0)  # type: ignore[arg-type, return-value]
    examination._check("two", lambda: time.sleep(60), limit_s=0.05)  # type: ignore[arg-type, return-value, func-returns-value]
    examination._check("three", lambda: ok("fine"))
    one, two, three = examination.findings
    assert [(found.check, found.status) for found in (one, two, three)] == [
        ("one", "failure"),
        ("two", "failure"),
        ("three", "ok"),
    ]
    assert "ZeroDivisionError" in one.text
    assert "no answer within 0.05 s" in two.text


def test_everything_is_away(settings: Settings) -> None:
    own = {"redis_url": "redis://127.0.0.1:9", "port": 9, "label_studio_api_key": "a.b.c"}
    findings = Examination(settings.model_copy(update=own)).run(7)
    failed = {finding.check for finding in findings if finding.status == "failure"}
    assert failed == {"redis", "label-studio", "server"}
    (project,) = [finding for finding in findings if finding.check == "project"]
    assert (project.status, project.project) == ("skipped", 7)
    assert isinstance(findings[0], Finding)
