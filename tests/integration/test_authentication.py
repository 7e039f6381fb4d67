"""Who may ask the backend: basic auth, the webhook's secret, and this machine where there is no password."""

from __future__ import annotations

import base64
import json

import pytest

from tests.world import World, event


@pytest.fixture
def world(settings, redis_url):
    made = World(settings.model_copy(update={"redis_url": redis_url}))
    yield made
    made.close()


@pytest.fixture
def guarded(settings, redis_url):
    made = World(
        settings.model_validate(
            settings.model_dump()
            | {
                "redis_url": redis_url,
                "basic_auth_user": "ann",
                "basic_auth_pass": "pässwort",
                "webhook_secret": "s3cret",
            }
        )
    )
    yield made
    made.close()


def basic(user, password):
    return {"Authorization": "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()}


@pytest.mark.parametrize("route", ["/", "/versions", "/is_training?project=1"])
@pytest.mark.parametrize(
    "headers",
    [
        {},
        basic("ann", "wrong"),
        basic("bob", "pässwort"),
        basic("", ""),
        {"Authorization": "Bearer x"},
        {"Authorization": "Basic ///"},
    ],
)
def test_no_or_wrong_credentials_are_refused(guarded, route, headers):
    response = guarded.client.get(route, headers=headers)
    assert response.status_code == 401
    assert response.headers["WWW-Authenticate"].startswith("Basic")


def test_right_credentials_and_the_open_door_of_health(guarded):
    assert guarded.client.get("/health").status_code == 200
    assert guarded.client.get("/", headers=basic("ann", "pässwort")).status_code == 200


def test_the_webhook_takes_basic_auth_or_the_secret(guarded):
    body = event("PROJECT_UPDATED")
    assert guarded.client.post("/webhook", json=body).status_code == 401
    assert guarded.client.post("/webhook", json=body, headers={"X-Segloop-Secret": "wrong"}).status_code == 401
    assert guarded.client.post("/webhook", json=body, headers={"X-Segloop-Secret": "s3cret"}).status_code == 201
    assert guarded.client.post("/webhook", json=body, headers=basic("ann", "pässwort")).status_code == 201


def test_the_secret_opens_nothing_else(guarded):
    assert guarded.client.get("/versions", headers={"X-Segloop-Secret": "s3cret"}).status_code == 401


def test_without_a_password_only_this_machine_is_served(world):
    assert world.client.get("/versions").status_code == 200
    assert world.client.get("/versions", environ_base={"REMOTE_ADDR": "10.0.0.7"}).status_code == 401
    assert world.client.get("/health", environ_base={"REMOTE_ADDR": "10.0.0.7"}).status_code == 200


@pytest.mark.parametrize(
    "said", [{"Origin": "https://elsewhere.example"}, {"Origin": "null"}, {"Sec-Fetch-Site": "cross-site"}]
)
@pytest.mark.parametrize("route", ["/webhook", "/train", "/setup", "/predict"])
def test_a_page_of_another_site_changes_nothing(world, guarded, said, route):
    # a form or script of any site may send text to this machine without asking first; a browser adds the password it knows
    body = json.dumps(event("START_TRAINING"))
    for asked, headers in ((world, {}), (guarded, basic("ann", "pässwort"))):
        answer = asked.client.post(route, data=body, content_type="text/plain", headers={**said, **headers})
        assert answer.status_code == 403
        assert "page in a browser" in answer.get_json()["error"]
        unknown = asked.client.get("/is_training?project=29", headers=headers)
        assert unknown.status_code == 400
