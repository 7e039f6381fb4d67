"""Drawn street scenes with their masks: something to learn where no photographs may be downloaded.

The demo's scenes have five classes over ground that has no label. Street scenes have eleven, and every pixel has one:
for tests, and for people without CamVid (`python -m demo.scenes FOLDER` writes them). Colour alone does not tell the
classes apart (grey sky, road, pavement and walls; green trees, ground and walls): texture, shape and place do. Poles,
wires and the bars of fences are a few pixels thin at any size; cars touch each other and hide other things.
"""

from demo.scenes.files import draw_street, write_scenes, write_streets
from demo.scenes.place import Place
from demo.scenes.scene import CLASSES, NO_LABEL, POLE_PX, STREET_CLASSES, draw_scene

__all__ = [
    "CLASSES",
    "NO_LABEL",
    "POLE_PX",
    "STREET_CLASSES",
    "Place",
    "draw_scene",
    "draw_street",
    "write_scenes",
    "write_streets",
]
