"""Input that is made to take memory or time, sent to a real server: what it answers, and whether others wait meanwhile.

While the server works on it, `/health` is asked over new connections, and the memory of its processes is looked at.
"""

from __future__ import annotations

import base64
import io
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
from PIL import Image

from benchmarks.faults.people import PROJECT, QUIET, publish
from benchmarks.faults.processes import Stand
from benchmarks.faults.tables import Table, yes_or_no
from demo.stack import RunningSegloop
from segloop.registry import open_registry
from segloop.settings import Settings
from tests.integration.test_hostile_input import png
from tests.toys import BRUSH

#: Bounds of a row that is green: seconds that `/health` takes at most, and MiB of the server's processes together.
HEALTH_S, MEMORY_MIB = 1.0, 1500.0
PATIENCE_S = 180.0
COLUMNS = ("input", "answers", "seconds", "longest `/health`, ms", "most memory, MiB", "green")

Bodies = list[bytes]


def predict(tasks: list[dict[str, Any]]) -> bytes:
    """A request for predictions of tasks."""
    body = {"project": PROJECT, "label_config": BRUSH, "tasks": tasks, "params": {}}
    return httpx.Request("POST", "http://x", json=body).content


def of_images(*addresses: str) -> Bodies:
    """A request for each image."""
    return [predict([{"id": number, "data": {"image": address}}]) for number, address in enumerate(addresses)]


def address_of(data: bytes, kind: str) -> str:
    return f"data:image/{kind};base64," + base64.b64encode(data).decode()


def photo(side: int, number: int) -> str:
    """A JPEG whose file is small and whose pixels are many."""
    file = io.BytesIO()
    Image.new("RGB", (side, side), (number * 40, 80, 160)).save(file, "JPEG")
    return address_of(file.getvalue(), "jpeg")


def failing(count: int) -> Bodies:
    """A request with tasks that have no image."""
    return [predict([{"id": number, "data": {}} for number in range(count)])]


INPUTS: dict[str, Callable[[], Bodies]] = {
    "a PNG of 1 x 99,000,000": lambda: of_images(address_of(png(1, 99_000_000), "png")),
    "a `data:` address of 4 million `%41`": lambda: of_images("data:image/png," + "%41" * 4_000_000),
    "four images of 98 megapixels at once": lambda: of_images(*(photo(9900, number) for number in range(4))),
    "sixteen images of 98 megapixels at once": lambda: of_images(*(photo(9900, number) for number in range(16))),
    "a body `[1,1,...]` of 240 MB": lambda: [b"[" + b"1," * 120_000_000 + b"1]"],
    "a body of 30 million brackets": lambda: [b"[" * 30_000_000],
    "20,000 tasks without an image": lambda: failing(20_000),
    "100,000 tasks without an image": lambda: failing(100_000),
}


def memory_mib(pids: list[int]) -> float:
    """What processes have in memory."""
    pages = 0
    for pid in pids:
        with suppress(OSError):
            pages += int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * 4096 / 2**20


def measure(stand: Stand, name: str) -> tuple[str, ...]:
    """A row of the table."""
    bodies, pids = INPUTS[name](), stand.processes("segloop.server")
    healths, memory, stop = [0.0], [memory_mib(pids)], threading.Event()

    def ask() -> None:
        while not stop.wait(0.05):
            began = time.monotonic()
            with suppress(httpx.HTTPError):
                httpx.get(f"{stand.segloop.url}/health", timeout=PATIENCE_S)
            healths.append(time.monotonic() - began)

    def look() -> None:
        while not stop.wait(0.05):
            memory.append(memory_mib(pids))

    watchers = [threading.Thread(target=ask), threading.Thread(target=look)]
    for thread in watchers:
        thread.start()
    began = time.monotonic()
    with ThreadPoolExecutor(len(bodies)) as pool:
        sent: list[Future[int]] = [pool.submit(send, stand.segloop, body) for body in bodies]
        answers = Counter(one.result() for one in sent)
    seconds = time.monotonic() - began
    stop.set()
    for thread in watchers:
        thread.join()
    told = ", ".join(f"{count} x {status or 'none'}" for status, count in sorted(answers.items()))
    well = {200, 400, 413, 503} >= set(answers) and stand.processes("segloop.server") == pids
    is_green = well and max(healths) <= HEALTH_S and max(memory) <= MEMORY_MIB
    cells = (f"{seconds:.1f}", f"{1000 * max(healths):.0f}", f"{max(memory):.0f}", yes_or_no(is_green))
    return (name, told, *cells)


def send(segloop: RunningSegloop, body: bytes) -> int:
    """The status of the answer to a body; 0 without one."""
    with segloop.client() as client, suppress(httpx.HTTPError):
        headers = {"Content-Type": "application/json"}
        return client.post("/predict", content=body, headers=headers, timeout=PATIENCE_S).status_code
    return 0


def main() -> None:
    """Send each input, and write the table row by row."""
    table = Table("hostile", COLUMNS)
    with tempfile.TemporaryDirectory(prefix="segloop-faults-") as base:
        folder = Path(base)
        registry = open_registry(Settings(_env_file=None, data_dir=folder / "data"))
        versions = publish(registry, folder / "bundle")
        with RunningSegloop(folder, **QUIET, input_size=64) as segloop:
            stand = Stand(segloop, registry, versions)
            send(segloop, of_images(photo(64, 0))[0])  # loads the network
            for name in INPUTS:
                table.add(measure(stand, name))
