"""Label Studio's result items: written from class maps, read from annotations, asked for by smart tools."""

from __future__ import annotations

from segloop.results.annotations import (
    Canvas,
    Drawing,
    Problem,
    annotation_class_map,
    draw_annotation,
    misnamed_regions,
    nothing_readable,
    region_labels,
)
from segloop.results.regions import Region, RegionWriter, Scene
from segloop.results.smart import Click, Prompt, Tools, boxed_mask, interactive_regions, prompt, prompted_mask
from segloop.results.views import Sight

__all__ = [
    "Canvas",
    "Click",
    "Drawing",
    "Problem",
    "Prompt",
    "Region",
    "RegionWriter",
    "Scene",
    "Sight",
    "Tools",
    "annotation_class_map",
    "boxed_mask",
    "draw_annotation",
    "interactive_regions",
    "misnamed_regions",
    "nothing_readable",
    "prompt",
    "prompted_mask",
    "region_labels",
]
