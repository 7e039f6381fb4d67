"""From tasks to predictions in Label Studio's form: what `/predict` and the refresh after a promotion share."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextvars import copy_context
from functools import partial
from operator import itemgetter
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from segloop.errors import BadRequest, DeadlinePassed, ImageError, SegloopError
from segloop.label_config import ImageTag, LabelConfig
from segloop.metrics.uncertainty import Acquisition
from segloop.results import class_map_regions, interactive_regions
from segloop.telemetry.notes import Stage, note

if TYPE_CHECKING:
    from segloop.serving import Picture, Segmentation, ServedModel
    from segloop.settings import Settings

logger = logging.getLogger(__name__)

#: Tasks of one request under way at once: while the network runs for one, the next are fetched and decoded, and the
#: last one's masks are encoded. More would only take memory.
TASKS_AT_ONCE = 4


_BATCH = ("batch",)
_INTERACTIVE = ("interactive",)
_NO_MODEL = ("NoModel",)


class Images(Protocol):
    """Where images come from; `segloop.images.ImageSource` is the real one."""

    def load(self, uri: str, task_id: int | None) -> Picture: ...


#: Where an image of a task belongs: its tag, and its index in a list of images.
Place = tuple[ImageTag, int | None]

#: Is told of each task that was predicted, and of its image of the lowest score; from several threads.
Watch = Callable[[Mapping[str, Any], "Segmentation"], None]


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
    watch: Watch | None = None,
) -> list[dict[str, Any]]:
    """Predict a batch: always one prediction per task, in order.

    A prediction is `{"result", "score", "model_version"}`; its score, in [0, 1], is what the setting `acquisition`
    says, and the lowest of its images'. A task that fails, or that the deadline (of `time.monotonic`) leaves no time for, has its
    reason logged and gets `{"result": [], "score": null}`; so does each task while there is no model.
    """
    if model is None:
        note("prediction", _BATCH, len(tasks))
        note("failure", _NO_MODEL, len(tasks))
        return [failed() for _ in tasks]

    def predict(task: Mapping[str, Any]) -> dict[str, Any]:
        return _predict_task(task, config, model, images, settings, deadline, watch)

    if len(tasks) == 1 and _fits(settings, deadline):
        return [_outcome(lambda: predict(tasks[0]), tasks[0], model)]
    pool = ThreadPoolExecutor(TASKS_AT_ONCE, thread_name_prefix="predict")
    try:
        # each with the request's id and span
        answers = [pool.submit(copy_context().run, predict, task) for task in tasks]
        return [
            _outcome(partial(_result, answer, deadline), task, model)
            for task, answer in zip(tasks, answers, strict=True)
        ]
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def predict_interactive(
    task: Mapping[str, Any],
    context: Mapping[str, Any],
    config: LabelConfig,
    model: ServedModel | None,
    images: Images,
    settings: Settings,
    *,
    deadline: float | None = None,
) -> dict[str, Any]:
    """Answer a smart tool: the region that its clicks or rectangle ask for, or an empty result.

    Raises:
        BadRequest: the context cannot be read.
        ImageError: the image cannot be had.
        DeadlinePassed: the deadline, of `time.monotonic`, came first.
    """
    note("prediction", _INTERACTIVE)
    if model is None:
        note("failure", _NO_MODEL)
        return failed()

    def answer() -> dict[str, Any]:
        return _answer_interactive(task, context, config, model, images, settings, deadline)

    if _fits(settings, deadline):
        return answer()
    aside = ThreadPoolExecutor(1, thread_name_prefix="smart-tool")
    try:
        return _result(aside.submit(copy_context().run, answer), deadline)
    finally:
        aside.shutdown(wait=False, cancel_futures=True)


def _answer_interactive(
    task: Mapping[str, Any],
    context: Mapping[str, Any],
    config: LabelConfig,
    model: ServedModel,
    images: Images,
    settings: Settings,
    deadline: float | None,
) -> dict[str, Any]:
    for tag, index, uri in config.addresses(_data(task)):
        if not any(_is_on(item, (tag, index)) for item in context.get("result") or ()):
            continue
        image = images.load(uri, _task_id(task))
        segmentation = model.segment(image, deadline)
        pixels = model.pixels(image, deadline)
        with Stage("encode"):
            regions, score = interactive_regions(
                context,
                segmentation.class_map,
                segmentation.confidence_grid,
                model.classes,
                config,
                tag.name,
                preference=settings.output_tag,
                tolerance_px=settings.polygon_tolerance_px,
                image_pixels=pixels,
                band_px=segmentation.cell_px / 2,
            )
        return {"result": _placed(regions, index), "score": score, "model_version": model.version}
    return {**failed(), "model_version": model.version}


def _fits(settings: Settings, deadline: float | None) -> bool:
    """Whether an image that takes as long as it may leaves time before the deadline: then nobody need watch over it."""
    return deadline is None or time.monotonic() + settings.image_timeout_s < deadline


def _result(prediction: Future[dict[str, Any]], deadline: float | None) -> dict[str, Any]:
    try:
        return prediction.result(None if deadline is None else max(0.0, deadline - time.monotonic()))
    except TimeoutError as error:
        raise DeadlinePassed("the request's deadline had passed") from error


def _outcome(answer: Callable[[], dict[str, Any]], task: Mapping[str, Any], model: ServedModel) -> dict[str, Any]:
    """A task's prediction, or an empty one with the reason in the log."""
    note("prediction", _BATCH)
    try:
        return answer()
    except SegloopError as error:
        note("failure", (type(error).__name__,))
        logger.warning("task %s of project %s has no prediction: %s", task.get("id"), model.project, error)
    except Exception:
        note("failure", ("unexpected",))
        logger.exception("task %s of project %s has no prediction", task.get("id"), model.project)
    return failed()


def _predict_task(
    task: Mapping[str, Any],
    config: LabelConfig,
    model: ServedModel,
    images: Images,
    settings: Settings,
    deadline: float | None,
    watch: Watch | None,
) -> dict[str, Any]:
    result: list[dict[str, Any]] = []
    scored: list[tuple[float, Segmentation]] = []
    for tag, index, uri in config.addresses(_data(task)):
        if deadline is not None and time.monotonic() >= deadline:
            raise DeadlinePassed("the request's deadline had passed")
        segmentation = model.segment(images.load(uri, _task_id(task)), deadline)
        with Stage("encode"):
            regions = class_map_regions(
                segmentation.class_map,
                model.classes,
                config,
                tag.name,
                preference=settings.output_tag,
                per=settings.regions,
                min_area_px=settings.min_area_px,
                tolerance_px=settings.polygon_tolerance_px,
                confidence=segmentation.confidence_grid,
            )
        result += _placed(regions, index)
        scored.append((_score(segmentation, settings.acquisition), segmentation))
    if not scored:
        names = ", ".join(f"data.{image.key}" for image in config.images)
        raise ImageError(f"the task has no image under {names}.")
    score, segmentation = min(scored, key=itemgetter(0))
    if watch is not None:
        watch(task, segmentation)
    return {"result": result, "score": score, "model_version": model.version}


def _score(segmentation: Segmentation, acquisition: Acquisition) -> float:
    score = segmentation.certainty.score(acquisition)
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
