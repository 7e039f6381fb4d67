"""Images of tasks: fetched from wherever Label Studio points to, within limits, and decoded as a browser shows them."""

from segloop.images.decode import Header, decode, read_header
from segloop.images.image import Blob, Image, Images
from segloop.images.source import HeaderSource, ImageSource

__all__ = ["Blob", "Header", "HeaderSource", "Image", "ImageSource", "Images", "decode", "read_header"]
