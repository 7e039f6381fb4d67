"""segloop's server against the official one, as real processes over loopback: `python -m benchmarks.serving`.

Transport: a model that predicts nothing. Around the network: a photo of 2 megapixels to brush masks, where both get the
same logits (benchmarks.serving_app, benchmarks.peer) and no photo is asked for by two clients. Then what a request of
segloop's default configuration costs beside its network. segloop's prediction cache is off.

The servers run as each starts itself: segloop with one process, the official one under gunicorn with one process and
the 8 threads of its examples.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.harness import paired_ms, report
from benchmarks.photos import predict_body, scene_logits, task, write_photos
from benchmarks.servers import SEGLOOP, Connection, Server, paired_load, post, segloop_server
from benchmarks.versions import FEW_STEPS, PROJECT, SERVED_SIZE, add_option, label_config_of, serve_version, version_at
from demo.data import CAMVID, DemoData
from segloop.images import decode
from segloop.masks import decode_rle
from segloop.network.transforms import normalise
from segloop.network.windows import seen_pixels
from segloop.serving.engines import OpenVINOEngine
from segloop.settings import Settings

PHOTO = (1920, 1080)
ONE_MEGAPIXEL = (1152, 864)
CLIENTS = 8
STRIDE = 16
OVER_KNOWN_LOGITS = tuple(part.replace("_wsgi:app", "benchmarks.serving_app:app") for part in SEGLOOP)
PEER = ("-m", "gunicorn", "--bind", "127.0.0.1:{port}", "--workers", "1", "--threads", "8", "--timeout", "0")


def main() -> int:
    """Measure, and print one JSON line for each figure; 1 if a target is missed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_option(parser)
    parser.add_argument("--official", type=Path, help="a checkout of label-studio-ml-backend 2.x, and semver beside it")
    parser.add_argument("--seconds", type=float, default=1.0, help="length of each of three rounds of a measurement")
    given = parser.parse_args()
    with (
        version_at(given.version, FEW_STEPS) as version,
        tempfile.TemporaryDirectory(prefix="segloop-serving-") as folder,
        # the official server writes to SQLite in each request: not to a disk here, of which each has its own speed
        tempfile.TemporaryDirectory(dir="/dev/shm" if Path("/dev/shm").is_dir() else None) as memory,
    ):
        measure = Comparison(Path(folder), Path(memory), version, given.official, given.seconds)
        met = [*measure.transport(), *measure.photo(), measure.around_the_forward()]
    return 0 if all(met) else 1


class Comparison:
    """The figures, with what they share: folders on disk and in memory, a version's, and how long to measure."""

    def __init__(self, folder: Path, memory: Path, version: Path, official: Path | None, seconds: float) -> None:
        self._folder, self._memory, self._version = folder, memory, version
        self._official, self._seconds = official, seconds
        self._config = label_config_of(version)
        self._photos = folder / "photos"
        self._settings = {"image_folder": self._photos, "prediction_cache_bytes": 0}
        self._against = "label-studio-ml 2.x" if official else "the route of label-studio-ml 2.x, and the SDK"

    def transport(self) -> list[bool]:
        """Empty answers, of a project that has settings of its own."""
        config = DemoData(CAMVID, (), ()).label_config
        request = post("/predict", predict_body([task("nothing.jpg")], config))
        setup = post("/setup", {"project": PROJECT, "schema": config, "extra_params": {"retrain_threshold": 20}})
        with segloop_server(self._empty("trivial")) as ours, self._peer({}) as theirs:
            with Connection(ours.port) as connection:
                connection.send(setup)
            one = paired_load((ours.port, [request]), (theirs.port, [request]), self._seconds)
            all_ = paired_load((ours.port, [request] * CLIENTS), (theirs.port, [request] * CLIENTS), self._seconds)
        tell = partial(report, "serving", against=self._against, unit="times", labels=len(CAMVID))
        return [
            tell(
                "transport, trivial model: p50, 1 client",
                one[1].percentile_ms(50) / one[0].percentile_ms(50),
                target=2.0,
                ours_ms=one[0].percentile_ms(50),
                theirs_ms=one[1].percentile_ms(50),
            ),
            tell(
                f"transport, trivial model: requests/s, {CLIENTS} clients",
                all_[0].per_s / all_[1].per_s,
                target=2.0,
                ours_per_s=all_[0].per_s,
                theirs_per_s=all_[1].per_s,
            ),
        ]

    def photo(self) -> list[bool]:
        """From the file to masks, with logits that are known."""
        names = write_photos(self._photos, *PHOTO, CLIENTS)
        logits = self._folder / "logits.npy"
        width, height = PHOTO
        rows, columns = round(SERVED_SIZE * height / width) // STRIDE, SERVED_SIZE // STRIDE
        np.save(logits, scene_logits(width, height, rows, columns))
        given = {"BENCHMARK_LOGITS": str(logits)}
        requests = [self._request(name) for name in names]
        with self._ours(OVER_KNOWN_LOGITS, given) as ours, self._peer(given) as theirs:
            same = self._agreement(ours, theirs, requests[0])
            tell = partial(report, "serving", unit="times", against=self._against, same_pixels=same)
            met = []
            for clients, target, seconds in ((1, 3.0, self._seconds * 1.5), (CLIENTS, 5.0, self._seconds * 3)):
                mine, other = paired_load((ours.port, requests[:clients]), (theirs.port, requests[:clients]), seconds)
                met.append(
                    tell(
                        f"photo of 2 megapixels, all but the network: requests/s, {clients} client{'s'[: clients - 1]}",
                        mine.per_s / other.per_s,
                        target=target,
                        ours_per_s=mine.per_s,
                        theirs_per_s=other.per_s,
                        ours_p50_ms=mine.percentile_ms(50),
                        theirs_p50_ms=other.percentile_ms(50),
                    )
                )
        return met

    def around_the_forward(self) -> bool:
        """A whole request of the default configuration, against its network alone."""
        [name] = write_photos(self._photos, *ONE_MEGAPIXEL, 1)
        engine = OpenVINOEngine(self._version / "bundle" / "openvino-int8.xml")
        pixels = decode((self._photos / name).read_bytes(), max_pixels=10**7, long_side=SERVED_SIZE)
        batch = normalise(seen_pixels(pixels, SERVED_SIZE, 0))[None]
        with self._ours(SEGLOOP, {}) as ours:
            connection, request = Connection(ours.port), self._request(name)
            request_ms, forward_ms = paired_ms(
                lambda: connection.send(request), lambda: engine.logits(batch), self._seconds * 5
            )
        return report(
            "serving",
            "/predict of a 1-megapixel photo, int8",
            request_ms / forward_ms,
            unit="of the forward pass",
            target=1.6,
            request_ms=request_ms,
            forward_ms=forward_ms,
            network_sees=f"{batch.shape[3]}x{batch.shape[2]}",
        )

    def _request(self, name: str) -> bytes:
        return post("/predict", predict_body([task(name)], self._config))

    def _empty(self, name: str) -> Path:
        folder = self._folder / name
        folder.mkdir()
        return folder

    def _ours(self, command: tuple[str, ...], environment: Mapping[str, str]) -> Server:
        folder = self._empty(command[-1])
        serve_version(self._version, Settings(data_dir=folder / "data"))
        server = segloop_server(folder, command, **self._settings)
        server.environment.update(environment)
        return server

    def _peer(self, environment: Mapping[str, str]) -> Server:
        path = {"PYTHONPATH": str(self._official)} if self._official else {}
        given = {
            "LOCAL_FILES_DOCUMENT_ROOT": str(self._photos),
            "LOG_LEVEL": "WARNING",
            "MODEL_DIR": str(self._memory),
            **path,
            **environment,
        }
        return Server(self._folder, [*PEER, "benchmarks.peer:app"], given)

    def _agreement(self, ours: Server, theirs: Server, request: bytes) -> float:
        """The share of pixels to which both give the same class."""
        maps = [
            class_map_of(json.loads(Connection(server.port).send(request))["results"][0], *PHOTO)
            for server in (ours, theirs)
        ]
        return float((maps[0] == maps[1]).mean())


def class_map_of(prediction: dict[str, Any], width: int, height: int) -> np.ndarray:
    """The masks of a prediction as one map: the hash of a label in each pixel."""
    found = np.zeros((height, width), np.int64)
    for region in prediction["result"]:
        value = region["value"]
        found[decode_rle(value["rle"], height, width) > 0] = hash(value["brushlabels"][0])
    return found


if __name__ == "__main__":
    sys.exit(main())
