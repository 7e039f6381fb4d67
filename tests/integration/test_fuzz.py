"""Every route of `/openapi.json` against what schemathesis makes of its description, and against broken variants of its examples,
which reach deeper: a refusal with a sentence, never a 500."""

from __future__ import annotations

import base64
import copy
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from schemathesis import Case, GenerationMode, Response
from schemathesis.checks import CHECKS, load_all_checks
from werkzeug.test import TestResponse

from segloop.settings import Settings
from segloop.web.openapi import description
from tests.world import World

PROJECT = "29.1795383040"
#: Variants of each operation; and requests of each kind that are generated for it.
BUDGET, GENERATED = 150, 20
USER, PASSWORD = "segloop", "of the tests"
AUTHORIZATION = {"Authorization": "Basic " + base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()}
#: What each answer must agree with in the description.
load_all_checks()
CONFORMANCE = CHECKS.get_by_names(
    ["status_code_conformance", "content_type_conformance", "response_schema_conformance"]
)

SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.sampled_from([-1, 0, 2**31, 2**63 - 1, 2**64 - 1, 1e308, -0.0, 1e-300])
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=20)
    | st.sampled_from(
        ["", "29", "29.1", "9" * 30, "../..", "\x00", "\ud83d\ude00", "<View/>", "data:,%41", "image", "Road"]
    )
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=8,
)
OPERATIONS = [(method, path) for path, methods in description()["paths"].items() for method in methods]


def places(value: Any, at: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Where each value within a JSON value is."""
    yield at
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield from places(inner, (*at, key))


@st.composite
def broken(draw: st.DrawFn, example: Any) -> Any:
    """An example in which some values are others, or gone."""
    made = copy.deepcopy(example)
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.sampled_from(list(places(made))))
        if not at:
            return draw(VALUES)
        holder = made
        for key in at[:-1]:
            holder = holder[key]
        if draw(st.integers(0, 4)) == 0:
            del holder[at[-1]]
        else:
            holder[at[-1]] = draw(VALUES)
    return made


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, valkey: Any) -> Iterator[World]:
    folder: Path = tmp_path_factory.mktemp("fuzz")
    own = {
        "data_dir": folder,
        "weights": "none",
        "redis_url": valkey.connection_url,
        "label_studio_url": "http://127.0.0.1:9",
        "basic_auth_user": USER,
        "basic_auth_pass": PASSWORD,
    }
    made = World(Settings(_env_file=None, input_size=64, **own))
    made.promote(PROJECT)
    yield made
    made.close()


def test_the_description_has_every_route(world: World) -> None:
    served = world.client.get("/openapi.json", headers=AUTHORIZATION).json
    assert served == description()
    rules = world.client.application.url_map.iter_rules()
    routes = {
        (method.lower(), rule.rule)
        for rule in rules
        for method in (rule.methods or set()) - {"HEAD", "OPTIONS"}
        if not rule.rule.startswith("/ui") and "<" not in rule.rule and rule.endpoint.partition(".")[0] != "ui"
    }
    assert routes == set(OPERATIONS)


@pytest.mark.slow
@pytest.mark.parametrize(("method", "path"), OPERATIONS)
def test_no_variant_of_an_example_breaks_a_route(world: World, method: str, path: str) -> None:
    operation = description()["paths"][path][method]
    queries = [parameter["name"] for parameter in operation.get("parameters", ())]
    example = operation.get("requestBody", {}).get("content", {}).get("application/json", {}).get("example", {})
    is_free = not queries and method == "get"

    @settings(
        max_examples=3 if is_free else BUDGET, derandomize=True, database=None, suppress_health_check=list(HealthCheck)
    )
    @given(st.data())
    def check(data: st.DataObject) -> None:
        if method == "post":
            answer = world.client.post(path, json=data.draw(broken(example)), headers=AUTHORIZATION)
        else:
            text = st.text(max_size=30) | st.sampled_from(["29", PROJECT, "9" * 40, "29.", "-1", "store"])
            query = {name: data.draw(text) for name in queries}
            answer = world.client.get(path, query_string=query, headers=AUTHORIZATION)
        look_at(path, answer)

    check()


@pytest.mark.slow
@pytest.mark.parametrize("mode", GenerationMode)
@pytest.mark.parametrize(("method", "path"), OPERATIONS)
def test_what_the_description_allows_and_forbids_is_answered_as_it_says(
    world: World, method: str, path: str, mode: GenerationMode
) -> None:
    schema = schemathesis.openapi.from_wsgi("/openapi.json", world.client.application, headers=AUTHORIZATION)
    operation = schema[path][method]

    @settings(max_examples=GENERATED, derandomize=True, database=None, suppress_health_check=list(HealthCheck))
    @given(operation.as_strategy(generation_mode=mode))
    def check(case: Case) -> None:
        answer = case.call(headers=AUTHORIZATION)
        case.validate_response(answer, checks=CONFORMANCE)
        look_at(path, answer)

    if mode is GenerationMode.POSITIVE or path != "/health":
        check()


def look_at(path: str, answer: TestResponse | Response) -> None:
    """No fault of the server's; a refusal has a sentence and no traceback."""
    headers = {name.lower() for name in dict(answer.headers)}
    assert answer.status_code < 500 or (answer.status_code == 503 and "retry-after" in headers) or path == "/ready"
    if answer.status_code >= 400 and path != "/ready":
        refusal = answer.json() if callable(answer.json) else answer.json
        assert set(refusal) == {"error"}
        assert refusal["error"]
        assert not re.search(r"Traceback|File \"", answer.text)
