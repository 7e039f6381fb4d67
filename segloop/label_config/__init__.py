"""Label configs: which images a project shows, which control tags segment them, and which classes they have."""

from segloop.label_config.config import OUTPUT_TAGS, SHAPE_TAGS, Control, ImageTag, Label, LabelConfig, Preference
from segloop.label_config.parse import MAX_CLASSES, parse_label_config
from segloop.label_config.smart import has_smart_clicks, smart_tag_problem, with_smart_tags
from segloop.label_config.variables import Repeat

__all__ = [
    "MAX_CLASSES",
    "OUTPUT_TAGS",
    "SHAPE_TAGS",
    "Control",
    "ImageTag",
    "Label",
    "LabelConfig",
    "Preference",
    "Repeat",
    "has_smart_clicks",
    "parse_label_config",
    "smart_tag_problem",
    "with_smart_tags",
]
