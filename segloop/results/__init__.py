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
from segloop.results.smart import Click, Edges, Prompt, interactive_mask, interactive_regions, prompt

__all__ = [
    "Canvas",
    "Click",
    "Drawing",
    "Edges",
    "Problem",
    "Prompt",
    "Region",
    "RegionWriter",
    "Scene",
    "annotation_class_map",
    "draw_annotation",
    "interactive_mask",
    "interactive_regions",
    "misnamed_regions",
    "nothing_readable",
    "prompt",
    "region_labels",
]
