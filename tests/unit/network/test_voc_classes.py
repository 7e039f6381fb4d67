"""Labels against the classes that the published weights know."""

from __future__ import annotations

import pytest

from segloop.network.voc_classes import VOC_CLASSES, voc_class, zero_shot_channels


def test_the_channels_are_torchvisions():
    from torchvision.models.segmentation import DeepLabV3_ResNet50_Weights

    assert ["__background__", *VOC_CLASSES] == DeepLabV3_ResNet50_Weights.COCO_WITH_VOC_LABELS_V1.meta["categories"]


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("Car", "car"),
        ("TV", "tvmonitor"),
        ("Motor-Cycle", "motorbike"),
        ("dining_table", "diningtable"),
        ("Cars", "car"),
        ("buses", "bus"),
        *((name, None) for name in ("Road", "", "background", "__background__")),
    ],
)
def test_names(name, meant):
    assert voc_class(name) == meant


def test_predicted_values_go_before_the_name():
    labels = {"Car": (), "Möbel": ("sofa", "Dining Table"), "Train": ("bus",), "Road": ("street",)}
    assert zero_shot_channels(labels) == {"Car": (7,), "Möbel": (11, 18), "Train": (6,)}


def test_a_channel_goes_to_the_first_label_that_names_it():
    assert zero_shot_channels({"car": (), "vehicle": ("car", "bus")}) == {"car": (7,), "vehicle": (6,)}
