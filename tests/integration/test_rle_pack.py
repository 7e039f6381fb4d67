"""Brush codes against the JavaScript that Label Studio's editor runs: `@thi.ng/rle-pack`, from npm."""

from __future__ import annotations

import base64
import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from filelock import FileLock
from hypothesis import given, settings
from hypothesis import strategies as st

from segloop.masks import decode_rle, encode_class_rle, encode_rle

NODE = Path(__file__).parents[1] / "node"
PACKAGE = "@thi.ng/rle-pack"
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not (shutil.which("node") and shutil.which("npm")), reason="needs node and npm"),
]


class RlePack:
    """The original in one Node process; a call is a line there and a line back."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def encode(self, mask: np.ndarray) -> list[int]:
        """The code of a mask uint8 (H, W), as the editor makes it from a canvas."""
        return list(self._ask(do="encodeAlphas", alphas=to_text(mask))["rle"])

    def encode_values(self, values: np.ndarray) -> list[int]:
        """The code of any uint8 values."""
        return list(self._ask(do="encode", values=to_text(values))["rle"])

    def decode(self, rle: list[int], height: int, width: int) -> np.ndarray:
        """The alphas of a code, whose other channels must hold the same."""
        answer = self._ask(do="decode", rle=to_text(bytes(rle)))
        assert answer["allChannels"]
        return np.frombuffer(answer["alphas"], np.uint8).reshape(height, width)

    def _ask(self, **request: Any) -> dict[str, Any]:
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        answer = json.loads(self._process.stdout.readline())
        return {name: base64.b64decode(value) if isinstance(value, str) else value for name, value in answer.items()}


def to_text(values: np.ndarray | bytes) -> str:
    return base64.b64encode(np.ascontiguousarray(values) if isinstance(values, np.ndarray) else values).decode()


def installed() -> Path:
    """The package's folder, installed on demand from tests/node/package-lock.json and kept in ~/.cache/segloop."""
    version = json.loads((NODE / "package.json").read_text(encoding="utf-8"))["dependencies"][PACKAGE]
    folder = Path.home() / ".cache" / "segloop" / f"rle-pack-{version}"
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / "lock"):
        # npm writes this file last.
        if not (folder / "node_modules" / ".package-lock.json").exists():
            for name in ("package.json", "package-lock.json", ".npmrc"):
                shutil.copy(NODE / name, folder)
            command = ["npm", "ci", "--omit=dev", "--ignore-scripts"]
            result = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=240, check=False)
            assert result.returncode == 0, result.stdout + result.stderr
    return folder / "node_modules" / PACKAGE


@pytest.fixture(scope="session")
def rle_pack() -> Iterator[RlePack]:
    command = ["node", NODE / "rle_pack.mjs", installed()]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        yield RlePack(process)
        assert process.stdin
        process.stdin.close()
        assert process.wait(timeout=30) == 0


def blobs(height: int, width: int, seed: int = 0) -> np.ndarray:
    import cv2

    noise = np.random.default_rng(seed).standard_normal((64, 64)).astype(np.float32)
    smooth = cv2.resize(cv2.GaussianBlur(noise, (0, 0), 3), (width, height), interpolation=cv2.INTER_CUBIC)
    return np.where(smooth > 0, 255, 0).astype(np.uint8)


@st.composite
def masks(draw: st.DrawFn) -> np.ndarray:
    """Masks of any size, values and length of runs."""
    side = st.one_of(st.sampled_from([1, 2, 3, 7, 64, 255]), st.integers(1, 300))
    height, width = draw(side), draw(side)
    alphas = draw(st.sampled_from([[0, 255], [0], [255], [0, 1], [0, 128, 255], list(range(256))]))
    mean_run = draw(st.sampled_from([1, 2, 20, 500, 20_000]))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    pixels = height * width
    runs = rng.geometric(1 / mean_run, pixels)
    count = int(np.searchsorted(np.cumsum(runs), pixels)) + 1
    return rng.choice(np.array(alphas, np.uint8), count).repeat(runs[:count])[:pixels].reshape(height, width)


def check(rle_pack: RlePack, mask: np.ndarray) -> None:
    """Both write the same bytes, and each reads the other's."""
    ours, theirs = encode_rle(mask), rle_pack.encode(mask)
    assert ours == theirs
    assert (rle_pack.decode(ours, *mask.shape) == mask).all()
    assert (decode_rle(theirs, *mask.shape) == mask).all()


@settings(deadline=None, max_examples=300)
@given(masks())
def test_any_mask(rle_pack: RlePack, mask: np.ndarray) -> None:
    check(rle_pack, mask)


@pytest.mark.parametrize("shape", [(1, 1), (1, 2), (2, 1), (1, 4099), (4099, 1), (33, 31), (1, 2**14 + 1), (768, 1365)])
@pytest.mark.parametrize("kind", ["blank", "full", "last", "blobs", "noise"])
def test_shapes(rle_pack: RlePack, shape: tuple[int, int], kind: str) -> None:
    mask = {
        "blank": lambda: np.zeros(shape, np.uint8),
        "full": lambda: np.full(shape, 255, np.uint8),
        "last": lambda: np.eye(1, shape[0] * shape[1], shape[0] * shape[1] - 1, np.uint8).reshape(shape) * 255,
        "blobs": lambda: blobs(*shape),
        "noise": lambda: np.random.default_rng(0).choice(np.array([0, 255], np.uint8), shape),
    }[kind]()
    check(rle_pack, mask)


@pytest.mark.parametrize("pixels", [2**14 * pieces + more for pieces in (1, 2, 3) for more in (-1, 0, 1)])
def test_runs_around_the_longest_of_one_code(rle_pack: RlePack, pixels: int) -> None:
    check(rle_pack, np.repeat(np.array([9, 255, 0], np.uint8), (3, pixels, 1))[None])


def test_largest_blobs(rle_pack: RlePack) -> None:
    check(rle_pack, blobs(4096, 4096))


def test_classes_of_a_large_map(rle_pack: RlePack) -> None:
    class_map = (blobs(4096, 2048, 1) & 1) + (blobs(4096, 2048, 2) & 2)
    for value, rle in enumerate(encode_class_rle(class_map, range(4))):
        assert (rle_pack.decode(rle, 4096, 2048) == np.where(class_map == value, 255, 0)).all()


@settings(deadline=None)
@given(masks(), st.integers(0, 2**32 - 1))
def test_literals(rle_pack: RlePack, mask: np.ndarray, seed: int) -> None:
    """Channels that differ, which the original writes as literals, up to 65536 in one code."""
    values = np.random.default_rng(seed).integers(0, 256, (*mask.shape, 4)).astype(np.uint8)
    values[..., 3] = mask
    assert (decode_rle(rle_pack.encode_values(values), *mask.shape) == mask).all()
