"""What tests of `segloop connect` and `segloop doctor` have: a real Label Studio, a real segloop, and what breaks them."""

from __future__ import annotations

import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
from click.testing import CliRunner, Result
from PIL import Image

from demo.label_studio import RunningLabelStudio
from demo.stack import RunningSegloop
from segloop.cli import main
from segloop.doctor import Examination, Finding
from segloop.labelstudio import SECRET_HEADER
from segloop.settings import Settings

CONFIG = """<View><Image name="image" value="$image"/>
<BrushLabels name="brush" toName="image"><Label value="Sky"/><Label value="Road"/></BrushLabels></View>"""
#: How busy this machine is says nothing about what is tested here.
MACHINE = {"disk", "health-time", "setup-time", "webhook-time", "predict-time"}


class Stack:
    """A Label Studio with a project and a segloop, and the command line as its user has it."""

    def __init__(self, running: RunningLabelStudio, segloop: RunningSegloop, folder: Path) -> None:
        self.running, self.segloop, self.folder = running, segloop, folder
        names = {f"segloop_{name}": name for name in Settings.model_fields}
        own = {names[name.lower()]: value for name, value in segloop.environment.items() if name.lower() in names}
        self.settings = Settings(**own)
        self.http = running.client()

    def project(self, title: str = "doctor's", config: str = CONFIG) -> int:
        project = int(self.running.create_project(title, config)["id"])
        picture = self.folder / "picture.png"
        Image.new("RGB", (32, 24), (90, 120, 200)).save(picture)
        self.running.upload_images(project, [picture])
        return project

    def run(self, *arguments: str, **environment: str) -> Result:
        own = {name: value for name, value in self.segloop.environment.items() if name.startswith("SEGLOOP_")}
        return CliRunner().invoke(main, list(arguments), env={**own, "COLUMNS": "300", **environment})

    def connect(self, project: int, *arguments: str, **environment: str) -> dict[str, Any]:
        result = self.run("connect", "--project", str(project), "--json", *arguments, **environment)
        assert result.exit_code == 0, result.output
        return json.loads(result.stdout)

    def look(self, project: int | None, **settings: Any) -> dict[str, Finding]:
        """What is not well: findings by their check."""
        findings = Examination(self.settings.model_copy(update=settings)).run(project)
        assert {"store", "redis", "server"} & {finding.check for finding in findings} == {"store", "redis", "server"}
        self.no_secret_in(repr(findings))
        return {f.check: f for f in findings if f.status in ("warning", "failure") and f.check not in MACHINE}

    def no_secret_in(self, text: str) -> None:
        for secret in (self.segloop.password, self.segloop.secret, self.running.api_key, self.running.token):
            assert secret not in text

    def webhook(self, project: int) -> dict[str, Any]:
        (webhook,) = self.http.get("/api/webhooks/", params={"project": project}).json()
        return webhook

    def patch(self, path: str, **fields: Any) -> None:
        self.http.patch(path, json=fields).raise_for_status()


class Delayed:
    """In front of a segloop, as a busy machine would be: `/setup` takes as long as `seconds` says."""

    def __init__(self, target: str) -> None:
        self.seconds = 0.0
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def _answer(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                if self.path == "/setup":
                    time.sleep(outer.seconds)
                kept = ("Authorization", "Content-Type", "Host", SECRET_HEADER)
                headers = {name: self.headers[name] for name in kept if name in self.headers}
                answer = httpx.request(self.command, f"{target}{self.path}", content=body, headers=headers, timeout=60)
                self.send_response(answer.status_code)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(answer.content)))
                self.end_headers()
                self.wfile.write(answer.content)

            do_GET = do_POST = _answer  # noqa: N815 - names that http.server calls

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - http.server's name
                """Say nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01})
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()
