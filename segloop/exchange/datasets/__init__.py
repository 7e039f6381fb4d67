"""Data sets on this machine's disk, in the layouts that people have: each image with its class map."""

from segloop.exchange.datasets.base import Dataset, Example
from segloop.exchange.datasets.cityscapes import read_cityscapes
from segloop.exchange.datasets.coco import read_coco
from segloop.exchange.datasets.masks import read_masks
from segloop.exchange.datasets.voc import read_voc

__all__ = ["Dataset", "Example", "read_cityscapes", "read_coco", "read_masks", "read_voc"]
