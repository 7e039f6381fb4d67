"""The client against a real Label Studio 1.23.2, with a recording ML backend behind it."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image
from pydantic import SecretStr

from demo.label_studio import RunningLabelStudio
from segloop.dataset import Mirror, ProjectSplits, SnapshotInputs, load_manifest, snapshot, sync
from segloop.errors import LabelStudioError, LabelStudioNotFound
from segloop.images import ImageSource
from segloop.labelstudio import SECRET_HEADER, UNCERTAINTY_SAMPLING, BackendSpec, Credentials, LabelStudio
from segloop.masks import encode_rle
from segloop.payloads import project_key
from segloop.registry import open_registry
from segloop.settings import Settings

pytestmark = pytest.mark.label_studio

CONFIG = """<View><Image name="image" value="$image"/>
<BrushLabels name="brush" toName="image"><Label value="Sky"/><Label value="Road"/></BrushLabels></View>"""
WIDTH_PX, HEIGHT_PX = 32, 24
VERSION = "v1-0011aabb"


class Backend:
    """An ML backend that answers and keeps `(path, authorization, secret, body)` of what it was sent."""

    def __init__(self, password: str = "") -> None:
        self.requests: list[tuple[str, str | None, str | None, Any]] = []
        backend = self

        class Handler(BaseHTTPRequestHandler):
            def _answer(self) -> None:
                length = int(self.headers.get("Content-Length", 0))
                body = json.loads(self.rfile.read(length)) if length else None
                authorization = self.headers.get("Authorization")
                backend.requests.append((self.path, authorization, self.headers.get(SECRET_HEADER), body))
                refused = password and self.path == "/setup" and authorization is None
                data = json.dumps({"status": "UP", "model_version": VERSION}).encode()
                self.send_response(401 if refused else 200)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            do_GET = do_POST = _answer  # noqa: N815 - names that http.server calls

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - http.server's name
                """Say nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01})
        self._thread.start()

    def to(self, path: str) -> list[tuple[str, str | None, str | None, Any]]:
        return [request for request in self.requests if request[0] == path]

    def __enter__(self) -> Backend:
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


@pytest.fixture
def project(running: RunningLabelStudio) -> int:
    return int(running.create_project("labelled and not", CONFIG)["id"])


@pytest.fixture
def tasks(running: RunningLabelStudio, project: int, tmp_path: Path) -> list[int]:
    """Six tasks with an uploaded image each."""
    paths = [tmp_path / f"scene {index}.png" for index in range(6)]
    for index, path in enumerate(paths):
        Image.new("RGB", (WIDTH_PX, HEIGHT_PX), (40 * index, 0, 0)).save(path)
    return running.upload_images(project, paths)


def region(label: str = "Sky") -> dict[str, Any]:
    return {
        "id": "r1",
        "type": "brushlabels",
        "from_name": "brush",
        "to_name": "image",
        "original_width": WIDTH_PX,
        "original_height": HEIGHT_PX,
        "image_rotation": 0,
        "value": {"format": "rle", "rle": [0, 1, 2, 255], "brushlabels": [label]},
    }


def prediction(task: int, version: str = VERSION) -> dict[str, Any]:
    return {"task": task, "result": [region()], "score": 0.25, "model_version": version}


def test_both_kinds_of_token_are_accepted(running: RunningLabelStudio, project: int, tasks: list[int]) -> None:
    uploads = []
    for key in (running.api_key, running.token):
        credentials = Credentials(running.url, SecretStr(key))
        studio = LabelStudio(running.url, credentials)
        assert studio.projects.get(project)["title"] == "labelled and not"
        (uri, *_) = [task["data"]["image"] for task in studio.tasks.unlabelled(project, VERSION)]
        assert uri.endswith("scene_0.png")
        uploads.append(httpx.get(running.url + uri, headers=credentials.headers()))
        studio.close()
    assert [upload.status_code for upload in uploads] == [200, 200]
    assert uploads[0].content == uploads[1].content


def test_personal_access_token_yields_one_access_token_for_its_life(running: RunningLabelStudio) -> None:
    credentials = Credentials(running.url, SecretStr(running.api_key))
    with ThreadPoolExecutor(4) as pool:
        headers = {header["Authorization"] for header in pool.map(lambda _: credentials.headers(), range(8))}
    (bearer,) = headers
    assert bearer.startswith("Bearer ")
    assert running.api_key not in bearer
    # Label Studio's access tokens live 300 s; this one is renewed 30 s before.
    left_s = credentials._expires_at_s - time.monotonic()
    assert 150 <= left_s <= 270
    credentials._expires_at_s = 0.0
    time.sleep(1.1)
    assert credentials.headers()["Authorization"] != bearer


@pytest.mark.parametrize("key", ["0" * 40, "a.b.c"])
def test_wrong_tokens_are_one_clear_sentence(running: RunningLabelStudio, project: int, key: str) -> None:
    studio = LabelStudio(running.url, Credentials(running.url, SecretStr(key)))
    with pytest.raises(LabelStudioError, match="LABEL_STUDIO_API_KEY"):
        studio.projects.get(project)
    with pytest.raises(LabelStudioError, match="LABEL_STUDIO_API_KEY"):
        list(studio.tasks.annotated_pages(project))
    studio.close()


def test_unknown_project_is_a_refusal(studio: LabelStudio) -> None:
    with pytest.raises(LabelStudioError, match="404"):
        studio.projects.get(987654)
    with pytest.raises(LabelStudioError, match="404"):
        list(studio.tasks.annotated_pages(987654))


def test_project_key_is_what_a_backend_is_sent(studio: LabelStudio, project: int) -> None:
    with Backend() as backend:
        studio.backends.connect(project, BackendSpec(backend.url, VERSION))
        assert backend.to("/setup")[0][3]["project"] == project_key(studio.projects.get(project))


def test_tasks_are_labelled_skipped_or_unlabelled(
    running: RunningLabelStudio, studio: LabelStudio, project: int, tasks: list[int]
) -> None:
    running.submit_annotation(tasks[0], [region()])
    running.submit_annotation(tasks[1], [])
    running.submit_annotation(tasks[2], [], was_cancelled=True)
    assert studio.predictions.create(project, [prediction(tasks[3]), prediction(tasks[4], "v10-0011aabb")]) == 2

    labelled, skipped = studio.tasks.annotated_pages(project)
    assert ([task["id"] for task in labelled], [task["id"] for task in skipped]) == (tasks[:2], tasks[2:3])
    (annotation,) = labelled[0]["annotations"]
    assert annotation["result"] == [region()]
    assert labelled[0]["data"]["image"].startswith(f"/data/upload/{project}/")
    assert [task["id"] for task in studio.tasks.unlabelled(project, VERSION)] == [tasks[2], tasks[4], tasks[5]]
    totals = studio.tasks.totals(project)
    assert (totals.tasks, totals.annotations) == (2, 2)
    assert abs(totals.clock - datetime.now(UTC)) < timedelta(minutes=1)
    assert studio.tasks.labelled_ids(project, after=tasks[0]) == tasks[1:2]

    middle = datetime.now(UTC)
    with running.client() as client:
        client.patch(f"/api/annotations/{annotation['id']}/", json={"result": [region("Road")]}).raise_for_status()
    running.submit_annotation(tasks[5], [region()])
    (changed,) = studio.tasks.annotated_pages(project, since=middle)
    assert [task["id"] for task in changed] == [tasks[0], tasks[5]]
    assert list(studio.tasks.annotated_pages(project, since=datetime.now(UTC))) == []


class Deeds:
    """What people do to annotations and tasks, each by the request that Label Studio's own pages make."""

    def __init__(self, running: RunningLabelStudio, project: int) -> None:
        self._running, self._project = running, project

    def _request(self, method: str, path: str, **body: Any) -> None:
        with self._running.client() as client:
            client.request(method, path, **({"json": body} if body else {})).raise_for_status()

    def _act(self, action: str, *tasks: int) -> None:
        selected = {"all": False, "included": list(tasks)}
        self._request("POST", f"/api/dm/actions?id={action}&project={self._project}", selectedItems=selected)

    def update(self, annotation: int) -> None:
        self._request("PATCH", f"/api/annotations/{annotation}/", result=[region("Road")])

    def skip(self, annotation: int) -> None:
        self._request("PATCH", f"/api/annotations/{annotation}/", was_cancelled=True)

    def delete(self, annotation: int) -> None:
        self._request("DELETE", f"/api/annotations/{annotation}/")

    def delete_annotations_of(self, *tasks: int) -> None:
        self._act("delete_tasks_annotations", *tasks)

    def delete_task(self, task: int) -> None:
        self._request("DELETE", f"/api/tasks/{task}/")

    def delete_tasks(self, *tasks: int) -> None:
        self._act("delete_tasks", *tasks)


def test_mirror_notices_what_people_do(
    running: RunningLabelStudio, studio: LabelStudio, project: int, tasks: list[int], tmp_path: Path
) -> None:
    numbers = [running.submit_annotation(task, [region()])["id"] for task in tasks]
    running.submit_annotation(tasks[1], [region("Road")])
    people = Deeds(running, project)
    with Mirror(tmp_path / "mirror") as mirror:

        def noticed(deed: Callable[..., None], *arguments: int) -> list[int]:
            revision = mirror.revision
            deed(*arguments)
            sync(mirror, studio.tasks, project)
            whole = {
                task["id"]: [annotation["id"] for annotation in task["annotations"]]
                for page in studio.tasks.annotated_pages(project)
                for task in page
                if any(not annotation["was_cancelled"] for annotation in task["annotations"])
            }
            assert whole == {task["id"]: [one["id"] for one in task["annotations"]] for task in mirror.tasks()}
            return mirror.changed_after(revision)

        sync(mirror, studio.tasks, project)
        assert mirror.totals() == (6, 7)
        assert sync(mirror, studio.tasks, project).changed == 0
        assert noticed(people.update, numbers[0]) == tasks[:1]
        assert noticed(people.delete, numbers[1]) == tasks[1:2]
        assert noticed(people.skip, numbers[2]) == tasks[2:3]
        assert noticed(people.delete, numbers[3]) == tasks[3:4]
        assert noticed(people.delete_annotations_of, tasks[1]) == tasks[1:2]
        assert noticed(running.submit_annotation, tasks[3], [region()]) == tasks[3:4]  # type: ignore[arg-type]
        assert noticed(people.delete_task, tasks[4]) == tasks[4:5]
        assert noticed(people.delete_tasks, tasks[0], tasks[5]) == [tasks[0], tasks[5]]
        assert [task["id"] for task in mirror.tasks()] == tasks[3:4]


def test_labelling_while_tasks_are_read_hides_none(
    running: RunningLabelStudio, studio: LabelStudio, project: int, tasks: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("segloop.labelstudio.tasks._LIGHT_PAGE", 2)
    seen = []
    for task in studio.tasks.unlabelled(project, VERSION):
        seen.append(task["id"])
        studio.predictions.create(project, [prediction(task["id"])])
    assert seen == tasks


def test_predictions_are_stored_as_given(studio: LabelStudio, project: int, tasks: list[int]) -> None:
    gone = {"task": 10**6, "result": [], "score": None, "model_version": VERSION}
    assert studio.predictions.create(project, [prediction(tasks[0]), gone, prediction(tasks[1])]) == 2
    stored = studio.api.request("GET", "/api/predictions/", params={"task": tasks[0]})
    assert [(row["result"], row["score"], row["model_version"]) for row in stored] == [([region()], 0.25, VERSION)]


def test_predictions_that_an_import_leaves_out_are_stored_all_the_same(
    running: RunningLabelStudio, studio: LabelStudio
) -> None:
    """Label Studio's import looks for the tags in the config as it is written, where a Repeater's pages have none."""
    place = """<View><Repeater on="$pages" indexFlag="{{i}}"><Image name="p_{{i}}" value="$pages[{{i}}].url"/>
    <BrushLabels name="b_{{i}}" toName="p_{{i}}"><Label value="Sky"/></BrushLabels></Repeater></View>"""
    project = int(running.create_project("pages", place)["id"])
    address = f"/api/projects/{project}/import"
    pages = {"data": {"pages": [{"url": "/data/upload/1/a.png"}]}}
    tasks = studio.api.request("POST", address, params={"return_task_ids": "true"}, json=[pages] * 3)["task_ids"]
    shown = {**region(), "from_name": "b_0", "to_name": "p_0"}
    rows = [{**prediction(task), "result": result} for task, result in zip(tasks, ([], [shown], [shown]), strict=True)]
    assert studio.predictions.create(project, rows[1:2]) == 1
    assert studio.predictions.create(project, [rows[0], rows[2]]) == 2
    for task, row in zip(tasks, rows, strict=True):
        [stored] = studio.api.request("GET", "/api/predictions/", params={"task": task})
        assert (stored["result"], stored["model_version"]) == (row["result"], VERSION)
    assert list(studio.tasks.unlabelled(project, VERSION)) == []


def test_snapshot_of_a_real_project(
    running: RunningLabelStudio, studio: LabelStudio, project: int, tasks: list[int], tmp_path: Path
) -> None:
    truth = np.zeros((HEIGHT_PX, WIDTH_PX), np.uint8)
    truth[:10, 5:] = 1
    truth[12:] = 2
    for task in tasks[:3]:
        regions = [
            region(name)
            | {
                "id": name,
                "value": {"format": "rle", "brushlabels": [name], "rle": encode_rle((truth == index) * np.uint8(255))},
            }
            for index, name in ((1, "Sky"), (2, "Road"))
        ]
        running.submit_annotation(task, regions)
    described = studio.projects.get(project)
    settings = Settings(label_studio_url=running.url, label_studio_api_key=running.api_key, data_dir=tmp_path / "data")
    credentials = Credentials(running.url, settings.label_studio_api_key)
    with closing(ImageSource(settings, credentials, tmp_path / "cache")) as images:
        key = project_key(described)
        splits = ProjectSplits(open_registry(settings), key)
        manifest = snapshot(
            SnapshotInputs(key, described["label_config"], images, splits, settings),
            [task for page in studio.tasks.annotated_pages(project) for task in page],
            tmp_path / "snapshot",
        )
    assert load_manifest(tmp_path / "snapshot") == manifest
    assert ([item.task for item in manifest.items], manifest.skipped) == (tasks[:3], ())
    assert manifest.tasks("val") == 1
    for item, original in zip(manifest.items, sorted(tmp_path.glob("scene *.png")), strict=False):
        assert (tmp_path / "snapshot" / item.image).read_bytes() == original.read_bytes()
        with Image.open(tmp_path / "snapshot" / item.mask) as mask:
            assert np.array_equal(np.asarray(mask), truth)


def test_connect_twice_leaves_one_backend_and_one_webhook_with_the_secret(
    running: RunningLabelStudio, studio: LabelStudio, project: int, tasks: list[int]
) -> None:
    with Backend() as backend:
        spec = BackendSpec(backend.url, VERSION, webhook_secret=SecretStr("one"), extra_params={"input_size": 256})
        first = studio.backends.connect(project, spec)
        spec = BackendSpec(f"{backend.url}/", VERSION, webhook_secret=SecretStr("two"), interactive=False)
        second = studio.backends.connect(project, spec)
        assert (first.created, second.created) == (True, False)
        assert first.webhook is not None
        assert second.webhook is not None
        assert first.webhook.id == second.webhook.id
        assert (first.webhook_problem, second.webhook_problem) == (None, None)
        assert studio.projects.get(project)["sampling"] == "Sequential sampling"
        studio.projects.change(project, sampling=UNCERTAINTY_SAMPLING)
        assert studio.projects.get(project)["sampling"] == UNCERTAINTY_SAMPLING
        entry = studio.backends.find(project)
        assert entry is not None
        assert (entry["id"], entry["is_interactive"]) == (first.backend["id"], False)
        assert entry["extra_params"] == {"input_size": 256}
        running.submit_annotation(tasks[0], [region()])
        events = [request for request in backend.to("/webhook") if request[3]["action"] == "ANNOTATION_CREATED"]
        ((_, authorization, secret, _),) = events
        assert (authorization, secret) == (None, "two")


def test_title_keeps_other_fields_and_the_project_follows(studio: LabelStudio, project: int) -> None:
    with Backend(password="p") as backend:
        spec = BackendSpec(
            backend.url,
            "segloop",
            basic_auth=("u", SecretStr("p")),
            webhook_secret=SecretStr("s"),
            extra_params={"input_size": 256},
        )
        studio.backends.connect(project, spec)
        assert studio.projects.get(project)["model_version"] == "segloop"
        before = studio.backends.find(project, backend.url)
        assert before is not None
        studio.backends.set_title(before, VERSION)
        after = studio.backends.find(project, backend.url)
        assert after is not None
        changing = {"title", "updated_at"}
        assert {name for name in before if before[name] != after[name]} == changing
        assert after["title"] == VERSION == studio.projects.get(project)["model_version"]
        # Label Studio still knows the password, and so can set the backend up.
        assert all(authorization for _, authorization, _, _ in backend.to("/setup"))
        assert after["state"] == "CO"
        assert backend.to("/setup")[-1][3]["extra_params"] == {"input_size": 256}
        assert studio.backends.set_title(after, VERSION) == after


def test_backend_that_is_down_cannot_be_connected(studio: LabelStudio, project: int) -> None:
    with Backend() as backend:
        url = backend.url
    with pytest.raises(LabelStudioError, match="Can't connect to ML backend"):
        studio.backends.connect(project, BackendSpec(url, VERSION))
    assert studio.backends.find(project) is None


def test_a_deleted_project_is_not_found(running: RunningLabelStudio, studio: LabelStudio) -> None:
    number = int(running.create_project("deleted", CONFIG)["id"])
    with running.client() as client:
        client.delete(f"/api/projects/{number}/").raise_for_status()
    with pytest.raises(LabelStudioNotFound, match="answered 404"):
        studio.projects.get(number)
