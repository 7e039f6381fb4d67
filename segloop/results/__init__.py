"""Label Studio's result items: written from class maps, read from annotations, asked for by smart tools."""

from __future__ import annotations

from segloop.results.annotations import annotation_class_map
from segloop.results.regions import Region, RegionWriter, Scene
from segloop.results.smart import Click, Edges, Prompt, interactive_mask, interactive_regions, prompt

__all__ = [
    "Click",
    "Edges",
    "Prompt",
    "Region",
    "RegionWriter",
    "Scene",
    "annotation_class_map",
    "interactive_mask",
    "interactive_regions",
    "prompt",
]
