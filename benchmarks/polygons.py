"""Class maps to polygons, against scikit-image: `python -m benchmarks.polygons`.

Eight classes of smooth blobs at 1024 x 1024 pixels, one polygon set for each class, without simplification and with a
tolerance of 1 pixel. Both sides get the boolean masks of the classes, and time runs from there. What the polygons hold
is judged by pycocotools, which takes a pixel by its centre. scikit-image's polygons pass through the middle of pixel
edges and leave holes as polygons of their own; segloop's join them to their piece, which takes part of its time.
"""

from __future__ import annotations

import sys
import warnings

import cv2
import numpy as np
from numpy.typing import NDArray
from skimage.measure import approximate_polygon, find_contours

from benchmarks.harness import compare, report
from segloop.masks import mask_polygons

CLASSES, SIZE_PX = 8, 1024
LEAST_IOU = {0.0: 0.999, 1.0: 0.98}
FASTER = 10.0


def main() -> int:
    """Measure, and print one JSON line for each figure; 1 if a target is missed."""
    masks = class_masks()
    met = []
    for tolerance_px, least_iou in LEAST_IOU.items():
        name = f"tolerance {tolerance_px:g} px"
        ours = [mask_polygons(mask, tolerance_px) for mask in masks]
        theirs = skimage_polygons(masks, tolerance_px)
        met.append(
            compare(
                "polygons",
                f"speed, {name}",
                lambda tolerance_px=tolerance_px: [mask_polygons(mask, tolerance_px) for mask in masks],
                lambda tolerance_px=tolerance_px: skimage_polygons(masks, tolerance_px),
                against="skimage find_contours and approximate_polygon",
                target=FASTER,
                seconds=5.0,
                points=sum(len(points) for polygons in ours for points in polygons),
                their_points=sum(len(points) for polygons in theirs for points in polygons),
            )
        )
        met.append(
            report(
                "polygons",
                f"IoU, {name}",
                min(iou(polygons, mask) for polygons, mask in zip(ours, masks, strict=True)),
                unit="agreement",
                target=least_iou,
                of="the worst class, with its mask",
            )
        )
    return 0 if all(met) else 1


def class_masks() -> list[NDArray[np.bool_]]:
    """The masks, bool (SIZE_PX, SIZE_PX), of classes that share the image out among them."""
    rng = np.random.default_rng(0)
    fields = [
        cv2.GaussianBlur(rng.standard_normal((SIZE_PX, SIZE_PX)).astype(np.float32), (0, 0), SIZE_PX / 32)
        for _ in range(CLASSES)
    ]
    class_map = np.argmax(fields, axis=0)
    return [class_map == value for value in range(CLASSES)]


def skimage_polygons(masks: list[NDArray[np.bool_]], tolerance_px: float) -> list[list[NDArray[np.float64]]]:
    """What scikit-image makes of the same masks."""
    return [
        [approximate_polygon(points, tolerance_px) for points in find_contours(mask.astype(np.float64), 0.5)]
        for mask in masks
    ]


def iou(polygons: list[NDArray[np.float64]], mask: NDArray[np.bool_]) -> float:
    """Intersection over union of a mask and the pixels whose centres polygons hold, as pycocotools sees it."""
    from pycocotools import mask as coco

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of NumPy, about pycocotools' arrays
        pieces = coco.frPyObjects([points.ravel().tolist() for points in polygons], *mask.shape)
        held = coco.decode(coco.merge(pieces)).astype(bool)
    return float((held & mask).sum() / (held | mask).sum())


if __name__ == "__main__":
    sys.exit(main())
