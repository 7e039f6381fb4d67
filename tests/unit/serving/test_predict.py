"""What a prediction's score is: the acquisition function of the project, and the least of a task's images."""

from __future__ import annotations

import threading
import time
from dataclasses import replace

import numpy as np
import pytest

from segloop.blind import is_blind
from segloop.label_config import parse_label_config
from segloop.metrics.uncertainty import ORDER_LIMIT
from segloop.serving import Batcher
from segloop.serving.predict import Predictor
from tests.toys import BRUSH, ColourEngine, ToyImage, ToyImages, half_red_half_blue, toy_model

IMAGE = ToyImage(half_red_half_blue())
SCORES = {"confidence": "confidence", "margin": "margin", "entropy": "entropy", "entropy+diversity": "entropy"}


class OddEngine:
    """Logits that are not numbers, or that know nothing at all."""

    max_batch = 1

    def __init__(self, value: float) -> None:
        self.value = value

    def logits(self, batch: np.ndarray) -> np.ndarray:
        return np.full((len(batch), 3, 4, 4), self.value, np.float32)


class Pair:
    """An image that is clear, and a grey one."""

    def load(self, uri: str, task_id: int | None) -> ToyImage:
        return IMAGE if "clear" in uri else ToyImage(np.full((30, 40, 3), 118, np.uint8))


def predict(settings, acquisition="confidence", *, model=None, images=None, config=BRUSH, data=None, watch=None):
    predictor = Predictor(
        parse_label_config(config),
        model or toy_model(),
        images or ToyImages(),
        settings.model_copy(update={"acquisition": acquisition}),
        watch=watch,
    )
    [prediction] = predictor.predict([{"id": 7, "data": data or {"image": "/data/clear.png"}}])
    return prediction


@pytest.mark.parametrize("acquisition", SCORES)
def test_the_score_is_of_the_acquisition_and_those_of_regions_stay_confidences(settings, acquisition):
    certainty = toy_model().segment(IMAGE).certainty
    found = predict(settings, acquisition)
    assert found["score"] == pytest.approx(getattr(certainty, SCORES[acquisition]))
    assert [item["score"] for item in found["result"]] == [
        item["score"] for item in predict(settings, "confidence")["result"]
    ]


def test_the_acquisitions_differ(settings):
    unsure = replace(toy_model(), batcher=Batcher(ColourEngine(gain=0.2)))
    values = [predict(settings, name, model=unsure)["score"] for name in ("confidence", "margin", "entropy")]
    assert len({round(value, 6) for value in values}) == 3


def test_a_score_is_no_place_in_an_order(settings):
    knows_nothing = replace(toy_model(), batcher=Batcher(OddEngine(0.0)))
    assert predict(settings, "entropy", model=knows_nothing)["score"] == pytest.approx(0, abs=1e-6)
    assert predict(settings, "entropy+diversity", model=knows_nothing)["score"] == ORDER_LIMIT


@pytest.mark.parametrize("acquisition", SCORES)
def test_what_is_not_finite_is_no_score(settings, acquisition):
    broken = replace(toy_model(), batcher=Batcher(OddEngine(float("nan"))))
    assert predict(settings, acquisition, model=broken) == {}


@pytest.mark.parametrize("acquisition", SCORES)
def test_a_task_has_the_score_of_its_least_sure_image(settings, acquisition):
    config = BRUSH.replace('value="$image"', 'valueList="$images"')
    seen = []
    both = predict(
        settings,
        acquisition,
        images=Pair(),
        config=config,
        data={"images": ["/data/clear.png", "/data/grey.png"]},
        watch=lambda task, segmentation: seen.append((task["id"], segmentation)),
    )
    [(task, segmentation)] = seen
    grey = predict(settings, acquisition, images=Pair(), data={"image": "/data/grey.png"})
    assert both["score"] == grey["score"] < predict(settings, acquisition)["score"]
    assert (task, segmentation.certainty.score(acquisition)) == (7, pytest.approx(both["score"]))


def test_a_blind_task_has_its_score_and_shows_nothing(settings):
    shown = predict(settings)
    hidden = predict(settings.model_copy(update={"blind_share": 1.0}))
    assert shown["result"]
    assert hidden == {**shown, "result": []}
    some = [bool(predict_of(settings.model_copy(update={"blind_share": 0.3}), number)) for number in range(30)]
    assert some == [not is_blind(toy_model().project, number, 0.3) for number in range(30)]
    assert any(some)
    assert not all(some)


def predict_of(settings, number):
    """The regions of a task of this id."""
    predictor = Predictor(parse_label_config(BRUSH), toy_model(), ToyImages(), settings)
    [prediction] = predictor.predict([{"id": number, "data": {"image": "/data/clear.png"}}])
    return prediction["result"]


def test_clicks_on_several_images_of_a_list_are_answered_on_each(settings):
    """The editor sends all that are not accepted yet, whichever image is shown."""
    config = BRUSH.replace('value="$image"', 'valueList="$images"')
    task = {"id": 7, "data": {"images": ["/data/a.png", "/data/b.png", "/data/c.png"]}}
    predictor = Predictor(parse_label_config(config), toy_model(), ToyImages(), settings)
    first, second = (
        {
            "type": "keypointlabels",
            "to_name": "image",
            "item_index": index,
            "value": {"x": 50, "y": y, "keypointlabels": ["Road"]},
        }
        for index, y in ((0, 10), (2, 90))
    )

    def answer(*clicks):
        found = predictor.answer(task, {"result": list(clicks)})
        return {item["item_index"]: item["value"]["rle"] for item in found["result"]}, found["score"]

    both, score = answer(first, second)
    alone = [answer(click) for click in (first, second)]
    assert both == {**alone[0][0], **alone[1][0]}
    assert list(both) == [0, 2]
    assert score == min(score for _, score in alone)


@pytest.mark.parametrize(("images", "watched"), [(1, False), (3, True)])
def test_a_task_is_watched_over_unless_all_its_images_must_end_in_time(settings, images, watched):
    """Each image may take its whole time; a task of several could come far past the deadline in the request's own thread."""
    threads = set()

    class Watched(ToyImages):
        def load(self, uri: str, task_id: int | None) -> ToyImage:
            threads.add(threading.current_thread())
            return super().load(uri, task_id)

    config = parse_label_config(BRUSH.replace('value="$image"', 'valueList="$images"'))
    own = settings.model_copy(update={"image_timeout_s": 40.0})
    predictor = Predictor(config, toy_model(), Watched(), own, deadline=time.monotonic() + 100)
    task = {"data": {"images": ["a"] * images}}
    assert predictor.predict([task])[0]["score"] is not None
    click = {"type": "keypoint", "to_name": "image", "value": {"x": 50, "y": 50}}
    predictor.answer(task, {"result": [click]})
    assert (threading.current_thread() not in threads) is watched
