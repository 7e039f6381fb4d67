"""Smart-tool clicks on a photo of 1024 x 1024 pixels: `python -m benchmarks.interactive`.

The real server with the default configuration (output stride 16, int8, prediction cache). Each photo is new: Label Studio
asks for its prediction, then the annotator clicks twice, on two places of different classes where there are such.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.harness import report
from benchmarks.photos import predict_body, task, write_photos
from benchmarks.servers import Connection, post, segloop_server
from benchmarks.versions import FEW_STEPS, add_option, label_config_of, serve_version, version_at
from segloop.settings import Settings

SIDE = 1024
PHOTOS = 20
#: Where the clicks are, in percent of the image: sky and road in most scenes.
CLICKS = ((50.0, 10.0), (50.0, 85.0))
TARGET_SHARE, TARGET_MS = 0.1, 100.0


def main() -> int:
    """Measure, and print one JSON line for each figure; 1 if a target is missed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_option(parser)
    given = parser.parse_args()
    with version_at(given.version, FEW_STEPS) as version, tempfile.TemporaryDirectory(prefix="segloop-clicks-") as name:
        folder = Path(name)
        photos = write_photos(folder / "photos", SIDE, SIDE, PHOTOS + 1)
        serve_version(version, Settings(data_dir=folder / "data"))
        config = label_config_of(version)
        with segloop_server(folder, image_folder=folder / "photos") as server:
            connection = Connection(server.port)
            taken = [asked(connection, config, photo) for photo in photos][1:]  # the first loads the network
    first_ms, click_ms, second_ms = (statistics.median(times) for times in zip(*taken, strict=True))
    times = {"first_prediction_ms": first_ms, "first_click_ms": click_ms, "second_click_ms": second_ms}
    met = (
        report(
            "interactive",
            "second click",
            second_ms / first_ms,
            unit="of the first prediction",
            target=TARGET_SHARE,
            **times,
        ),
        report("interactive", "second click", second_ms, unit="ms", target=TARGET_MS),
    )
    return 0 if all(met) else 1


def asked(connection: Connection, config: str, photo: str) -> list[float]:
    """Times in milliseconds of a photo's prediction, and of a click after another on it."""
    contexts = [None, *(click(*place, ident=f"c{number}") for number, place in enumerate(CLICKS))]
    times = []
    for context in contexts:
        request = post("/predict", predict_body([task(photo)], config, context))
        start = time.perf_counter()
        answer = connection.send(request)
        times.append((time.perf_counter() - start) * 1000)
        assert len(json.loads(answer)["results"]) == 1
    return times


def click(x: float, y: float, ident: str) -> dict[str, Any]:
    """The context of a click without a label of its own, at a place in percent, as the editor sends it."""
    item = {
        "id": ident,
        "from_name": "click",
        "to_name": "image",
        "type": "keypointlabels",
        "origin": "manual",
        "is_positive": True,
        "original_width": SIDE,
        "original_height": SIDE,
        "image_rotation": 0,
        "value": {"x": x, "y": y, "width": 0.3, "labels": []},
    }
    return {"result": [item]}


if __name__ == "__main__":
    sys.exit(main())
