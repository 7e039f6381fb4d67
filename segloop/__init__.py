"""segloop: a Label Studio ML backend for semantic segmentation that learns while people label."""

__version__ = "0.1.0"
