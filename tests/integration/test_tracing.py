"""Traces reach a collector: of requests below their caller's span, with their stages, and of jobs with their steps."""

from __future__ import annotations

import importlib.util
import logging
import os
from collections.abc import Iterator
from typing import Any

import pytest

from segloop.settings import trace_exporter
from segloop.telemetry import tracing
from segloop.telemetry.logs import configure_logging
from segloop.telemetry.notes import Stage
from tests.otlp import Collector
from tests.toys import BRUSH
from tests.world import World

PROJECT = "1.1795382829"
CALLER = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"


@pytest.fixture
def collector(monkeypatch: pytest.MonkeyPatch) -> Iterator[Collector]:
    for name in [name for name in os.environ if name.startswith("OTEL_")]:
        monkeypatch.delenv(name)
    made = Collector()
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", made.url)
    yield made
    tracing.stop()
    made.close()


def attributes(span: Any) -> dict[str, object]:
    return {
        one.key: one.value.int_value if one.value.HasField("int_value") else one.value.string_value
        for one in span.attributes
    }


def test_a_request_and_its_stages(settings: Any, redis_url: str, collector: Collector) -> None:
    assert tracing.start("segloop")
    world = World(settings.model_copy(update={"redis_url": redis_url}))
    world.promote(PROJECT)
    tasks = [{"id": number, "data": {"image": f"/data/upload/{number}.png"}} for number in (1, 2)]
    body = {"tasks": tasks, "project": PROJECT, "label_config": BRUSH, "params": {"context": None}}
    headers = {"traceparent": f"00-{CALLER[0]}-{CALLER[1]}-01", "X-Request-Id": "req-7"}
    assert world.client.post("/predict?sig=secret", json=body, headers=headers).status_code == 200
    assert world.client.post("/predict", data="{").status_code == 400
    assert world.client.get("/no-such-page").status_code == 404
    world.close()
    tracing.stop()

    [request, refused] = collector.named("POST /predict")
    assert (request.trace_id.hex(), request.parent_span_id.hex()) == CALLER
    facts = attributes(request)
    assert facts["http.response.status_code"] == 200
    assert (facts["http.route"], facts["segloop.request_id"]) == ("/predict", "req-7")
    assert (facts["url.path"], facts["http.request.method"]) == ("/predict", "POST")
    assert "secret" not in str(collector.spans)
    assert attributes(refused)["http.response.status_code"] == 400
    assert attributes(collector.named("GET /no-such-page")[0])["http.response.status_code"] == 404
    for stage in ("network", "encode"):
        spans = collector.named(stage)
        assert spans, stage
        assert {span.parent_span_id for span in spans} == {request.span_id}, "threads of the request know its span"
    # the first pass of all warmed the network up, for no request
    inferences = [span for span in collector.named("inference") if span.parent_span_id]
    assert {span.parent_span_id for span in inferences} <= {span.span_id for span in collector.named("network")}
    assert inferences
    assert collector.resources[0]["service.name"] == "segloop"


def test_a_job_and_its_steps(collector: Collector, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_SERVICE_NAME", "my-worker")

    def retrain() -> None:
        with tracing.job_span("retrain", "retrain-1", "29.1"):
            with Stage("snapshot"):
                pass
            raise ValueError("step")

    with pytest.raises(ValueError, match="step"):
        retrain()
    job, snapshot = collector.await_span("retrain"), collector.await_span("snapshot")
    assert snapshot.parent_span_id == job.span_id
    assert attributes(job) == {"segloop.job_id": "retrain-1", "segloop.project": "29.1"}
    assert job.status.code == 2, "an error"
    assert collector.resources[0]["service.name"] == "my-worker"
    assert not tracing.is_on()


def test_what_a_span_tells_of_an_error_has_no_query_and_no_secret(
    collector: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging.getLogger(), "handlers", logging.getLogger().handlers[:])
    configure_logging("INFO", secrets=["hunter22"])

    def retrain() -> None:
        with tracing.job_span("retrain", "retrain-1", "29.1"), Stage("snapshot"):
            try:
                raise OSError("no answer of https://b.s3.amazonaws.com/a.jpg?X-Amz-Signature=s1gned")
            except OSError as error:
                raise ValueError("redis://:p4ssw0rd@queue refuses hunter22") from error

    with pytest.raises(ValueError, match="refuses"):
        retrain()
    for name in ("retrain", "snapshot"):
        span = collector.await_span(name)
        [event] = span.events
        told = attributes(event)
        assert told["exception.type"] == "ValueError"
        assert told["exception.message"] == "redis://***@queue refuses ***"
        assert "no answer of https://b.s3.amazonaws.com/a.jpg?***" in str(told["exception.stacktrace"])
        assert span.status.message == "ValueError: redis://***@queue refuses ***"
    for secret in ("s1gned", "p4ssw0rd", "hunter22"):
        assert secret not in str(collector.spans)


@pytest.mark.parametrize(
    ("variables", "exporter"),
    [
        ({}, ""),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://h"}, "otlp"),
        ({"OTEL_TRACES_EXPORTER": "console"}, "console"),
        ({"OTEL_TRACES_EXPORTER": "otlp"}, "otlp"),
        ({"OTEL_TRACES_EXPORTER": "none", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://h"}, ""),
        ({"OTEL_SDK_DISABLED": "true", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://h"}, ""),
    ],
)
def test_the_standard_variables_decide(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], exporter: str
) -> None:
    for name in [name for name in os.environ if name.startswith("OTEL_")]:
        monkeypatch.delenv(name)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert trace_exporter() == exporter


def test_an_exporter_that_segloop_lacks_is_named_and_left_out(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("OTEL_TRACES_EXPORTER", "zipkin")
    assert trace_exporter() == ""
    assert "'zipkin'" in caplog.text
    monkeypatch.setenv("OTEL_TRACES_EXPORTER", "zipkin, console")
    assert trace_exporter() == "console"


def test_without_the_extra_a_warning_says_so(
    collector: Collector, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr(tracing, "find_spec", lambda name: None if "opentelemetry" in name else found(name))
    assert not tracing.start("segloop")
    assert "segloop[otel]" in caplog.text
