"""Suspected labels for tests: what a training might have found, with photos."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from segloop.suspects import Judged, Suspect, SuspectImage, Suspects, write_suspects

WIDTH, HEIGHT = 80, 60


def an_image(task: int, **changes: object) -> SuspectImage:
    known = {
        "task": task,
        "image_tag": "image",
        "annotations": (100 + task,),
        "mask": f"{task:064x}",
        "width": WIDTH,
        "height": HEIGHT,
        "full_width": 2 * WIDTH,
        "full_height": 2 * HEIGHT,
        "held_out": True,
        "quality": 0.4,
    }
    return SuspectImage.model_validate({**known, **changes})


def a_suspect(image: int, left: int = 10, top: int = 10, side: int = 20, **changes: object) -> Suspect:
    """A square piece; left, top and side in pixels of the photo."""
    ring = (left, top, left + side, top, left + side, top + side, left, top + side)
    known = {
        "image": image,
        "labelled": "Road",
        "seen": "Sky",
        "area": side * side / (WIDTH * HEIGHT),
        "margin": 0.8,
        "score": 0.5,
        "box": (left / WIDTH, top / HEIGHT, side / WIDTH, side / HEIGHT),
        "piece": (ring,),
        "label": (ring,),
        "network": (),
    }
    return Suspect.model_validate({**known, **changes})


def some_suspects(tasks: int = 2) -> Suspects:
    """One suspect of each task, from task 1 on, and a second one of the first."""
    images = tuple(an_image(task) for task in range(1, tasks + 1))
    first = [a_suspect(place, score=0.9 - place / 100) for place in range(tasks)]
    return Suspects(
        judged=Judged(held_out=tasks, held_out_of=tasks, training=0, training_of=8),
        images=images,
        suspects=(*first, a_suspect(0, left=50, labelled="Sky", seen="Road", score=0.1)),
    )


def put_into(bundle: Path, suspects: Suspects) -> None:
    """Write suspects into a bundle folder, with a photo of each image."""
    photos = (np.full((one.height, one.width, 3), one.task % 256, np.uint8) for one in suspects.images)
    write_suspects(bundle, suspects, photos)
