"""Places: what the scenes of one drive have in common."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_PALETTES: dict[str, tuple[tuple[int, int, int], ...]] = {
    "high sky": ((90, 140, 215), (150, 155, 160), (110, 120, 140), (225, 150, 110)),
    "low sky": ((200, 215, 230), (170, 170, 172), (240, 200, 160), (180, 190, 185)),
    "cloud": ((240, 240, 240), (110, 112, 118)),
    "ground": ((95, 130, 60), (150, 130, 95), (120, 118, 112), (75, 100, 60)),
    "paved": ((95, 95, 100), (130, 126, 120), (70, 72, 78), (150, 150, 152)),
    "line": ((230, 230, 225), (220, 190, 90)),
    "wall": ((150, 85, 70), (165, 165, 165), (200, 185, 150), (95, 110, 135), (110, 130, 95)),
    "pane": ((50, 55, 65), (150, 180, 210), (230, 210, 140)),
    "roof": ((130, 60, 50), (80, 80, 85)),
    "bark": ((80, 60, 45), (70, 65, 60)),
    "leaf": ((60, 100, 45), (95, 125, 60), (165, 110, 50), (120, 125, 110)),
    "car": ((180, 40, 35), (40, 60, 120), (225, 225, 225), (45, 45, 48), (150, 152, 158), (200, 170, 60)),
    "sign": ((200, 40, 40), (40, 60, 190), (220, 200, 50)),
}


@dataclass(frozen=True)
class Place:
    """What the scenes of one place share, as the photographs of one drive do.

    `palettes` holds the colours of each stuff, RGB float32 (2, 3); `horizon` is a share of the height, from above;
    `light` a factor, `cast` one for each channel; `grain` the noise in grey levels.
    """

    palettes: dict[str, NDArray[np.float32]]
    horizon: float
    light: float
    cast: NDArray[np.float32]
    grain: float

    @classmethod
    def of(cls, seed: int) -> Place:
        """The place of a seed: two colours of each palette, a camera height, a light."""
        rng = np.random.default_rng(seed)
        palettes = {
            name: np.float32(rng.choice(colours, 2, replace=False) + rng.normal(0, 10, (2, 3)))
            for name, colours in _PALETTES.items()
        }
        cast = rng.uniform(0.9, 1.1, 3).astype(np.float32)
        return cls(palettes, rng.uniform(0.4, 0.6), rng.uniform(0.7, 1.1), cast, rng.uniform(2, 7))


#: Where the demo's scenes are.
DEMO_PLACE = Place.of(5)
