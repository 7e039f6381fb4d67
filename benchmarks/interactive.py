"""Smart-tool clicks on photos of 1024 x 1024 pixels: `python -m benchmarks.interactive`.

The real server with the default configuration (int8, prediction cache) and a version with a guided head. Each photo is new.
On some, Label Studio asks for the prediction, and then somebody clicks several times; on the others the click comes first.
Everything is included: the request, the photo's decoding, the network where it has not seen the photo, the head, and the
answer.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.harness import report
from benchmarks.photos import predict_body, task, write_photos
from benchmarks.servers import Connection, post, segloop_server
from benchmarks.versions import FEW_STEPS, add_option, label_config_of, serve_version, version_at
from segloop.settings import Settings

SIDE = 1024
PHOTOS = 20
#: Where the clicks are, in percent of the image: sky, road and what stands between in most scenes.
CLICKS = ((50.0, 10.0), (50.0, 85.0), (20.0, 60.0), (75.0, 45.0), (40.0, 70.0), (60.0, 30.0))
#: In milliseconds, of further clicks; and the first click's share of a prediction.
TARGET_MEDIAN_MS, TARGET_P95_MS, TARGET_FIRST = 60.0, 120.0, 1.3


def main() -> int:
    """Measure, and print one JSON line for each figure; 1 if a target is missed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_option(parser)
    given = parser.parse_args()
    with version_at(given.version, FEW_STEPS) as version, tempfile.TemporaryDirectory(prefix="segloop-clicks-") as name:
        folder = Path(name)
        warming, *photos = write_photos(folder / "photos", SIDE, SIDE, 2 * PHOTOS + 1)
        serve_version(version, Settings(data_dir=folder / "data"))
        config = label_config_of(version)
        with segloop_server(folder, image_folder=folder / "photos") as server:
            connection = Connection(server.port)
            asked(connection, config, warming, len(CLICKS))  # loads the network
            predicted = [asked(connection, config, photo, len(CLICKS)) for photo in photos[:PHOTOS]]
            clicked = [asked(connection, config, photo, 1, predicted=False) for photo in photos[PHOTOS:]]
    prediction_ms = statistics.median(times[0] for times in predicted)
    further_ms = [taken for times in predicted for taken in times[2:]]
    tell = partial(report, "interactive", prediction_ms=prediction_ms, photos=PHOTOS, clicks=len(further_ms))
    first_ms = statistics.median(times[0] for times in clicked)
    met = (
        tell("first click on a new photo", first_ms / prediction_ms, unit="of a prediction", target=TARGET_FIRST),
        tell("further click: median", statistics.median(further_ms), unit="ms", target=TARGET_MEDIAN_MS),
        tell(
            "further click: 95th percentile",
            statistics.quantiles(further_ms, n=20)[-1],
            unit="ms",
            target=TARGET_P95_MS,
        ),
    )
    return 0 if all(met) else 1


def asked(connection: Connection, config: str, photo: str, clicks: int, *, predicted: bool = True) -> list[float]:
    """Times in milliseconds of a photo's prediction, unless it is left out, and of each click, the clicks before with it."""
    contexts: list[dict[str, Any] | None] = [None] if predicted else []
    contexts += [context_of(CLICKS[: count + 1]) for count in range(clicks)]
    times = []
    for context in contexts:
        request = post("/predict", predict_body([task(photo)], config, context))
        start = time.perf_counter()
        answer = connection.send(request)
        times.append((time.perf_counter() - start) * 1000)
        assert len(json.loads(answer)["results"]) == 1
    return times


def context_of(places: Sequence[tuple[float, float]]) -> dict[str, Any]:
    """The context of clicks without a label of their own, at places in percent, as the editor sends it."""
    return {"result": [click(*place, ident=f"c{number}") for number, place in enumerate(places)]}


def click(x: float, y: float, ident: str) -> dict[str, Any]:
    """A positive click at a place in percent, as the editor sends it."""
    return {
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


if __name__ == "__main__":
    sys.exit(main())
