"""A mirror of 100,000 tasks: what a sync after 10 changes and a deletion costs beside the first, and its memory.

Label Studio is a small HTTP server of its own here, in a process of its own: it answers the listing of tasks as
Label Studio 1.23 does (filters, pages, totals), as fast as it can. So the seconds are segloop's and the socket's.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx
import numpy as np
from pydantic import SecretStr

from benchmarks.harness import report
from segloop.dataset import Mirror, sync
from segloop.labelstudio import Credentials, LabelStudio
from segloop.masks import encode_rle

TASKS, FEW_TASKS = 100_000, 10_000
CHANGES = 10
DAY_S = 86_400
PROJECT_ID = 1

OPERATORS: dict[str, Callable[[Any, Any], Any]] = {
    "greater": np.greater,
    "greater_or_equal": np.greater_equal,
    "less_or_equal": np.less_equal,
    "equal": np.equal,
}


class FakeLabelStudio(ThreadingHTTPServer):
    """Tasks with one annotation each, made in the course of 100 days."""

    def __init__(self, tasks: int) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.columns = {
            "id": np.arange(1, tasks + 1),
            "updated_at": time.time() - np.linspace(100 * DAY_S, DAY_S, tasks),
            "total_annotations": np.ones(tasks, np.int64),
            "cancelled_annotations": np.zeros(tasks, np.int64),
        }
        self.requests = 0
        mask = np.zeros((48, 64), np.uint8)
        mask[12:30, 20:50] = 255
        self.rle = json.dumps(list(encode_rle(mask)))

    def change(self) -> None:
        """Ten annotations are updated, and a task is deleted."""
        places = np.linspace(5, len(self.columns["id"]) - 5, CHANGES + 1, dtype=np.int64)
        self.columns["updated_at"][places[1:]] = time.time()
        self.columns = {name: np.delete(values, places[0]) for name, values in self.columns.items()}

    def page(self, query: dict[str, str]) -> bytes:
        """The answer to a listing."""
        found = np.ones(len(self.columns["id"]), bool)
        for item in json.loads(query["query"])["filters"]["items"]:
            name, value = item["filter"].rpartition(":")[2], item["value"]
            if item["type"] == "Datetime":
                value = datetime.fromisoformat(value).timestamp()
            found &= OPERATORS[item["operator"]](self.columns[name], value)
        places = np.flatnonzero(found)[: int(query["page_size"])]
        tasks = ",".join(self.task(place, whole=query["fields"] == "all") for place in places)
        totals = f'"total_annotations":{self.columns["total_annotations"][found].sum()},"total_predictions":0'
        return f'{{{totals},"total":{found.sum()},"tasks":[{tasks}]}}'.encode()

    def task(self, place: int, *, whole: bool) -> str:
        """A task as the listing shows it."""
        number = int(self.columns["id"][place])
        stamp = datetime.fromtimestamp(self.columns["updated_at"][place], UTC).isoformat().replace("+00:00", "Z")
        annotations = (
            f',"drafts":[],"predictions":[],"annotations":[{{"id":{number + 10**6},"completed_by":1,"was_cancelled":false,'
            f'"ground_truth":false,"created_at":"{stamp}","updated_at":"{stamp}","lead_time":12.5,"project":1,'
            f'"task":{number},"result":[{{"id":"r{number}","type":"brushlabels","from_name":"brush","to_name":"image",'
            f'"original_width":64,"original_height":48,"image_rotation":0,'
            f'"value":{{"format":"rle","rle":{self.rle},"brushlabels":["Sky"]}}}}]}}]'
            if whole
            else ""
        )
        return (
            f'{{"id":{number},"data":{{"image":"s3://bucket/images/{number:08d}.jpg"}},"updated_at":"{stamp}",'
            f'"total_annotations":1,"cancelled_annotations":0,"is_labeled":true,"project":1{annotations}}}'
        )


class Handler(BaseHTTPRequestHandler):
    """`/api/tasks/` as Label Studio has it; `/change` and `/requests` for the benchmark."""

    protocol_version = "HTTP/1.1"
    wbufsize = 1 << 16
    server: FakeLabelStudio

    def do_GET(self) -> None:
        """Answer."""
        parts = urlsplit(self.path)
        if parts.path == "/api/tasks/":
            self.server.requests += 1
            body = self.server.page({name: values[0] for name, values in parse_qs(parts.query).items()})
        elif parts.path == "/change":
            self.server.change()
            body = b"{}"
        else:
            body = json.dumps(self.server.requests).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@contextmanager
def serving(tasks: int) -> Iterator[str]:
    """The address of a fake Label Studio in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.sync", "--serve", str(tasks)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            yield f"http://127.0.0.1:{int(process.stdout.readline())}"
        finally:
            process.terminate()


def measured(tasks: int) -> dict[str, Any]:
    """What both syncs of a project took, measured in a process of its own, whose peak of memory they make."""
    command = [sys.executable, "-m", "benchmarks.sync", "--measure", str(tasks)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    figures: dict[str, Any] = json.loads(done.stdout)
    return figures


def measure(tasks: int) -> dict[str, Any]:
    """Sync, change, sync again."""
    with serving(tasks) as url, tempfile.TemporaryDirectory() as folder, Mirror(Path(folder)) as mirror:
        studio = LabelStudio(url, Credentials(url, SecretStr("key")))
        requests = [0]
        seconds = []
        for turn in range(2):
            begin = time.perf_counter()
            synced = sync(mirror, studio.tasks, PROJECT_ID)
            seconds.append(time.perf_counter() - begin)
            requests.append(httpx.get(f"{url}/requests").json())
            expected = (tasks, tasks, 0) if turn == 0 else (CHANGES, CHANGES, 1)
            if (synced.read, synced.changed, synced.dropped) != expected:
                raise SystemExit(f"the sync is wrong: {synced}")
            if turn == 0:
                httpx.get(f"{url}/change")
        if mirror.totals() != (tasks - 1, tasks - 1):
            raise SystemExit(f"the mirror is wrong: {mirror.totals()}")
        studio.close()
    peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {"seconds": seconds, "requests": [requests[1], requests[2] - requests[1]], "peak_mb": peak_mb}


def main() -> int:
    """Report; 1 if a target is missed."""
    few, many = measured(FEW_TASKS), measured(TASKS)
    facts = {"tasks": TASKS, "changed": CHANGES, "deleted": 1}
    met = [
        report(
            "sync",
            f"{what} of a sync after {CHANGES} changes and a deletion",
            many[what][1] / many[what][0],
            unit="share",
            target=0.01,
            against="the first sync",
            first=many[what][0],
            second=many[what][1],
            **facts,
        )
        for what in ("requests", "seconds")
    ]
    met.append(
        report(
            "sync",
            "peak memory of both syncs",
            many["peak_mb"] / few["peak_mb"],
            unit="of that at a tenth of the tasks",
            target=1.3,
            against=f"{FEW_TASKS} tasks",
            tasks=TASKS,
            peak_mb=many["peak_mb"],
            against_mb=few["peak_mb"],
        )
    )
    return 0 if all(met) else 1


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--serve", type=int, metavar="TASKS", help=argparse.SUPPRESS)
    parser.add_argument("--measure", type=int, metavar="TASKS", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.serve:
        with FakeLabelStudio(given.serve) as server:
            print(server.server_port, flush=True)
            server.serve_forever()
    elif given.measure:
        print(json.dumps(measure(given.measure)))
    else:
        sys.exit(main())
