"""Input that is made to take memory or time: it is refused before it is decoded, by what it says of itself."""

from __future__ import annotations

import base64
import io
import struct
import tracemalloc
import zlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any

import numpy as np
import pytest
from PIL import Image

from segloop import images
from segloop.errors import ImageError, ImageTooLarge, MaskError
from segloop.images.decode import MAX_SIDE, decode, read_header
from segloop.images.files import data_url
from segloop.label_config import parse_label_config
from segloop.masks import decode_bitmask
from segloop.payloads import MAX_TASKS
from segloop.serving import predict
from segloop.serving.pixels import PixelBudget
from segloop.serving.predict import Predictor
from segloop.settings import Settings
from segloop.web import json_body
from tests.odd_images import dense, interlaced_png, picture
from tests.toys import BRUSH, ToyImages, toy_model
from tests.world import World

MIB = 2**20


def png(width: int, height: int, mode: int = 2) -> bytes:
    """A PNG of a size, of which only the first rows are there."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, mode, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"\0" * 999)) + chunk(b"IEND", b"")


def peak(call: Callable[[], object]) -> int:
    """Bytes that a call needs at its peak."""
    tracemalloc.start()
    try:
        call()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("size", [(1, 80_000_000), (80_000_000, 1), (MAX_SIDE + 1, 1)])
def test_an_image_with_an_endless_side(size: tuple[int, int]) -> None:
    data = png(*size)
    with pytest.raises(ImageTooLarge, match=f"a side of more than {MAX_SIDE}"):
        decode(data, max_pixels=10**8)
    with pytest.raises(ImageTooLarge):
        read_header(data).check(10**8)


def test_the_longest_side_is_decoded() -> None:
    buffer = io.BytesIO()
    Image.new("RGB", (MAX_SIDE, 1), (200, 60, 40)).save(buffer, "PNG")
    assert decode(buffer.getvalue(), max_pixels=10**8).shape == (1, MAX_SIDE, 3)


def test_a_photo_that_is_shown_small_counts_as_large_as_it_is_decoded(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    buffer = io.BytesIO()
    Image.new("RGB", (400, 300)).save(buffer, "JPEG", exif=b"Exif\0\0" + dense((7200, 7200), (4, 3)))
    photo = images.Image(images.Blob(buffer.getvalue(), "0" * 64), max_pixels=10**6, name="photo")
    assert (photo.width, photo.height) == (4, 3)
    taken: list[int] = []

    class Budget(PixelBudget):
        def taken(self, pixels: int, deadline: float | None = None) -> AbstractContextManager[None]:
            taken.append(pixels)
            return super().taken(pixels, deadline)

    class Photos:
        def load(self, uri: str, task_id: int | None) -> images.Image:
            return photo

    monkeypatch.setattr(predict, "_under_way", Budget(10**6))
    predictor = Predictor(parse_label_config(BRUSH), toy_model(), Photos(), settings)
    task = {"data": {"image": "a"}}
    click = {"type": "keypoint", "to_name": "image", "value": {"x": 50, "y": 50}}
    assert "score" in predictor.predict([task])[0]
    predictor.answer(task, {"result": [click]})
    assert taken == [400 * 300] * 2


@pytest.mark.slow
def test_an_interlaced_image_that_is_cut_short_takes_no_more_memory_than_others() -> None:
    whole = interlaced_png(picture(2400, 1600))
    assert peak(lambda: decode(whole[: len(whole) // 2], max_pixels=10**7)) < 20 * 2400 * 1600


@pytest.mark.slow
def test_escapes_of_a_data_url_take_no_more_memory_than_their_text() -> None:
    with pytest.raises(ImageTooLarge):
        data_url("data:," + "%41" * 4_000_000, 64 * MIB)
    escaped = "data:," + "%41" * 1_000_000
    assert peak(lambda: data_url(escaped, 64 * MIB)) < 24 * MIB


@pytest.mark.parametrize(
    "body", ["", "%", "a%", "%4", "%41", "%zz%41", "ü%C3%BC", "a" * 65_534 + "%41b%4", "%41" * 50_000 + "x"]
)
def test_escapes_mean_what_they_mean_anywhere(body: str) -> None:
    from urllib.parse import unquote_to_bytes

    assert data_url(f"data:,{body}", MIB) == unquote_to_bytes(body)


@pytest.mark.parametrize("start", ["data:image/png;base64", "DATA:; base64", "data:;x=y;BASE64 "])
@pytest.mark.parametrize("body", [b"", b"a", b"ab", b"abc", b"abcd"])
def test_base64_is_read_as_browsers_read_it(start: str, body: bytes) -> None:
    whole = base64.b64encode(body).decode()
    for text in (whole, whole.rstrip("="), f" {whole}\n", whole.replace("=", "%3D"), f"{whole}#top"):
        assert data_url(f"{start},{text}", MIB) == body


@pytest.mark.parametrize("text", ["A", "AAAAA", "AA=", "AAA==", "A===", "AA-_", "ü"])
def test_what_is_no_base64(text: str) -> None:
    with pytest.raises(ImageError, match="is not base64"):
        data_url(f"data:;base64,{text}", MIB)


def test_spaces_in_base64_take_no_more_memory_than_their_text() -> None:
    text = base64.b64encode(bytes(300_000)).decode()
    spaced = "data:;base64," + " ".join(text)
    assert data_url(spaced, MIB) == bytes(300_000)
    assert peak(lambda: data_url(spaced, MIB)) < 8 * MIB


@pytest.mark.parametrize("size", [(11_500, 11_500), (11_500, 8_625), (MAX_SIDE, 1)])
def test_a_bitmask_far_larger_than_its_image(size: tuple[int, int]) -> None:
    url = "data:image/png;base64," + base64.b64encode(png(*size, mode=6)).decode()
    with pytest.raises(MaskError, match=r"too large|does not fit"):
        decode_bitmask(url, 48, 64)


# -- requests


@pytest.fixture
def world(settings: Settings, redis_url: str) -> Iterator[World]:
    made = World(settings.model_copy(update={"redis_url": redis_url}))
    yield made
    made.close()


def asked(tasks: list[Any]) -> dict[str, Any]:
    return {"project": "1.1795382829", "label_config": BRUSH, "tasks": tasks}


@pytest.mark.slow
def test_more_tasks_than_one_request_may_have(world: World) -> None:
    refused = world.client.post("/predict", json=asked([{"data": {}}] * (MAX_TASKS + 1)))
    assert refused.status_code == 413
    assert str(MAX_TASKS) in refused.json["error"]


def test_a_request_of_failing_tasks_is_answered_and_fills_no_log(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    world.promote("1.1795382829")
    results = world.client.post("/predict", json=asked([{"data": {"image": "bad"}}] * 2_000)).json["results"]
    assert results == [{"result": [], "score": None}] * 2_000
    assert len(caplog.records) < 40
    assert "1980 more tasks of the request have no prediction" in caplog.text


def test_tasks_past_the_deadline_are_left_out_at_once(settings: Settings) -> None:
    images = ToyImages()
    predictor = Predictor(parse_label_config(BRUSH), toy_model(), images, settings, deadline=0.0)  # type: ignore[arg-type]
    assert predictor.predict([{"id": n, "data": {"image": "a"}} for n in range(10_000)]) == [{}] * 10_000
    assert images.asked == []


@pytest.mark.parametrize(
    "body",
    [b"[" + b"1," * 200_000 + b"1]", b"[" + b"{}," * 50_000 + b"1]", b"[" + b'"a",' * 50_000 + b"1]", b"[" * 70_000],
    ids=["numbers", "objects", "strings", "lists"],
)
def test_a_body_of_too_many_values(world: World, monkeypatch: pytest.MonkeyPatch, body: bytes) -> None:
    monkeypatch.setattr(json_body, "LARGE_BYTES", 10_000)
    monkeypatch.setattr(json_body, "MAX_PARSED_BYTES", 2 * MIB)
    refused = world.client.post("/predict", data=body, content_type="application/json")
    assert refused.status_code == 413, refused.text
    assert "too many values" in refused.json["error"]
    plain = world.client.post("/validate", json={"config": BRUSH, "note": "x" * 50_000})
    assert plain.status_code == 200, "a large body that needs little is read, and the turn was handed back"


@pytest.mark.slow
def test_estimates_are_no_less_than_what_parsing_takes() -> None:
    rng = np.random.default_rng(0)
    for text in (
        b"[" + b",".join(str(n).encode() for n in rng.integers(0, 256, 100_000)) + b"]",
        b"[" + b",".join(b'{"a":[]}' for _ in range(30_000)) + b"]",
        b"[" + b",".join(b'"%d"' % n for n in range(100_000)) + b"]",
    ):
        import orjson

        assert json_body.takes_more(text, peak(lambda text=text: orjson.loads(text)) // 2)


def test_one_large_body_at_a_time(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json_body, "LARGE_BYTES", 10_000)
    monkeypatch.setattr(json_body, "_PATIENCE_S", 0.01)
    body = {"config": BRUSH, "note": "x" * 50_000}
    with json_body._large:
        busy = world.client.post("/validate", json=body)
        assert (busy.status_code, busy.headers["Retry-After"]) == (503, "10")
    assert world.client.post("/validate", json=body).status_code == 200


def test_chunks_of_no_declared_length_are_read_up_to_a_limit(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json_body, "LARGE_BYTES", 10_000)
    chunks = {
        "input_stream": io.BytesIO(b"1" * 20_000),
        "environ_overrides": {"wsgi.input_terminated": True, "HTTP_TRANSFER_ENCODING": "chunked"},
    }
    assert world.client.post("/validate", **chunks).status_code == 413
