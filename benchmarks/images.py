"""Reading a 12-megapixel photo for the network, and bringing its answer back: `python -m benchmarks.images`.

Prints one JSON line for each figure. The photo is made here: structure at every scale, shapes and noise, as a JPEG of
quality 90; the logits are those of a network that is sure inside of regions and torn at their edges.
"""

from __future__ import annotations

import io
import sys

import cv2
import numpy as np
import torch
from PIL import Image as Pillow

from benchmarks.harness import compare, report
from segloop.images import decode
from segloop.network.transforms import Float32, UInt8, class_map_of, resize_image

WIDTH, HEIGHT = 4000, 3000
INPUT_WIDTH, INPUT_HEIGHT = 512, 384
CLASSES, CELLS = 21, 64


def main() -> int:
    """Measure, and print the figures; 1 if one misses its target."""
    rng = np.random.default_rng(0)
    return 0 if all((decoding(photo(rng)), *upsampling(logits(rng)))) else 1


def decoding(jpeg: bytes) -> bool:
    """From the file to RGB at the network's input size."""

    def ours() -> UInt8:
        pixels = decode(jpeg, max_pixels=WIDTH * HEIGHT, long_side=INPUT_WIDTH)
        return resize_image(pixels, INPUT_HEIGHT, INPUT_WIDTH)

    def theirs() -> UInt8:
        image = Pillow.open(io.BytesIO(jpeg)).convert("RGB")
        return np.asarray(image.resize((INPUT_WIDTH, INPUT_HEIGHT), Pillow.Resampling.BILINEAR))

    return compare(
        "images",
        "decode a 12-megapixel JPEG to 512 pixels",
        ours,
        theirs,
        against="Pillow: full decode, resize",
        target=3.3,
        seconds=5.0,
        file_bytes=len(jpeg),
        mean_difference=float(np.abs(ours().astype(np.int16) - theirs()).mean()),
    )


def upsampling(logits: Float32) -> tuple[bool, bool]:
    """From logits to the class map of a 12-megapixel image; ours gives the confidence of each pixel besides."""
    tensor = torch.from_numpy(logits)[None]

    def ours() -> UInt8:
        return class_map_of(logits, HEIGHT, WIDTH)

    def theirs() -> UInt8:
        with torch.inference_mode():
            large = torch.nn.functional.interpolate(tensor, (HEIGHT, WIDTH), mode="bilinear", align_corners=False)
            return large.argmax(dim=1)[0].to(torch.uint8).numpy()

    against = "torch: F.interpolate(bilinear), argmax"
    agreement = float((ours() == theirs()).mean())
    return (
        compare(
            "images",
            f"upsample logits ({CLASSES}, {CELLS}, {CELLS}) to a class map of 12 megapixels",
            ours,
            theirs,
            against=against,
            target=18.0,
            seconds=8.0,
            threads=torch.get_num_threads(),
        ),
        report("images", "labels of the upsampled logits", agreement, unit="agreement", target=0.9999, against=against),
    )


def photo(rng: np.random.Generator) -> bytes:
    """A JPEG of 12 megapixels."""
    image = rng.normal(128, 4, (HEIGHT, WIDTH, 3)).astype(np.float32)
    for cells in (4, 16, 64, 256):
        coarse = rng.normal(0, 120 / cells**0.5, (cells, cells, 3)).astype(np.float32)
        image += cv2.resize(coarse, (WIDTH, HEIGHT), interpolation=cv2.INTER_CUBIC)
    for _ in range(60):
        centre = (int(rng.integers(WIDTH)), int(rng.integers(HEIGHT)))
        colour = [float(channel) for channel in rng.integers(0, 256, 3)]
        cv2.circle(image, centre, int(rng.integers(20, 300)), colour, cv2.FILLED, cv2.LINE_AA)
    buffer = io.BytesIO()
    Pillow.fromarray(np.clip(image, 0, 255).astype(np.uint8)).save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


def logits(rng: np.random.Generator) -> Float32:
    """float32 (CLASSES, CELLS, CELLS)."""
    regions = [
        cv2.resize(rng.normal(0, 4, (6, 6)), (CELLS, CELLS), interpolation=cv2.INTER_CUBIC) for _ in range(CLASSES)
    ]
    return (np.stack(regions) + rng.normal(0, 0.2, (CLASSES, CELLS, CELLS))).astype(np.float32)


if __name__ == "__main__":
    sys.exit(main())
