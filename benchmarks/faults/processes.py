"""Faults of processes, of the queue and of a project's champion, while people work.

A real `segloop up` (server, workers, Valkey) serves an exported network. A process is killed or frozen, or a file
damaged. What is counted: requests that were answered and not, for how long in a row there was no answer, and whether
each annotation that was acknowledged is counted in the end.
"""

from __future__ import annotations

import os
import signal
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from redis import Redis

from benchmarks.faults.people import PROJECT, QUIET, People, publish
from benchmarks.faults.tables import Table, yes_or_no
from demo.stack import RunningSegloop
from segloop.errors import RegistryError
from segloop.queue import Jobs
from segloop.registry import Registry, open_registry
from segloop.settings import Settings

#: How long people go on after a fault, in seconds, and how long its recovery may take.
AFTER_S, PATIENCE_S = 5.0, 180.0
#: How long Valkey is frozen, and full, in seconds.
FROZEN_S, FULL_S = 60, 10
CLOCK = "the clock set back by an hour"
#: Where Debian's package libfaketime has what fakes the clock of one program. https://github.com/wolfcw/libfaketime
FAKETIME = Path("/usr/lib/x86_64-linux-gnu/faketime/libfaketimeMT.so.1")
COLUMNS = (
    *("fault", "served / failed", "annotations lost", "half versions", "seconds to the next answers"),
    *("longest without one, s", "what follows", "green"),
)


@dataclass
class Stand:
    """The running segloop, its store and its processes."""

    segloop: RunningSegloop
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
        with self.redis() as client:
            return int(client.info("server")["process_id"])

    def redis(self) -> Redis:
        """A connection of an administrator's."""
        return Redis.from_url(Settings(_env_file=None, data_dir=self.segloop.data_dir).queue_url)

    def kill_valkey(self) -> None:
        os.kill(self.valkey(), signal.SIGKILL)

    def freeze_valkey(self) -> None:
        pid = self.valkey()
        os.kill(pid, signal.SIGSTOP)
        time.sleep(FROZEN_S)
        os.kill(pid, signal.SIGCONT)

    def fill_valkey(self) -> None:
        """Let it refuse what takes memory, as one that is full does."""
        with self.redis() as client:
            client.config_set("maxmemory", "1")
            time.sleep(FULL_S)
            client.config_set("maxmemory", "0")

    def set_clock_back(self) -> None:
        (self.segloop.log.parent / "clock").write_text("-3600\n")
        time.sleep(FULL_S)

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
            with suppress(RegistryError):
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
    f"Valkey out of memory for {FULL_S} s": (
        Stand.fill_valkey,
        "webhooks say `deferred`; predictions go on",
    ),
    f"Valkey frozen for {FROZEN_S} s": (
        Stand.freeze_valkey,
        "webhooks say `deferred`; predictions go on",
    ),
    "the pointer cut, repaired after 3 s": (Stand.cut_pointer, "the last champion goes on; `segloop versions repair`"),
    "a damaged version promoted": (Stand.promote_a_damaged_version, "refused with the file's name"),
    "two hosts promote at once, 10 times each": (
        Stand.promote_from_two_hosts,
        "one after the other; generations count up",
    ),
    CLOCK: (Stand.set_clock_back, "nothing is forgotten, and nothing waits for the hour"),
}


def measure(stand: Stand, name: str) -> tuple[str, ...]:
    """A row of the table."""
    inject, seen = FAULTS[name]
    jobs = Jobs.open(Settings(_env_file=None, data_dir=stand.segloop.data_dir))
    # what is counted in the end is of this row alone
    jobs.changes.take(PROJECT, "full")
    with People(stand.segloop) as people:
        people.begin()
        inject(stand)
        began, before = time.monotonic(), people.served
        while people.served < before + 4 and time.monotonic() - began < PATIENCE_S:
            time.sleep(0.05)
        recovered_s = time.monotonic() - began
        time.sleep(AFTER_S)
    counted = jobs.changes.record(PROJECT, ()).full
    jobs.close()
    lost = max(0, len(people.acknowledged) - counted)
    whole = {info.version for info in stand.registry.versions(PROJECT)} == set(stand.versions)
    is_green = not lost and whole and people.served > before + 4 and people.versions <= set(stand.versions)
    return (
        name,
        f"{people.served} / {people.failed}",
        str(lost),
        "0" if whole else "some",
        f"{recovered_s:.1f}",
        f"{people.longest_s:.1f}",
        seen,
        yes_or_no(is_green),
    )


def main() -> None:
    """Inject each fault, and write the table row by row."""
    table = Table("processes", COLUMNS)
    with tempfile.TemporaryDirectory(prefix="segloop-faults-") as base:
        folder = Path(base)
        registry = open_registry(Settings(_env_file=None, data_dir=folder / "data"))
        versions = publish(registry, folder / "bundle", 2)
        with RunningSegloop(folder, **QUIET, input_size=64) as segloop:
            for name, (inject, _) in FAULTS.items():
                if inject is not Stand.set_clock_back:
                    table.add(measure(Stand(segloop, registry, versions), name))
        if FAKETIME.is_file():
            with with_own_clock(folder) as segloop:
                table.add(measure(Stand(segloop, registry, versions), CLOCK))


def with_own_clock(folder: Path) -> RunningSegloop:
    """A segloop whose processes have a clock of their own. No other row is measured with it: it can upset `time.sleep`."""
    segloop = RunningSegloop(folder, **QUIET, input_size=64)
    clock = segloop.log.parent / "clock"
    clock.write_text("+0\n")
    segloop.environment |= {
        "LD_PRELOAD": str(FAKETIME),
        "FAKETIME_TIMESTAMP_FILE": str(clock),
        "FAKETIME_NO_CACHE": "1",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
    }
    return segloop
