"""Images of tasks: fetched from wherever Label Studio points to, within limits, and decoded as a browser shows them."""

from segloop.images.decode import decode, size
from segloop.images.source import Blob, HeaderSource, Image, ImageSource

__all__ = ["Blob", "HeaderSource", "Image", "ImageSource", "decode", "size"]
