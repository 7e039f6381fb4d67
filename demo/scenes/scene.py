"""The drawing of a scene and of its mask, from the back to the front."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import cv2
import numpy as np
from numpy.typing import NDArray

from demo.scenes.place import DEMO_PLACE, Place

#: Classes of the demo, and of the street scenes.
CLASSES = ("Sky", "Road", "Building", "Tree", "Pole")
STREET_CLASSES = (*CLASSES, "Car", "Sign", "Fence", "Wire", "Pavement", "Ground")
NO_LABEL = 255
#: Widths in pixels, at any size of the image.
POLE_PX, WIRE_PX, BAR_PX = 3, 2, 2

Image = NDArray[np.uint8]
Plane = NDArray[np.float32]
Box = tuple[slice, slice]


def draw_scene(
    rng: np.random.Generator, width: int, height: int, place: Place = DEMO_PLACE, classes: Sequence[str] = CLASSES
) -> tuple[Image, Image]:
    """An RGB image uint8 (height, width, 3) and the indices of its classes uint8 (height, width), NO_LABEL for none.

    `classes` are some of STREET_CLASSES: no other things are drawn, but for sky, ground and road. An empty name leaves
    its index unused.
    """
    scene = _Scene(rng, (width, height), place, classes)
    scene.draw()
    return scene.photograph(), scene.mask


class _Scene:
    """A picture as it is painted, from the back to the front, with its mask. Lengths are in pixels."""

    def __init__(self, rng: np.random.Generator, size: tuple[int, int], place: Place, classes: Sequence[str]) -> None:
        self.rng, self.place, self.classes = rng, place, classes
        self.width, self.height = size
        self.canvas = np.zeros((self.height, self.width, 3), np.float32)
        self.mask = np.full((self.height, self.width), NO_LABEL, np.uint8)
        self.horizon = int(self.height * (place.horizon + rng.uniform(-0.04, 0.04)))
        self.road = np.zeros(self.mask.shape, bool)
        self.tops: list[tuple[int, int]] = []  # of the poles, (x, y)

    def draw(self) -> None:
        """Paint everything."""
        self._sky()
        self._ground()
        self._road()
        # how many there are (the least, and one more than the most), and how near: from 0 at the horizon to 1
        kinds = {
            "Building": (self._building, (1, 5), (0.0, 0.15)),
            "Tree": (self._tree, (1, 5), (0.02, 0.35)),
            "Pole": (self._pole, (3, 6), (0.15, 0.5)),
            "Car": (self._cars, (1, 3), (0.15, 0.6)),
            "Sign": (self._sign, (1, 3), (0.05, 0.4)),
            "Fence": (self._fence, (1, 3), (0.08, 0.3)),
        }
        things = [
            (self.rng.uniform(*depth), column, kind)
            for kind, (_, number, depth) in kinds.items()
            if kind in self.classes
            for column in self._columns(self.rng.integers(*number))
        ]
        for near, column, kind in sorted(things):
            kinds[kind][0](near, column)
        if "Wire" in self.classes:
            self._wires()

    def photograph(self) -> Image:
        """Light, colour cast, shading from side to side, a little blur and noise."""
        rng = self.rng
        shading = 1 + rng.uniform(-0.15, 0.15) * np.linspace(-1, 1, self.width, dtype=np.float32)
        light = self.place.light * rng.uniform(0.9, 1.1) * shading[:, None] * self.place.cast
        image = np.asarray(cv2.GaussianBlur(self.canvas * light, (0, 0), rng.uniform(0.3, 0.7)))
        image += self.place.grain * rng.standard_normal(image.shape, np.float32) + rng.uniform(-5, 10)
        return np.clip(image, 0, 255).astype(np.uint8)

    def _colour(self, stuff: str) -> NDArray[np.float32]:
        """One of the place's colours, RGB float32 (3,), moved a little."""
        return self.rng.choice(self.place.palettes[stuff]) + self.rng.normal(0, 6, 3).astype(np.float32)

    def _columns(self, count: int) -> NDArray[np.float64]:
        """Places from side to side, apart from each other."""
        return (np.arange(count) + self.rng.uniform(0.2, 0.8, count)) * self.width / count

    def _foot(self, near: float) -> int:
        """The row in which a thing stands."""
        return self.horizon + int(near * (self.height - self.horizon))

    def _clouds(self, height: int, width: int, cell: float) -> Plane:
        """Smooth noise in [0, 1], float32 (height, width): four octaves, the coarsest `cell` wide."""
        total = np.zeros((height, width), np.float32)
        for octave in range(4):
            side = max(1.0, cell / 2**octave)
            coarse = self.rng.random((int(height / side) + 2, int(width / side) + 2), np.float32)
            total += cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC) / 2**octave
        return np.asarray(cv2.normalize(total, total, 0, 1, cv2.NORM_MINMAX), np.float32)

    def _box(self, left: float, top: float, right: float, bottom: float) -> Box:
        """What of a rectangle is in the picture, at least a pixel: rows and columns."""
        x, y = (int(np.clip(one, 0, most - 1)) for one, most in ((left, self.width), (top, self.height)))
        return slice(y, min(max(y + 1, int(bottom)), self.height)), slice(x, min(max(x + 1, int(right)), self.width))

    def _paint(self, box: Box, shape: NDArray[np.bool_], colour: Plane, name: str) -> None:
        """Colour, RGB float32 (3,) or one for each pixel of the box, and class where the shape, bool, is."""
        np.copyto(self.canvas[box], colour, where=shape[:, :, None])
        self.mask[box][shape] = self._value(name)

    def _polygon(self, points: Sequence[tuple[float, float]], colour: Plane, name: str) -> None:
        """Fill a polygon of points (x, y)."""
        corners = [np.array(points).round().astype(np.int32)]
        cv2.fillPoly(self.canvas, corners, colour.tolist())
        cv2.fillPoly(self.mask, corners, self._value(name))

    def _value(self, name: str) -> int:
        return self.classes.index(name) if name in self.classes else NO_LABEL

    def _sky(self) -> None:
        height, rng = self.horizon + 2, self.rng
        top, low = self._colour("high sky"), self._colour("low sky")
        ramp = np.linspace(0, 1, height, dtype=np.float32)[:, None, None] ** rng.uniform(0.6, 1.6)
        sky = top + (low - top) * ramp
        cover = np.clip(self._clouds(height, self.width, self.width / 3) - rng.uniform(0.4, 0.9), 0, 0.45)[:, :, None]
        self.canvas[:height] = sky + (self._colour("cloud") - sky) * cover * 2
        self.mask[:height] = self._value("Sky")

    def _ground(self) -> None:
        height = self.height - self.horizon
        grass = 0.75 + 0.5 * self._clouds(height, self.width, 24)[:, :, None]
        self.canvas[self.horizon :] = self._colour("ground") * grass
        self.mask[self.horizon :] = self._value("Ground")

    def _road(self) -> None:
        rng, height, width = self.rng, self.height - self.horizon, self.width
        box = slice(self.horizon, None), slice(None)
        vanishing = width * rng.uniform(0.35, 0.65)
        middle, half = width * rng.uniform(0.3, 0.7), width * rng.uniform(0.22, 0.45)
        far, bend = width * rng.uniform(0.005, 0.03), width * rng.uniform(-0.2, 0.2)
        near = np.linspace(0, 1, height, dtype=np.float32)
        centre = vanishing + (middle - vanishing) * near + bend * near * (1 - near)
        across = (np.arange(width, dtype=np.float32) - centre[:, None]) / (far + (half - far) * near)[
            :, None
        ]  # -1 to 1 on the road
        side = np.abs(across)
        grain = 0.9 + 0.2 * self._clouds(height, width, 60) + 0.05 * rng.standard_normal((height, width), np.float32)
        if "Pavement" in self.classes:
            along = (8 / (near + 0.15))[:, None]  # the same length is fewer rows towards the horizon
            joints = (side * 10 % 1 < 0.12) | (along % 1 < 0.015 * along)
            slabs = self._colour("paved") * np.where(joints, 0.65 * grain, 1.05 * grain)[:, :, None]
            self._paint(box, side <= 1.4, slabs, "Pavement")
        road = self._colour("paved") * grain[:, :, None]
        dashes = np.sin(rng.uniform(20, 40) * near**0.5 + rng.uniform(0, 6))[:, None] > 0
        lines = ((side < 0.035) & dashes) | (np.abs(side - 0.9) < 0.03)
        road[lines] = self._colour("line")
        self.road[box] = side <= 1
        self._paint(box, self.road[box], road, "Road")

    def _building(self, near: float, column: float) -> None:
        rng, foot = self.rng, self._foot(near)
        wide, tall = self.width * rng.uniform(0.15, 0.4), self.height * rng.uniform(0.15, 0.45)
        left, top = int(column - wide / 2), int(foot - tall)
        box = self._box(left, top, left + wide, foot)
        rows, columns = np.mgrid[box]
        step_y, step_x = rng.uniform(0.05, 0.09) * self.height, rng.uniform(0.03, 0.07) * self.width
        fill_y, fill_x = rng.uniform(0.35, 0.65, 2)
        windows = ((rows - top) / step_y % 1 < fill_y) & ((columns - left) / step_x % 1 < fill_x)
        face = np.where(windows[:, :, None], self._colour("pane"), self._colour("wall"))
        face *= np.where(columns > left + wide * rng.uniform(0.6, 1.0), 0.72, 1)[:, :, None].astype(np.float32)
        self._paint(box, np.ones(rows.shape, bool), face, "Building")
        roof = self._colour("roof")
        if rng.random() < 0.5:
            peak = wide * rng.uniform(0.15, 0.3)
            self._polygon([(left, top), (left + wide - 1, top), (left + wide / 2, top - peak)], roof, "Building")
        chimney, high = left + wide * rng.uniform(0.1, 0.4), self.height * rng.uniform(0.04, 0.09)
        self._polygon(_rectangle(chimney, top - high, chimney + 0.02 * self.width, top), roof * 0.8, "Building")

    def _tree(self, near: float, column: float) -> None:
        rng, foot = self.rng, self._foot(near)
        radius = self.height * rng.uniform(0.06, 0.09) * (1 + 2.5 * near)
        middle = foot - radius * rng.uniform(1.6, 2.4)
        box = self._box(column - 1.8 * radius, middle - 1.5 * radius, column + 1.8 * radius, foot)
        rows, columns = np.mgrid[box].astype(np.float32)
        stem = (np.abs(columns - column) <= max(1.0, 0.08 * radius)) & (rows > middle)
        self._paint(box, stem, self._colour("bark"), "Tree")
        distance = np.hypot((columns - column) * rng.uniform(0.85, 1.3), rows - middle) / radius
        crown = distance + 0.9 * (self._clouds(*rows.shape, radius) - 0.5) < 1
        speckle = 0.6 + 0.5 * self._clouds(*rows.shape, 5) + 0.15 * (middle - rows) / radius
        self._paint(box, crown, self._colour("leaf") * speckle[:, :, None], "Tree")

    def _pole(self, near: float, column: float) -> None:
        top = int(self.horizon - self.height * self.rng.uniform(0.08, 0.2) * (1 + 2 * near))
        self.tops.append((self._mast(column, max(1, top), self._foot(near), "Pole"), max(1, top)))

    def _mast(self, column: float, top: int, foot: int, name: str) -> int:
        """Something upright that stands out from what is behind it, POLE_PX wide; the column of its top."""
        rows = np.arange(top, foot)
        middle = np.round(column + self.rng.uniform(-0.03, 0.03) * (rows - foot)).astype(int)
        bright = self.canvas[rows, np.clip(middle, 0, self.width - 1)].mean() > 120
        colour = np.float32((50, 50, 55) if bright else (225, 225, 215))
        for offset, shade in zip(range(-(POLE_PX // 2), POLE_PX // 2 + 1), (1.0, 0.9, 0.75), strict=True):
            inside = (middle + offset >= 0) & (middle + offset < self.width)
            self.canvas[rows[inside], (middle + offset)[inside]] = colour * np.float32(shade)
            self.mask[rows[inside], (middle + offset)[inside]] = self._value(name)
        return int(middle[0])

    def _sign(self, near: float, column: float) -> None:
        """A disc or a triangle on a pole; where poles have no class, the pole is part of it."""
        radius = self.height * self.rng.uniform(0.025, 0.04) * (1 + near)
        foot = self._foot(near)
        middle = foot - radius * self.rng.uniform(4, 6)
        top = self._mast(column, int(middle), foot, "Pole" if "Pole" in self.classes else "Sign")
        angles = np.linspace(0, 2 * np.pi, self.rng.choice((3, 24)), endpoint=False) - np.pi / 2
        round_it = np.stack([np.cos(angles), np.sin(angles)], 1)
        for share, colour in ((1.0, self._colour("sign")), (0.55, np.float32((235, 235, 230)))):
            self._polygon((top, middle) + radius * share * round_it, colour, "Sign")

    def _fence(self, near: float, column: float) -> None:
        """Bars and rails, between which one sees what is behind; it leaves the road free."""
        foot, tall = self._foot(near), int(self.height * (0.05 + 0.2 * near))
        half, pitch = self.width * self.rng.uniform(0.12, 0.25), self.rng.integers(8, 14)
        box = self._box(column - half, foot - tall, column + half, foot)
        rows, columns = np.mgrid[box]
        rails = np.isin(foot - rows, [*range(4, 4 + BAR_PX), *range(tall - 4 - BAR_PX, tall - 4)])
        bright = self.canvas[box].mean() > 120
        colour = np.float32((45, 60, 50) if bright else (215, 220, 210))
        bars = (columns - box[1].start) % pitch < BAR_PX
        self._paint(box, (rails | bars) & ~self.road[box][-1], colour, "Fence")

    def _cars(self, near: float, column: float) -> None:
        """Some cars side by side that touch or hide a part of each other."""
        foot, long = self._foot(near), self.height * (0.1 + 0.35 * near)
        left = column - long
        for _ in range(self.rng.integers(1, 4)):
            self._car(left, foot, long)
            left += long * self.rng.uniform(0.8, 1.0)

    def _car(self, left: float, foot: int, long: float) -> None:
        """A car seen from its side; windows and wheels are parts of it."""
        paint, dark = self._colour("car"), np.float32((35, 40, 48))
        y = foot - 0.08 * long

        def outline(*points: tuple[float, float]) -> list[tuple[float, float]]:
            return [(left + x * long, y - up * long) for x, up in points]

        self._polygon(outline((0.2, 0.2), (0.3, 0.4), (0.72, 0.4), (0.85, 0.2)), paint * 0.9, "Car")
        self._polygon(outline((0.26, 0.22), (0.33, 0.37), (0.7, 0.37), (0.79, 0.22)), dark, "Car")
        self._polygon(outline((0, 0), (0, 0.17), (0.04, 0.22), (0.95, 0.22), (1, 0.15), (1, 0)), paint, "Car")
        for x in (0.22, 0.78):
            wheel = cv2.ellipse2Poly((int(left + x * long), int(y)), (max(1, int(0.09 * long)),) * 2, 0, 0, 360, 20)
            self._polygon(wheel, dark * 0.6, "Car")

    def _wires(self) -> None:
        """Two wires from pole to pole, and from the outer poles out of the picture."""
        tops = sorted(self.tops)
        ends = [(-20, tops[0][1]), *tops, (self.width + 20, tops[-1][1])]
        for (left, high), (right, low) in pairwise(ends):
            t = np.linspace(0, 1, 16)
            for drop in (0.01, 0.04):
                y = high + (low - high) * t + self.height * (drop + 0.12 * t * (1 - t))
                for row in range(WIRE_PX):
                    line = np.stack([left + (right - left) * t, y + row], 1).round().astype(np.int32)
                    cv2.polylines(self.canvas, [line], False, (40, 40, 45))
                    cv2.polylines(self.mask, [line], False, self._value("Wire"))


def _rectangle(left: float, top: float, right: float, bottom: float) -> list[tuple[float, float]]:
    return [(left, top), (right, top), (right, bottom), (left, bottom)]
