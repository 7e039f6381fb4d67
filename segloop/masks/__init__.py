"""Masks and their codes: run-length codes, polygons, rectangles, ellipses, bitmasks, connected pieces. Arrays only."""

from __future__ import annotations

from segloop.masks.bitmask import bitmask_size, decode_bitmask, encode_bitmask, most_pixels, resize_nearest, same_aspect
from segloop.masks.components import class_pixels, components, label_pieces, piece_at, pieces_at, remove_specks
from segloop.masks.polygons import mask_polygons
from segloop.masks.refine import refine_boundary
from segloop.masks.rle import decode_rle, encode_class_rle, encode_rle, rle_pixels
from segloop.masks.shapes import Ellipse, Rectangle, ellipse_mask, polygon_mask, rectangle_mask

__all__ = [
    "Ellipse",
    "Rectangle",
    "bitmask_size",
    "class_pixels",
    "components",
    "decode_bitmask",
    "decode_rle",
    "ellipse_mask",
    "encode_bitmask",
    "encode_class_rle",
    "encode_rle",
    "label_pieces",
    "mask_polygons",
    "most_pixels",
    "piece_at",
    "pieces_at",
    "polygon_mask",
    "rectangle_mask",
    "refine_boundary",
    "remove_specks",
    "resize_nearest",
    "rle_pixels",
    "same_aspect",
]
