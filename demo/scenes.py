"""Drawn street scenes with their masks: something to learn where no photographs may be downloaded.

Four classes, Sky, Road, Building and Tree, over ground that has no label. Colour alone does not tell them apart
(grey sky, grey road and grey walls; green trees, green grass and green walls): texture, shape and place do.
"""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

CLASSES = ("Sky", "Road", "Building", "Tree")
NO_LABEL = 255

_SKY, _ROAD, _BUILDING, _TREE = range(len(CLASSES))

Image = NDArray[np.uint8]
Plane = NDArray[np.float32]


def write_scenes(
    dest: Path, *, train: int = 32, val: int = 12, size: tuple[int, int] = (320, 240), seed: int = 0
) -> None:
    """Write `train`/ and `val`/ with images/*.jpg and masks/*.png (class index, NO_LABEL for none), and classes.json.

    `size` is (width, height) in pixels. The same seed draws the same scenes.
    """
    dest.mkdir(parents=True, exist_ok=True)
    (dest / "classes.json").write_text(json.dumps(CLASSES), "utf-8")
    for part, (name, count) in enumerate({"train": train, "val": val}.items()):
        for folder in ("images", "masks"):
            (dest / name / folder).mkdir(parents=True, exist_ok=True)
        for index in range(count):
            image, mask = draw_scene(np.random.default_rng((seed, part, index)), *size)
            stem = f"scene_{index:04d}"
            cv2.imwrite(str(dest / name / "images" / f"{stem}.jpg"), image[:, :, ::-1], [cv2.IMWRITE_JPEG_QUALITY, 92])
            cv2.imwrite(str(dest / name / "masks" / f"{stem}.png"), mask)


def draw_scene(rng: np.random.Generator, width: int, height: int) -> tuple[Image, Image]:
    """An RGB image uint8 (height, width, 3) and its class indices uint8 (height, width)."""
    canvas = np.zeros((height, width, 3), np.float32)
    mask = np.full((height, width), NO_LABEL, np.uint8)
    horizon = int(height * rng.uniform(0.38, 0.62))
    _paint_sky(rng, canvas, mask, horizon)
    _paint_ground(rng, canvas, horizon)
    _paint_road(rng, canvas, mask, horizon)
    _paint_buildings(rng, canvas, mask, horizon)
    _paint_trees(rng, canvas, mask, horizon)
    return _photograph(rng, canvas), mask


def _clouds(rng: np.random.Generator, height: int, width: int, cell_px: float) -> Plane:
    """Smooth noise in [0, 1], float32 (height, width): four octaves, the coarsest `cell_px` wide."""
    total = np.zeros((height, width), np.float32)
    for octave in range(4):
        cell = max(1.0, cell_px / 2**octave)
        coarse = rng.random((int(height / cell) + 2, int(width / cell) + 2), dtype=np.float32)
        total += cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC) / 2**octave
    return np.asarray(cv2.normalize(total, total, 0, 1, cv2.NORM_MINMAX), dtype=np.float32)


def _colour(rng: np.random.Generator, *palette: tuple[int, int, int], spread: float = 14) -> NDArray[np.float32]:
    """One colour of a palette, float32 (3,), moved a little."""
    base = np.array(palette[rng.integers(len(palette))])
    return np.asarray(base + rng.normal(0, spread, 3), dtype=np.float32)


def _paint_sky(rng: np.random.Generator, canvas: Plane, mask: Image, horizon: int) -> None:
    height, width = horizon + 2, canvas.shape[1]
    top = _colour(rng, (90, 140, 215), (150, 155, 160), (110, 120, 140), (225, 150, 110))
    low = _colour(rng, (200, 215, 230), (170, 170, 172), (240, 200, 160), (130, 150, 130))
    ramp = np.linspace(0, 1, height, dtype=np.float32)[:, None, None] ** rng.uniform(0.6, 1.6)
    sky = top + (low - top) * ramp
    cover = np.clip(_clouds(rng, height, width, width / 3) - rng.uniform(0.4, 0.9), 0, 1)[:, :, None] * 2
    canvas[:height] = sky + (_colour(rng, (240, 240, 240), (110, 112, 118)) - sky) * np.clip(cover, 0, 0.9)
    mask[:height] = _SKY


def _paint_ground(rng: np.random.Generator, canvas: Plane, horizon: int) -> None:
    height, width = canvas.shape[0] - horizon, canvas.shape[1]
    base = _colour(rng, (95, 130, 60), (150, 130, 95), (120, 118, 112), (75, 100, 60))
    canvas[horizon:] = base * (0.75 + 0.5 * _clouds(rng, height, width, 24)[:, :, None])


def _paint_road(rng: np.random.Generator, canvas: Plane, mask: Image, horizon: int) -> None:
    height, width = mask.shape
    vanishing = width * rng.uniform(0.3, 0.7)
    middle, half = width * rng.uniform(0.25, 0.75), width * rng.uniform(0.22, 0.5)
    far, bend = width * rng.uniform(0.005, 0.03), width * rng.uniform(-0.25, 0.25)
    near = np.linspace(0, 1, height - horizon)  # 0 at the horizon, 1 at the lower edge
    centre = vanishing + (middle - vanishing) * near + bend * near * (1 - near)
    extent = far + (half - far) * near
    across = (np.arange(width)[None, :] - centre[:, None]) / extent[:, None]  # -1 to 1 on the road
    road = np.abs(across) <= 1
    base = _colour(rng, (95, 95, 100), (130, 126, 120), (70, 72, 78), (150, 150, 152))
    surface = base * (0.9 + 0.2 * _clouds(rng, height - horizon, width, 60)[:, :, None])
    surface += rng.normal(0, 6, (height - horizon, width, 1))
    dashes = np.sin(rng.uniform(20, 40) * near**0.5 + rng.uniform(0, 6))[:, None] > 0
    lines = (np.abs(across) < 0.035) & dashes if rng.random() < 0.7 else np.zeros_like(road)
    if rng.random() < 0.6:
        lines |= np.abs(np.abs(across) - 0.9) < 0.03
    surface[lines] = _colour(rng, (230, 230, 225), (220, 190, 90))
    canvas[horizon:][road] = surface[road]
    mask[horizon:][road] = _ROAD


def _paint_buildings(rng: np.random.Generator, canvas: Plane, mask: Image, horizon: int) -> None:
    height, width = mask.shape
    for _ in range(rng.integers(1, 5)):
        wide, tall = int(width * rng.uniform(0.12, 0.4)), int(height * rng.uniform(0.15, 0.5))
        left = int(rng.uniform(-0.5 * wide, width - 0.5 * wide))
        foot = horizon + int(height * rng.uniform(0.0, 0.1))
        box = (slice(max(0, foot - tall), foot), slice(max(0, left), min(width, left + wide)))
        rows, columns = np.mgrid[box]
        wall = _colour(rng, (150, 85, 70), (165, 165, 165), (200, 185, 150), (95, 110, 135), (110, 130, 95))
        pane = _colour(rng, (50, 55, 65), (150, 180, 210), (230, 210, 140))
        step_y, step_x = rng.uniform(0.05, 0.09) * height, rng.uniform(0.03, 0.07) * width
        fill_y, fill_x = rng.uniform(0.35, 0.65, 2)
        windows = ((rows - (foot - tall)) / step_y % 1 < fill_y) & ((columns - left) / step_x % 1 < fill_x)
        face = np.where(windows[:, :, None], pane, wall * (0.92 + 0.16 * rng.random()))
        face = face * np.where(columns > left + wide * rng.uniform(0.5, 1.0), 0.72, 1.0)[:, :, None]  # its dark side
        canvas[box] = face
        mask[box] = _BUILDING
        if rng.random() < 0.4 and foot - tall > 0:  # a pitched roof
            roof = np.array(
                [[left, foot - tall], [left + wide, foot - tall], [left + wide // 2, foot - tall - wide // 4]]
            )
            tiles = np.zeros_like(mask)
            cv2.fillPoly(tiles, [roof.astype(np.int32)], 1)
            canvas[tiles > 0] = _colour(rng, (130, 60, 50), (80, 80, 85))
            mask[tiles > 0] = _BUILDING


def _paint_trees(rng: np.random.Generator, canvas: Plane, mask: Image, horizon: int) -> None:
    height, width = mask.shape
    rows, columns = np.mgrid[:height, :width].astype(np.float32)
    for _ in range(rng.integers(1, 6)):
        near = rng.uniform(0.02, 0.35)
        foot, middle = horizon + near * (height - horizon), rng.uniform(0, width)
        radius = height * rng.uniform(0.06, 0.1) * (1 + 2.5 * near)
        crown_y = foot - radius * rng.uniform(1.3, 1.9)
        stem = (np.abs(columns - middle) < radius * 0.13) & (rows > crown_y) & (rows < foot)
        ragged = _clouds(rng, height, width, radius)
        distance = np.hypot((columns - middle) * rng.uniform(0.85, 1.3), rows - crown_y) / radius
        crown = distance + 0.9 * (ragged - 0.5) < 1
        leaf = _colour(rng, (60, 100, 45), (95, 125, 60), (165, 110, 50), (120, 125, 110))
        speckle = 0.6 + 0.5 * _clouds(rng, height, width, 5) + 0.3 * (crown_y - rows) / radius * 0.5
        canvas[stem] = _colour(rng, (80, 60, 45), (100, 95, 90))
        canvas[crown] = (leaf * speckle[:, :, None])[crown]
        mask[stem | crown] = _TREE


def _photograph(rng: np.random.Generator, canvas: Plane) -> Image:
    """Light, colour cast, shading from side to side, a little blur and noise."""
    height, width = canvas.shape[:2]
    light = rng.uniform(0.6, 1.15) * (1 + rng.uniform(-0.2, 0.2) * np.linspace(-1, 1, width, dtype=np.float32))
    image = canvas * light[None, :, None] * rng.uniform(0.9, 1.1, 3) + rng.uniform(-10, 15)
    image = cv2.GaussianBlur(image, (0, 0), rng.uniform(0.3, 0.9))
    image = image + rng.normal(0, rng.uniform(2, 8), (height, width, 3))
    return np.clip(image, 0, 255).astype(np.uint8)
