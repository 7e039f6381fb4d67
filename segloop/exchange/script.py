"""predict.py of an exported version: what the network is given and what becomes of its answer, without segloop."""

from __future__ import annotations

from typing import Final, Literal

Format = Literal["onnx", "openvino", "torch"]

#: What each runtime needs from a package index beside numpy, pillow and opencv-python-headless.
PACKAGES: Final[dict[Format, str]] = {"onnx": "onnxruntime", "openvino": "openvino", "torch": "torch"}

_HEAD: Final = '''"""The class map of an image: python predict.py IMAGE OUT.png (model.json names the classes).

Needs numpy, pillow, opencv-python-headless and {package}.
"""
import json
import sys
from pathlib import Path

import cv2
import numpy as np
import {package}
from PIL import Image, ImageOps

FOLDER = Path(__file__).resolve().parent
MODEL = json.loads((FOLDER / "model.json").read_text(encoding="utf-8"))
SIZE, LONG, STRIDE = MODEL["input_size"], MODEL["long_side"], MODEL["stride"]
MEAN, STD = (np.array(MODEL[name], np.float32) for name in ("mean", "std"))
'''

_RUNTIMES: Final[dict[Format, str]] = {
    "onnx": """RUNTIME = onnxruntime.InferenceSession(str(FOLDER / MODEL["file"]))


def network(image):  # float32 (1, 3, h, w) to logits (C, h / s, w / s)
    return RUNTIME.run(None, {"images": image})[0][0]
""",
    "openvino": """OPTIONS = {"INFERENCE_PRECISION_HINT": "f32"}
RUNTIME = openvino.Core().compile_model(str(FOLDER / MODEL["file"]), "CPU", OPTIONS)


def network(image):  # float32 (1, 3, h, w) to logits (C, h / s, w / s)
    return RUNTIME(image)[0][0]
""",
    "torch": """RUNTIME = torch.export.load(FOLDER / MODEL["file"]).module()


def network(image):  # float32 (1, 3, h, w) to logits (C, h / s, w / s)
    with torch.inference_mode():
        return RUNTIME(torch.from_numpy(image)).numpy()[0]
""",
}

_WHOLE: Final = """

def logits_of(seen):  # the network sees the whole image
    return network(seen)
"""

#: `segloop.masks.remove_specks`.
_SPECKS: Final = """

def without_specks(found):  # connected pieces of a class with fewer pixels than this become background
    kept = found.copy()
    for number in np.unique(found[found > 0]):
        _, pieces, stats, _ = cv2.connectedComponentsWithStats((found == number).astype(np.uint8), connectivity=8)
        small = stats[:, 4] < MODEL["min_area_px"]
        small[0] = False
        kept[small[pieces]] = 0
    return kept
"""

#: `segloop.network.windows`, in few lines.
_WINDOWS: Final = """

def starts(length, side):
    if length <= side:
        return [0]
    step = max(1, int(side * 0.75 / STRIDE)) * STRIDE
    count = 1 + int(np.ceil((length - side) / step))
    return [round(place / STRIDE) * STRIDE for place in np.linspace(0, length - side, count)]


def ramp(cells):
    place = np.arange(cells) + 0.5
    return np.minimum(place, cells - place).astype(np.float32)


def logits_of(seen):  # the network sees overlapping windows, whose logits are blended
    side, (rows, columns), total = -(-SIZE // STRIDE) * STRIDE, seen.shape[2:], 0.0
    if max(rows, columns) <= side:
        return network(seen)
    for top in starts(rows, side):
        for left in starts(columns, side):
            window = np.ascontiguousarray(seen[:, :, top : top + side, left : left + side])
            logits = network(window)
            stride = window.shape[2] // logits.shape[1]
            if isinstance(total, float):
                total = np.zeros((len(logits), rows // stride, columns // stride), np.float32)
                weights = np.zeros(total.shape[1:], np.float32)
            across = np.outer(ramp(logits.shape[1]), ramp(logits.shape[2]))
            y, x = top // stride, left // stride
            total[:, y : y + logits.shape[1], x : x + logits.shape[2]] += logits * across
            weights[y : y + logits.shape[1], x : x + logits.shape[2]] += across
    return total / weights
"""

_BODY: Final = '''

def read(file):
    """An image upright, uint8 (h, w, 3), and the size that it has: a large JPEG is decoded smaller, as segloop does."""
    image = Image.open(file)
    width, height = image.size
    factor = next((f for f in (8, 4, 2) if image.format == "JPEG" and int(max(image.size) / f + 0.5) >= max(SIZE, LONG)), 1)
    if factor > 1 and (drafted := image.draft(None, (width // factor, height // factor))):
        image.load()
        image = image.crop((0, 0, max(1, int(drafted[1][2] + 0.5)), max(1, int(drafted[1][3] + 0.5))))
    turned = image.getexif().get(274, 1) > 4
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I;16"):  # of 16 bits, the upper 8
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    if image.has_transparency_data:  # on white
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return np.asarray(image.convert("RGB")), (width, height) if turned else (height, width)


def weights(pixels, cells):
    """Bilinear weights (pixels, cells), corners not aligned."""
    places = np.clip((np.arange(pixels) + 0.5) * (cells / pixels) - 0.5, 0, cells - 1)
    return np.maximum(1 - np.abs(places[:, None] - np.arange(cells)), 0).astype(np.float32)


def class_map(file):
    """uint8 (H, W): 0 background, i + 1 the class of this number in model.json."""
    pixels, (height, width) = read(file)
    scale = max(SIZE, min(LONG, max(pixels.shape[:2]))) / max(pixels.shape[:2])
    rows, columns = (max(1, round(side * scale / STRIDE)) * STRIDE for side in pixels.shape[:2])
    smaller = pixels.shape[0] >= rows and pixels.shape[1] >= columns
    seen = cv2.resize(pixels, (columns, rows), interpolation=cv2.INTER_AREA if smaller else cv2.INTER_LINEAR)
    logits = logits_of(np.ascontiguousarray(((seen.astype(np.float32) - MEAN) * (1 / STD)).transpose(2, 0, 1)[None]))
    down, right = weights(height, logits.shape[1]), weights(width, logits.shape[2]).T
    best, found = np.full((height, width), -np.inf, np.float32), np.zeros((height, width), np.uint8)
    for number, plane in enumerate(logits):
        plane = down @ (plane @ right)
        found[plane > best] = number
        best = np.maximum(best, plane)
    return {result}


if __name__ == "__main__":
    Image.fromarray(class_map(sys.argv[1])).save(sys.argv[2])
'''


def predict_script(kind: Format, *, windows: bool, specks: bool = False) -> str:
    """predict.py for a runtime; with `windows` for a network that sees windows of an image, with `specks` for a project
    whose predictions leave out small pieces (the setting `min_area_px`)."""
    parts = [_HEAD.format(package=PACKAGES[kind]), _RUNTIMES[kind], _WINDOWS if windows else _WHOLE]
    body = _BODY.replace("{result}", "without_specks(found)" if specks else "found")
    return "".join([*parts, _SPECKS if specks else "", body])
