"""What `/predict` costs by the size of the image and by the number of clients: `python -m benchmarks.scaling`.

The real server with the default configuration (output stride 16, int8), prediction cache off. No two clients ask for the
same photo. The network sees every image at 512 pixels: what grows with the image is decoding and masks.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.harness import report
from benchmarks.photos import predict_body, task, write_photos
from benchmarks.servers import Connection, Server, load, post, segloop_server
from benchmarks.versions import FEW_STEPS, add_option, label_config_of, serve_version, version_at
from segloop.settings import Settings

#: Width and height by megapixels.
SIZES = {0.25: (576, 432), 1.0: (1152, 864), 4.0: (2304, 1728), 12.0: (4000, 3000)}
CLIENTS = (1, 2, 4, 8, 16)
LARGEST, MOST_CLIENTS_JUDGED = 12.0, 8
SIZE_TARGET, CLIENTS_TARGET = 6.0, 0.9


def main() -> int:
    """Measure, and print one JSON line for each figure; 1 if a target is missed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_option(parser)
    parser.add_argument(
        "--seconds", type=float, default=3.0, help="length of the measurement of each number of clients"
    )
    given = parser.parse_args()
    with (
        version_at(given.version, FEW_STEPS) as version,
        tempfile.TemporaryDirectory(prefix="segloop-scaling-") as name,
    ):
        folder = Path(name)
        serve_version(version, Settings(data_dir=folder / "data"))
        config = label_config_of(version)

        def requests(width: int, height: int, count: int) -> list[bytes]:
            photos = write_photos(folder / "photos", width, height, count)
            return [post("/predict", predict_body([task(photo)], config)) for photo in photos]

        by_size = {size: requests(*sides, 1)[0] for size, sides in SIZES.items()}
        by_client = requests(*SIZES[1.0], max(CLIENTS))
        with segloop_server(folder, image_folder=folder / "photos", prediction_cache_bytes=0) as server:
            met = [sizes(server, by_size), clients(server, by_client, given.seconds)]
    return 0 if all(met) else 1


def sizes(server: Server, requests: dict[float, bytes], rounds: int = 7) -> bool:
    """Median times by size, the sizes in turns."""
    connection = Connection(server.port)
    times: dict[float, list[float]] = {size: [] for size in requests}
    for turn in range(rounds + 1):
        for size, request in requests.items():
            start = time.perf_counter()
            connection.send(request)
            if turn:
                times[size].append((time.perf_counter() - start) * 1000)
    medians = {size: statistics.median(taken) for size, taken in times.items()}
    return report(
        "scaling",
        f"/predict of {LARGEST:g} megapixels",
        medians[LARGEST] / medians[1.0],
        unit="of 1 megapixel",
        target=SIZE_TARGET,
        ms_by_megapixels={f"{size:g}": round(ms, 1) for size, ms in medians.items()},
    )


def clients(server: Server, requests: list[bytes], seconds: float) -> bool:
    """Answers a second, and the 95th percentile of their times, by the number of clients."""
    loads = {count: load(server.port, requests[:count], seconds) for count in CLIENTS}
    return report(
        "scaling",
        f"requests/s of {MOST_CLIENTS_JUDGED} clients, 1 megapixel",
        loads[MOST_CLIENTS_JUDGED].per_s / loads[1].per_s,
        unit="times",
        target=CLIENTS_TARGET,
        against="1 client",
        per_s_by_clients={str(count): round(found.per_s, 2) for count, found in loads.items()},
        p95_ms_by_clients={str(count): round(found.percentile_ms(95), 1) for count, found in loads.items()},
    )


if __name__ == "__main__":
    sys.exit(main())
