"""What a server process on a CPU takes, and how soon it answers: `python -m benchmarks.memory`.

`segloop serve`, as it is, with a version that has its engines: once with the default engine and once with torch. Memory
is of the process that answers, after a few predictions. Modules are told by Python's own log of imports, libraries by the
process's memory map.
"""

from __future__ import annotations

import argparse
import re
import statistics
import sys
import tempfile
from pathlib import Path

from benchmarks.harness import report
from benchmarks.photos import predict_body, task, write_photos
from benchmarks.servers import Connection, Server, post, segloop_server
from benchmarks.serving import PEER
from benchmarks.versions import FEW_STEPS, add_option, label_config_of, serve_version, version_at
from segloop.settings import Settings

PHOTO = (1920, 1080)
PREDICTIONS = 6
STARTS = 3
COMMAND = ("-m", "segloop.cli", "serve")
#: What a server process on a CPU has no use for.
FOREIGN = ("torch", "torchvision", "label_studio_sdk", "onnxruntime")
TARGET_MB, TARGET_S = 350.0, 3.0


def main() -> int:
    """Measure, and print one JSON line for each figure; 1 if a target is missed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_option(parser)
    given = parser.parse_args()
    with version_at(given.version, FEW_STEPS) as version, tempfile.TemporaryDirectory(prefix="segloop-memory-") as name:
        met = measure(Path(name), version)
    return 0 if all(met) else 1


def measure(folder: Path, version: Path) -> list[bool]:
    photos = write_photos(folder / "photos", *PHOTO, PREDICTIONS)
    serve_version(version, Settings(data_dir=folder / "data"))
    config = label_config_of(version)
    requests = [post("/predict", predict_body([task(photo)], config)) for photo in photos]

    def server(**settings: object) -> Server:
        return segloop_server(folder, COMMAND, image_folder=folder / "photos", **settings)

    with server() as ours:
        default = memory_after(ours, requests)
        libraries = foreign_libraries(ours.worker_pid)
    with server(engine="torch") as theirs:
        torch = memory_after(theirs, requests)
    imports = server()
    imports.environment["PYTHONPROFILEIMPORTTIME"] = "1"
    with imports:
        memory_after(imports, requests[:1])
        modules = foreign_modules(imports.log.read_text(errors="replace"))
    starts_s = [started_s(server()) for _ in range(STARTS)]
    peer_s = started_s(Server(folder, [*PEER, "benchmarks.peer:app"], {"MODEL_DIR": str(folder)}))
    return [
        report(
            "memory",
            "server process on the CPU, resident",
            default["VmRSS"],
            unit="MB",
            target=TARGET_MB,
            peak_mb=default["VmHWM"],
            torch_engine_mb=torch["VmRSS"],
            torch_engine_peak_mb=torch["VmHWM"],
        ),
        report(
            "memory",
            f"loaded of {', '.join(FOREIGN)}",
            len(modules | libraries),
            unit="packages",
            target=0,
            loaded=sorted(modules | libraries),
        ),
        report(
            "memory",
            "from the start of `segloop serve` until /health answers",
            statistics.median(starts_s),
            unit="s",
            target=TARGET_S,
            starts=STARTS,
            peer_s=peer_s,
        ),
    ]


def memory_after(server: Server, requests: list[bytes]) -> dict[str, float]:
    """VmRSS and VmHWM of the worker, in megabytes (10^6 bytes), after some requests."""
    connection = Connection(server.port)
    for request in requests:
        connection.send(request)
    status = Path(f"/proc/{server.worker_pid}/status").read_text("ascii")
    return {
        name: int(kib) * 1024 / 1e6 for name, kib in re.findall(r"^(VmRSS|VmHWM):\s+(\d+) kB", status, re.MULTILINE)
    }


def foreign_libraries(pid: int) -> set[str]:
    """Packages of FOREIGN that a file in the process's memory map belongs to."""
    maps = Path(f"/proc/{pid}/maps").read_text()
    return {name for name in FOREIGN if re.search(rf"/{name}/|/lib{name}", maps)}


def foreign_modules(log: str) -> set[str]:
    """Packages of FOREIGN that Python's log of imports names."""
    imported = re.findall(r"^import time:.*\|\s*([\w.]+)$", log, re.MULTILINE)
    assert "segloop.backend" in imported, "the log of imports is missing"
    return {name.split(".")[0] for name in imported} & set(FOREIGN)


def started_s(server: Server) -> float:
    """Seconds from the start of a server's command until it answers."""
    with server:
        return server.started_s


if __name__ == "__main__":
    sys.exit(main())
