"""From tasks to predictions in Label Studio's form: what `/predict` and the refresh after a promotion share."""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from segloop.errors import BadRequest, ImageError, SegloopError
from segloop.label_config import ImageTag, LabelConfig
from segloop.results import class_map_regions, interactive_regions

if TYPE_CHECKING:
    from segloop.images import Image
    from segloop.serving import Segmentation, ServedModel
    from segloop.settings import Settings

logger = logging.getLogger(__name__)

#: Images fetched and decoded ahead of the network, so that it does not wait and memory stays bounded.
PREFETCH = 4


class Images(Protocol):
    """Where images come from; `segloop.images.ImageSource` is the real one."""

    def load(self, uri: str, task_id: int | None) -> Image: ...


#: Where an image of a task belongs: its tag, and its index in a list of images.
Place = tuple[ImageTag, int | None]
Loaded = list[tuple[Place, "Image"]]


def label_names(config: LabelConfig) -> dict[str, tuple[str, ...]]:
    """Each class with its predicted values: what a pretrained network's classes are compared with."""
    return {name: config.predicted_values.get(name, ()) for name in config.classes}


def failed() -> dict[str, Any]:
    """The prediction of a task that could not be predicted: Label Studio stores an empty one."""
    return {"result": [], "score": None}


def predict_tasks(
    tasks: Sequence[Mapping[str, Any]],
    config: LabelConfig,
    model: ServedModel | None,
    images: Images,
    settings: Settings,
    *,
    deadline: float | None = None,
) -> list[dict[str, Any]]:
    """Predict a batch: always one prediction per task, in order.

    A prediction is `{"result", "score", "model_version"}`; its score is the mean confidence of its pixels,
    in [0, 1]. A task that fails, or that the deadline (of `time.monotonic`) leaves no time for, has its
    reason logged and gets `{"result": [], "score": null}`; so does each task while there is no model.
    """
    if model is None:
        return [failed() for _ in tasks]
    predictions = []
    for task, loaded in _prefetched(tasks, config, images):
        try:
            left_s = None if deadline is None else deadline - time.monotonic()
            if left_s is not None and left_s <= 0:
                raise SegloopError("the request's deadline had passed")
            predictions.append(_predict_task(loaded.result(left_s), config, model, settings))
        except TimeoutError:
            logger.warning(
                "task %s of project %s has no prediction: its image took too long", task.get("id"), model.project
            )
            predictions.append(failed())
        except SegloopError as error:
            logger.warning("task %s of project %s has no prediction: %s", task.get("id"), model.project, error)
            predictions.append(failed())
        except Exception:
            logger.exception("task %s of project %s has no prediction", task.get("id"), model.project)
            predictions.append(failed())
    return predictions


def predict_interactive(
    task: Mapping[str, Any],
    context: Mapping[str, Any],
    config: LabelConfig,
    model: ServedModel | None,
    images: Images,
    settings: Settings,
) -> dict[str, Any]:
    """Answer a smart tool: the region that its clicks or rectangle ask for, or an empty result.

    Raises:
        BadRequest: the context cannot be read.
        ImageError: the image cannot be had.
    """
    if model is None:
        return failed()
    for tag, index, uri in config.addresses(_data(task)):
        if not any(_is_on(item, (tag, index)) for item in context.get("result") or ()):
            continue
        segmentation = model.segment(images.load(uri, _task_id(task)).pixels)
        regions, score = interactive_regions(
            context,
            segmentation.class_map,
            segmentation.confidence,
            model.classes,
            config,
            tag.name,
            preference=settings.output_tag,
            tolerance_px=settings.polygon_tolerance_px,
        )
        return {"result": _placed(regions, index), "score": score, "model_version": model.version}
    return {**failed(), "model_version": model.version}


def _prefetched(
    tasks: Sequence[Mapping[str, Any]], config: LabelConfig, images: Images
) -> Iterator[tuple[Mapping[str, Any], Future[Loaded]]]:
    """Each task with its images, fetched a few tasks ahead."""
    pool = ThreadPoolExecutor(PREFETCH, thread_name_prefix="fetch")
    ahead: deque[tuple[Mapping[str, Any], Future[Loaded]]] = deque()
    try:
        for task in tasks:
            ahead.append((task, pool.submit(_load, task, config, images)))
            if len(ahead) > PREFETCH:
                yield ahead.popleft()
        while ahead:
            yield ahead.popleft()
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def _load(task: Mapping[str, Any], config: LabelConfig, images: Images) -> Loaded:
    loaded: Loaded = [
        ((tag, index), images.load(uri, _task_id(task))) for tag, index, uri in config.addresses(_data(task))
    ]
    if not loaded:
        names = ", ".join(f"data.{image.key}" for image in config.images)
        raise ImageError(f"the task has no image under {names}.")
    return loaded


def _predict_task(loaded: Loaded, config: LabelConfig, model: ServedModel, settings: Settings) -> dict[str, Any]:
    result: list[dict[str, Any]] = []
    scores = []
    for (tag, index), image in loaded:
        segmentation = model.segment(image.pixels)
        regions = class_map_regions(
            segmentation.class_map,
            model.classes,
            config,
            tag.name,
            preference=settings.output_tag,
            per=settings.regions,
            min_area_px=settings.min_area_px,
            tolerance_px=settings.polygon_tolerance_px,
            confidence=segmentation.confidence,
        )
        result += _placed(regions, index)
        scores.append(_score(segmentation))
    return {"result": result, "score": min(scores), "model_version": model.version}


def _score(segmentation: Segmentation) -> float:
    score = float(segmentation.confidence.mean(dtype=np.float64))
    if not np.isfinite(score):
        raise SegloopError("the network's confidence is not a finite number")
    return min(max(score, 0.0), 1.0)


def _data(task: Mapping[str, Any]) -> Mapping[str, Any]:
    data = task.get("data")
    if not isinstance(data, Mapping):
        raise BadRequest("the task has no object 'data'.")
    return data


def _is_on(item: object, place: Place) -> bool:
    tag, index = place
    return (
        isinstance(item, Mapping) and item.get("to_name") == tag.name and (item.get("item_index") or 0) == (index or 0)
    )


def _placed(regions: list[dict[str, Any]], index: int | None) -> list[dict[str, Any]]:
    return regions if index is None else [{**region, "item_index": index} for region in regions]


def _task_id(task: Mapping[str, Any]) -> int | None:
    ident = task.get("id")
    return ident if isinstance(ident, int) else None
