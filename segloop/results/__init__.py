"""Label Studio's result items: written from class maps, read from annotations, asked for by smart tools."""

from __future__ import annotations

from segloop.results.annotations import annotation_class_map
from segloop.results.regions import class_map_regions, mask_regions
from segloop.results.smart import Box, Click, Prompt, interactive_mask, interactive_regions, prompt

__all__ = [
    "Box",
    "Click",
    "Prompt",
    "annotation_class_map",
    "class_map_regions",
    "interactive_mask",
    "interactive_regions",
    "mask_regions",
    "prompt",
]
