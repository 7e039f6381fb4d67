"""What `benchmarks.camvid` holds out, and what it says of measurements that are made up."""

from __future__ import annotations

import json

import cv2
import numpy as np
import pytest

from benchmarks import camvid
from benchmarks.held_out import Effort, Measured, differences, scores
from benchmarks.runs import without_groups
from demo.data import Example

CLASSES = ("Road", "Pole", "Car")


@pytest.fixture
def drives(tmp_path):
    """CamVid in small: files of three drives, of one of them in val too."""
    (tmp_path / "classes.json").write_text(json.dumps(CLASSES), "utf-8")
    names = {
        "train": ["0001TP_1", "0001TP_2", "0006R0_1", "0016E5_1", "0016E5_2", "0016E5_3"],
        "val": ["0016E5_7", "0016E5_8"],
    }
    for part, stems in names.items():
        for kind in ("images", "masks"):
            (tmp_path / part / kind).mkdir(parents=True)
        for stem in stems:
            for kind in ("images", "masks"):
                cv2.imwrite(str(tmp_path / part / kind / f"{stem}.png"), np.zeros((4, 4), np.uint8))
    return tmp_path


def split(folder, *options):
    given = camvid.parse(["--data", str(folder), *options])
    return {
        name: tuple([one.image.stem for one in part] for part in (data.train, data.val))
        for name, data in (
            (name, camvid.split_of(given, groups)) for name, groups in camvid.held_out_groups(given).items()
        )
    }


def test_whole_drives_are_held_out(drives):
    assert split(drives) == {
        "dusk": (["0006R0_1", "0016E5_1", "0016E5_2", "0016E5_3"], ["0001TP_1", "0001TP_2"]),
        "day": (["0001TP_1", "0001TP_2", "0006R0_1"], ["0016E5_1", "0016E5_2", "0016E5_3"]),
    }


def test_the_clip_of_val_is_with_its_own_drive(drives):
    both = split(drives, "--with-val", "--every", "2")
    assert both["dusk"][0][-2:] == ["0016E5_7", "0016E5_8"]
    assert both["day"][1] == ["0016E5_1", "0016E5_3", "0016E5_8"]


def test_any_groups_can_be_held_out(drives):
    assert split(drives, "--hold-out", "0006R0", "0016E5") == {
        "0006R0+0016E5": (
            ["0001TP_1", "0001TP_2"],
            ["0006R0_1", "0016E5_1", "0016E5_2", "0016E5_3", "0016E5_7", "0016E5_8"],
        )
    }


@pytest.mark.parametrize("groups", [["place1"], ["place10", "place2"], ["place"]])
def test_a_group_that_is_not_there_or_all_of_them_are_refused(tmp_path, groups):
    examples = [Example(tmp_path / f"{name}_01.jpg", tmp_path / "mask.png") for name in ("place10", "place2")]
    with pytest.raises(SystemExit, match="place10, place2"):
        without_groups(examples, groups)


def test_a_network_has_settings_of_its_own():
    network = camvid.Network.parse("fcn_resnet50,input_size=480,train_lr=1e-3")
    assert network.hyperparameters == {"arch": "fcn_resnet50", "input_size": "480", "train_lr": "1e-3"}
    with pytest.raises(SystemExit):
        camvid.parse(["--arch", "fcn_resnet50,480"])


# -- figures


def measured(*images, outlines=None):
    """Confusion matrices of images, each the hits and misses of every class; a miss is found as background."""
    counts = np.zeros((len(images), 4, 4), np.int64)
    for matrix, image in zip(counts, images, strict=True):
        for index, (hits, misses) in enumerate(image, start=1):
            matrix[index, index], matrix[index, 0] = hits, misses
    if outlines is None:
        outlines = [[0.5 if sum(one) else np.nan for one in image] for image in images]
    return Measured(CLASSES, counts, np.array(outlines, np.float64), Effort(10, 4, 20.0))


NONE = (0, 0)


def test_scores_are_means_over_classes_and_seeds():
    first = measured([(6, 4), (0, 2), NONE], [(4, 6), NONE, NONE], outlines=[[0.2, 0.4, np.nan], [0.4, np.nan, np.nan]])
    second = measured(
        [(8, 2), (1, 1), NONE], [(8, 2), NONE, NONE], outlines=[[0.6, 0.8, np.nan], [0.6, np.nan, np.nan]]
    )
    found = scores([first, second], ["Pole"])
    assert found.iou == pytest.approx({"Road": (0.5 + 0.8) / 2, "Pole": (0 + 0.5) / 2, "Car": None})
    assert found.boundary_f1_by_class == pytest.approx({"Road": (0.3 + 0.6) / 2, "Pole": (0.4 + 0.8) / 2, "Car": None})
    assert found.miou == pytest.approx((0.25 + 0.65) / 2)
    assert (found.thin_iou, found.thin_boundary_f1) == pytest.approx((0.25, 0.6))
    assert scores([first]).thin_iou is None


def test_a_difference_is_that_of_the_means_and_within_its_interval():
    rng = np.random.default_rng(1)

    def seeds(rate):
        return [
            measured(*([(hits, 100 - hits), (5, 5), NONE] for hits in rng.binomial(100, rate, 40))) for _ in range(3)
        ]

    low, high = seeds(0.5), seeds(0.6)
    found = differences(high, low, ["Pole"])
    road = found.iou["Road"]
    assert road.difference == pytest.approx(scores(high).iou["Road"] - scores(low).iou["Road"])
    assert 0.05 < road.low < road.difference < road.high < 0.15
    assert found.miou == pytest.approx([end / 2 for end in road])  # of two classes, one does not differ
    assert found.iou["Pole"] == found.thin_iou == (0, 0, 0)
    assert found.iou["Car"] is None


def test_what_seeds_differ_in_widens_the_interval():
    def at(*rates):
        return [measured(*[[(rate, 100 - rate), NONE, NONE]] * 20) for rate in rates]

    same = differences(at(60, 60, 60), at(50, 50, 50)).miou
    assert same == pytest.approx((0.1, 0.1, 0.1))
    apart = differences(at(40, 60, 80), at(50, 50, 50)).miou
    assert apart == pytest.approx((0.1, -0.1, 0.3))  # all seeds of a resample may be the worst, or the best


def test_what_images_differ_in_widens_the_interval():
    ours = [measured(*[[(90, 10), NONE, NONE], [(30, 70), NONE, NONE]] * 10)]
    theirs = [measured(*[[(50, 50), NONE, NONE]] * 20)]
    found = differences(ours, theirs).miou
    # the mean of 20 draws of +0.4 and -0.2 has a standard deviation of 0.3 / sqrt(20)
    assert found == pytest.approx((0.1, 0.1 - 1.96 * 0.067, 0.1 + 1.96 * 0.067), abs=0.02)


def test_a_class_of_one_image_has_no_interval():
    one = measured([(5, 5), (1, 1), NONE], [(5, 5), NONE, NONE])
    found = differences([one], [one])
    assert found.iou == {"Road": (0, 0, 0), "Pole": None, "Car": None}
    assert found.boundary_f1_by_class["Pole"] is None


def test_other_images_cannot_be_compared():
    with pytest.raises(ValueError, match="not measured on the same images"):
        differences([measured([(5, 5), NONE, NONE])], [measured([(5, 6), NONE, NONE])])
    with pytest.raises(ValueError, match="zip"):
        differences([measured([(5, 5), NONE, NONE])] * 2, [measured([(5, 5), NONE, NONE])])


def test_the_summary_names_the_classes_that_are_worse():
    first = [measured(*[[(80, 20), (50, 50), (50, 50)]] * 9)] * 3
    other = [
        measured(
            *[
                [
                    (90, 10),
                    (40, 60),
                    (40 + 20 * (seed % 2), 60 - 20 * (seed % 2)),
                ]
            ]
            * 9
        )
        for seed in range(3)
    ]
    lines = list(camvid.summary({"first": first, "other": other}, ["Pole"]))
    assert [line["network"] for line in lines] == ["first", "other"]
    assert "difference" not in lines[0]
    assert lines[1]["against"] == "first"
    assert lines[1]["worse"] == ["Pole"]
    assert lines[1]["difference"]["iou"]["Road"] == [0.1, 0.1, 0.1]
    assert lines[1]["difference"]["iou"]["Car"][1:] == [-0.1, 0.1]
    assert lines[1]["images_per_s"] == 2.0
    json.dumps(lines)


def test_what_was_measured_is_kept(tmp_path):
    one = measured([(5, 5), (1, 1), NONE])
    one.save(tmp_path / "measured.npz")
    again = Measured.load(tmp_path / "measured.npz")
    assert (again.classes, again.effort) == (one.classes, one.effort)
    np.testing.assert_array_equal(again.counts, one.counts)
    np.testing.assert_array_equal(again.boundary, one.boundary)
    assert [path.name for path in tmp_path.iterdir()] == ["measured.npz"]
