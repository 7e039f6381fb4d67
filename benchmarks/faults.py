"""Faults, injected into a running segloop: `python -m benchmarks.faults` writes docs/RELIABILITY.md's table of them.

A real `segloop up` (server, workers, Valkey) serves an exported network. While people open tasks and save annotations, a
process is killed or frozen, or a file damaged. What is counted: requests that were answered and not, for how long in a
row there was no answer, and whether each annotation that was acknowledged is counted in the end.
"""

from __future__ import annotations

import base64
import io
import os
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import httpx
from PIL import Image
from redis import Redis

from demo import stack
from segloop.queue import Jobs
from segloop.registry import Registry, open_registry
from segloop.settings import Settings
from tests.toys import BRUSH, half_red_half_blue, toy_info

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "RELIABILITY.md"
BEGIN, END = "<!-- faults: written by python -m benchmarks.faults -->", "<!-- end of faults -->"
PROJECT = "29.1795383040"
#: How long people go on after a fault, in seconds, and how long its recovery may take.
AFTER_S, PATIENCE_S = 5.0, 180.0
#: How long a start may take, in seconds, on a machine with other work.
START_S = 600.0
INFO = toy_info(arch="fcn_resnet50", decision={"act": True, "reason": "The first."})
HEAD = (
    "| fault | served / failed | annotations lost | half versions | seconds to the next answers | longest without one, s "
    "| what follows | green |"
)


@dataclass
class People:
    """Opens tasks and saves annotations, over and over, until it is stopped."""

    segloop: stack.RunningSegloop
    served: int = 0
    failed: int = 0
    longest_s: float = 0.0
    acknowledged: set[int] = field(default_factory=set)
    versions: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        picture = io.BytesIO()
        Image.fromarray(half_red_half_blue()).save(picture, "PNG")
        address = "data:image/png;base64," + base64.b64encode(picture.getvalue()).decode()
        self._predict = {"project": PROJECT, "label_config": BRUSH, "tasks": [{"id": 1, "data": {"image": address}}]}
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._work)

    def __enter__(self) -> People:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _work(self) -> None:
        answered, task = time.monotonic(), 0
        with self.segloop.client() as client:
            while not self._stop.wait(0.05):
                task += 1
                event = {
                    "action": "ANNOTATION_CREATED",
                    "annotation": {"id": task, "task": task},
                    "project": {"id": 29, "created_at": "2026-11-22T21:30:40Z", "label_config": BRUSH},
                }
                for route, body in (("/predict", self._predict), ("/webhook", event)):
                    answer = None
                    with suppress(httpx.HTTPError):
                        answer = client.post(route, json=body, timeout=20)
                    if answer is None or not answer.is_success:
                        self.failed += 1
                        continue
                    self.served += 1
                    self.longest_s = max(self.longest_s, time.monotonic() - answered)
                    answered = time.monotonic()
                    if route == "/predict":
                        self.versions.add(answer.json()["model_version"])
                    elif answer.json()["status"] != "deferred":
                        self.acknowledged.add(task)


@dataclass
class Stand:
    """The running segloop, its store and its processes."""

    segloop: stack.RunningSegloop
    registry: Registry
    versions: list[str]

    def processes(self, word: str) -> list[int]:
        """Processes of this segloop whose command has a word in it."""
        found = []
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                with suppress(OSError):
                    command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                    own = f"SEGLOOP_PORT={self.segloop.port}".encode() in (entry / "environ").read_bytes()
                    if own and word in command:
                        found.append(int(entry.name))
        return sorted(found)

    def kill(self, word: str, which: int) -> None:
        os.kill(self.processes(word)[which], signal.SIGKILL)

    def valkey(self) -> int:
        """Its process: it hides its environment."""
        with Redis.from_url(Settings(_env_file=None, data_dir=self.segloop.data_dir).queue_url) as client:
            return int(client.info("server")["process_id"])

    def kill_valkey(self) -> None:
        os.kill(self.valkey(), signal.SIGKILL)

    def freeze_valkey(self) -> None:
        pid = self.valkey()
        os.kill(pid, signal.SIGSTOP)
        time.sleep(10)
        os.kill(pid, signal.SIGCONT)

    @property
    def pointer(self) -> Path:
        return self.segloop.data_dir / "store" / PROJECT / "champion.json"

    def cut_pointer(self) -> None:
        self.pointer.write_bytes(self.pointer.read_bytes()[:60])
        time.sleep(3)
        assert self.registry.repair(PROJECT) is not None

    def promote_from_two_hosts(self) -> None:
        def host(version: str) -> None:
            for _ in range(10):
                self.registry.promote(PROJECT, version, "from a host")

        with ThreadPoolExecutor(2) as pool:
            list(pool.map(host, self.versions))

    def promote_a_damaged_version(self) -> None:
        folder = self.pointer.parent / "versions" / self.versions[1] / "model.safetensors"
        whole = folder.read_bytes()
        folder.write_bytes(whole[:-100])
        try:
            with suppress(Exception):
                self.registry.promote(PROJECT, self.versions[1], "damaged")
            champion = self.registry.champion(PROJECT)
            assert champion is not None
            assert champion.version == self.versions[0]
        finally:
            folder.write_bytes(whole)


FAULTS: dict[str, tuple[Callable[[Stand], None], str]] = {
    "none": (lambda stand: time.sleep(1), "the same without a fault"),
    "SIGKILL of the server's process": (lambda stand: stand.kill("segloop.server", -1), "another one is started"),
    "SIGKILL of the server's first process": (
        lambda stand: stand.kill("segloop.server", 0),
        "supervisord starts it again",
    ),
    "SIGKILL of the retrain worker": (lambda stand: stand.kill("-m worker retrain", -1), "supervisord starts it again"),
    "SIGKILL of Valkey": (Stand.kill_valkey, "its file has all that it acknowledged"),
    "Valkey frozen for 10 s": (
        Stand.freeze_valkey,
        "webhooks say `deferred`; predictions go on",
    ),
    "the pointer cut, repaired after 3 s": (Stand.cut_pointer, "the last champion goes on; `segloop versions repair`"),
    "a damaged version promoted": (Stand.promote_a_damaged_version, "refused with the file's name"),
    "two hosts promote at once, 10 times each": (
        Stand.promote_from_two_hosts,
        "one after the other; generations count up",
    ),
}


def bundle(folder: Path) -> Path:
    """A network that was never trained, exported."""
    from segloop.network.network import build_network, save_bundle
    from segloop.training.export import export

    save_bundle(folder, build_network("fcn_resnet50", 3, 16), INFO)
    export(folder, None, folder)
    return folder


def measure(stand: Stand, name: str) -> str:
    """A row of the table."""
    inject, seen = FAULTS[name]
    jobs = Jobs.open(Settings(_env_file=None, data_dir=stand.segloop.data_dir))
    with suppress(Exception):
        jobs.take_changes(PROJECT, "full")
    with People(stand.segloop) as people:
        time.sleep(2)
        inject(stand)
        began, before = time.monotonic(), people.served
        while people.served < before + 4 and time.monotonic() - began < PATIENCE_S:
            time.sleep(0.05)
        recovered_s = time.monotonic() - began
        time.sleep(AFTER_S)
    counted = jobs.record_changes(PROJECT, ()).full
    jobs.close()
    lost = max(0, len(people.acknowledged) - counted)
    whole = {info.version for info in stand.registry.versions(PROJECT)} == set(stand.versions)
    is_green = not lost and whole and people.served > before + 4 and people.versions <= set(stand.versions)
    cells = (
        name,
        f"{people.served} / {people.failed}",
        str(lost),
        "0" if whole else "some",
        f"{recovered_s:.1f}",
        f"{people.longest_s:.1f}",
        seen,
        "yes" if is_green else "**no**",
    )
    print(" | ".join(cells), file=sys.stderr, flush=True)
    return "| " + " | ".join(cells) + " |"


def write(rows: list[str]) -> None:
    """Put the rows into the page, in the place of those that are there."""
    text = PAGE.read_text(encoding="utf-8")
    before, _, rest = text.partition(BEGIN)
    table = "\n".join((BEGIN, "", HEAD, "|---" * 8 + "|", *rows, "", END))
    PAGE.write_text(before + table + rest.partition(END)[2], encoding="utf-8")


def main() -> None:
    """Measure, and write the table row by row."""
    stack.START_S = START_S
    with tempfile.TemporaryDirectory(prefix="segloop-faults-") as base:
        folder = Path(base)
        registry = open_registry(Settings(_env_file=None, data_dir=folder / "data"))
        made = bundle(folder / "bundle")
        versions = []
        for number in (1, 2):
            (made / "number.txt").write_text(str(number))
            versions.append(registry.add(PROJECT, made, INFO))
        registry.promote(PROJECT, versions[0], "first")
        own = {
            "weights": "none",
            "input_size": 64,
            "retrain_threshold": 100_000,
            "adapt_threshold": 0,
            "log_level": "WARNING",
        }
        rows: list[str] = []
        with stack.RunningSegloop(folder, **own) as segloop:
            stand = Stand(segloop, registry, versions)
            for name in FAULTS:
                rows.append(measure(stand, name))
                write(rows)


if __name__ == "__main__":
    main()
