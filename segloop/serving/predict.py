"""From tasks to predictions in Label Studio's form: what `/predict` and the refresh after a promotion share."""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextvars import copy_context
from dataclasses import dataclass
from functools import partial
from operator import itemgetter
from typing import TYPE_CHECKING, NotRequired, TypedDict

import numpy as np

from segloop.blind import is_blind
from segloop.errors import (
    BadRequest,
    DeadlinePassed,
    ImageDenied,
    ImageError,
    ImageForbidden,
    ImageMissing,
    ImageTooLarge,
    ImageUnavailable,
    SegloopError,
)
from segloop.label_config import ImageTag, LabelConfig
from segloop.metrics.uncertainty import Acquisition
from segloop.results import Region, RegionWriter, Scene, Sight, Tools, interactive_regions
from segloop.serving.pixels import PixelBudget
from segloop.telemetry.notes import Stage, note

if TYPE_CHECKING:
    from segloop.images import Image, Images
    from segloop.serving import Segmentation, ServedModel
    from segloop.settings import Settings

logger = logging.getLogger(__name__)

#: Tasks of one request under way at once: while the network runs for one, the next are fetched and decoded, and the
#: last one's masks are encoded. More would only take memory.
TASKS_AT_ONCE = 4
#: Tasks of one request that were begun, or are next, while the first of them is waited for.
_TASKS_WAITING = 4 * TASKS_AT_ONCE

#: Pixels under way at once in a process: an image of SEGLOOP_IMAGE_MAX_PIXELS, or many small ones.
_under_way = PixelBudget(100_000_000)

#: Lines of the log about failed tasks of one request.
_LINES = 20

_BATCH = ("batch",)
_INTERACTIVE = ("interactive",)
_NO_MODEL = ("NoModel",)

#: What other settings, other credentials or another day may change about an image.
_PASSING_OF_IMAGES = (ImageUnavailable, ImageDenied, ImageForbidden, ImageMissing, ImageTooLarge)

#: A task as Label Studio sends it: `id` and `data`.
Task = Mapping[str, object]

#: Is called with each task that was predicted, and its image of the lowest score; from several threads.
Watch = Callable[[Task, "Segmentation"], None]


class Prediction(TypedDict):
    """A prediction of Label Studio. Without a score it is empty: the task can never be predicted."""

    result: list[Region]
    score: float | None
    model_version: NotRequired[str]


class NotNow(TypedDict):
    """In the place of a prediction that cannot be made now: `{}`. Label Studio stores nothing, and asks again when the
    task is next opened; an empty prediction it would store, and never ask again."""


def label_names(config: LabelConfig) -> dict[str, tuple[str, ...]]:
    """Each class with its predicted values: what a pretrained network's classes are compared with."""
    return {name: config.predicted_values.get(name, ()) for name in config.classes}


def failed() -> Prediction:
    """The prediction of a task that can never be predicted: Label Studio stores an empty one."""
    return {"result": [], "score": None}


def without_model(tasks: int, *, interactive: bool) -> list[Prediction | NotNow]:
    """What is answered of tasks, or to a smart tool, while there is no model."""
    note("prediction", _INTERACTIVE if interactive else _BATCH, tasks)
    note("failure", _NO_MODEL, tasks)
    return [failed() if interactive else NotNow() for _ in range(tasks)]


@dataclass(frozen=True)
class Predictor:
    """Predicts the tasks of one request with one model.

    `settings` are the project's. `deadline` is of `time.monotonic`; None: there is time.
    """

    config: LabelConfig
    model: ServedModel
    images: Images
    settings: Settings
    deadline: float | None = None
    watch: Watch | None = None

    def predict(self, tasks: Sequence[Task]) -> list[Prediction | NotNow]:
        """Predict a batch: always one prediction per task, in order.

        A prediction's score, in [0, 1], is what the setting `acquisition` says, and the lowest of its images'. A task
        that fails is logged with the reason. Its prediction is empty where the fault lies in the task or its image, so
        that it can never be predicted; else, as where the deadline leaves no time for it, it is `NotNow`. The regions of a
        blind task (the setting `blind_share`) are left out.
        """
        if len(tasks) == 1 and self._is_in_time(tasks[0]):
            return [self._outcome(tasks[0], partial(self._predict, tasks[0]), iter(range(1)))]
        pool = ThreadPoolExecutor(TASKS_AT_ONCE, thread_name_prefix="predict")
        waiting: deque[tuple[Task, Future[Prediction]]] = deque()
        results: list[Prediction | NotNow] = []
        lines = iter(range(_LINES))

        def take() -> None:
            task, answer = waiting.popleft()
            results.append(self._outcome(task, partial(self._wait, answer), lines))

        try:
            for task in tasks:
                if self._is_late():
                    break
                if len(waiting) == _TASKS_WAITING:
                    take()
                # each with the request's id and span
                waiting.append((task, pool.submit(copy_context().run, self._predict, task)))
            while waiting:
                take()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
        if (left_out := sum(one.get("score") is None for one in results) - _LINES) > 0:
            logger.warning("project %s: %d more tasks of the request have no prediction", self.model.project, left_out)
        return results + self._left_over(len(tasks) - len(results))

    def answer(self, task: Task, context: Mapping[str, object]) -> Prediction:
        """Answer a smart tool: the region that its clicks or rectangle ask for; one on each image of a list that has some.

        The prediction is empty where there is no such region, and, with the reason in the log, where the image cannot
        be had or the deadline came first.

        Raises:
            BadRequest: the context cannot be read.
        """
        note("prediction", _INTERACTIVE)
        try:
            if self._is_in_time(task):
                return self._answer(task, context)
            aside = ThreadPoolExecutor(1, thread_name_prefix="smart-tool")
            try:
                return self._wait(aside.submit(copy_context().run, self._answer, task, context))
            finally:
                aside.shutdown(wait=False, cancel_futures=True)
        except (ImageError, DeadlinePassed) as error:
            note("failure", (type(error).__name__,))
            logger.warning("task %s: no answer for a smart tool: %s", task.get("id"), error)
            return failed()

    def _predict(self, task: Task) -> Prediction:
        result: list[Region] = []
        scored: list[tuple[float, Segmentation]] = []
        for tag, index, uri in self.config.addresses(_data(task)):
            if self._is_late():
                raise DeadlinePassed("the request's deadline had passed")
            image = self.images.load(uri, _task_id(task))
            with _under_way.taken(image.decoded_px, self.deadline):
                segmentation = self.model.segment(image, self.deadline)
                with Stage("encode"):
                    regions = self._writer(tag).scene_regions(self._scene(segmentation))
            result += _placed(regions, index)
            scored.append((_score(segmentation, self.settings.acquisition), segmentation))
        if not scored:
            names = ", ".join(f"data.{image.key}" for image in self.config.images)
            raise ImageError(f"the task has no image under {names}.")
        score, segmentation = min(scored, key=itemgetter(0))
        if self.watch is not None:
            self.watch(task, segmentation)
        if is_blind(self.model.project, task.get("id"), self.settings.hidden_share):
            result = []  # with its score, so that its turn to be labelled is as any other's
        return {"result": result, "score": score, "model_version": self.model.version}

    def _answer(self, task: Task, context: Mapping[str, object]) -> Prediction:
        result: list[Region] = []
        scores: list[float] = []
        for tag, index, uri in self.config.addresses(_data(task)):
            asked = _asked_of(context, tag, index)
            if asked is None:
                continue
            if self._is_late():
                raise DeadlinePassed("the request's deadline had passed")
            image = self.images.load(uri, _task_id(task))
            regions, score = self._answer_on(image, asked, tag)
            result += _placed(regions, index)
            scores += [] if score is None else [score]
        return {"result": result, "score": min(scores, default=None), "model_version": self.model.version}

    def _answer_on(
        self, image: Image, context: Mapping[str, object], tag: ImageTag
    ) -> tuple[list[Region], float | None]:
        """What a smart tool asks for on one image: its regions, and the score."""
        with _under_way.taken(image.decoded_px, self.deadline):
            # the picture is decoded at its full size while the network runs
            with ThreadPoolExecutor(1, thread_name_prefix="decode") as aside:
                pixels = aside.submit(copy_context().run, self.model.pixels, image, self.deadline)
                segmentation = self.model.segment(image, self.deadline)
            scene = self._scene(segmentation)
            sight = Sight(pixels.result(), scene.class_map, segmentation.probabilities)
            tools = Tools(segmentation.cell_px / 2, partial(self.model.mask, image), self.model.guided)
            with Stage("encode"):
                return interactive_regions(context, sight, scene, self._writer(tag), tools)

    def _writer(self, tag: ImageTag) -> RegionWriter:
        settings = self.settings
        return RegionWriter(
            self.config,
            tag.name,
            settings.output_tag,
            settings.regions,
            settings.min_area_px,
            settings.polygon_tolerance_px,
        )

    def _scene(self, segmentation: Segmentation) -> Scene:
        return Scene(segmentation.class_map, self.model.classes, segmentation.confidence_grid)

    def _is_late(self) -> bool:
        return self.deadline is not None and time.monotonic() >= self.deadline

    def _left_over(self, tasks: int) -> list[Prediction | NotNow]:
        """What the last tasks get, for which no time is left."""
        if tasks:
            note("prediction", _BATCH, tasks)
            note("failure", (DeadlinePassed.__name__,), tasks)
            logger.warning("project %s: no time is left for %d tasks of the request", self.model.project, tasks)
        return [NotNow() for _ in range(tasks)]

    def _is_in_time(self, task: Task) -> bool:
        """Whether a task whose images take as long as they may ends before the deadline: then no thread need watch over it."""
        if self.deadline is None:
            return True
        data = task.get("data")
        images = sum(1 for _ in self.config.addresses(data)) if isinstance(data, Mapping) else 0
        return time.monotonic() + images * self.settings.image_timeout_s < self.deadline

    def _wait(self, prediction: Future[Prediction]) -> Prediction:
        try:
            return prediction.result(None if self.deadline is None else max(0.0, self.deadline - time.monotonic()))
        except TimeoutError as error:
            raise DeadlinePassed("the request's deadline had passed") from error

    def _outcome(self, task: Task, predict: Callable[[], Prediction], lines: Iterator[object]) -> Prediction | NotNow:
        """A task's prediction, or why there is none in the log, as long as there are `lines` left."""
        note("prediction", _BATCH)
        try:
            return predict()
        except SegloopError as error:
            note("failure", (type(error).__name__,))
            if next(lines, None) is not None:
                logger.warning("task %s of project %s has no prediction: %s", task.get("id"), self.model.project, error)
            return failed() if _lasts(error) else NotNow()
        except Exception:
            note("failure", ("unexpected",))
            if next(lines, None) is not None:
                logger.exception("task %s of project %s has no prediction", task.get("id"), self.model.project)
            return NotNow()


def _lasts(error: SegloopError) -> bool:
    """Whether a task that failed so always will: it is the task or the image that is at fault."""
    return isinstance(error, (BadRequest, ImageError)) and not isinstance(error, _PASSING_OF_IMAGES)


def _score(segmentation: Segmentation, acquisition: Acquisition) -> float:
    score = segmentation.certainty.score(acquisition)
    if not np.isfinite(score):
        raise SegloopError("the network's confidence is not a finite number")
    return min(max(score, 0.0), 1.0)


def _data(task: Task) -> Mapping[str, object]:
    data = task.get("data")
    if not isinstance(data, Mapping):
        raise BadRequest("the task has no object 'data'.")
    return data


def _asked_of(context: Mapping[str, object], tag: ImageTag, index: int | None) -> Mapping[str, object] | None:
    """A smart tool's context with the regions alone that are on an image: of this tag, at this index in a list of images.
    None if there are none.

    The editor sends those of all images of a list that are not accepted yet, if they have one label.
    """
    items = context.get("result")
    # what is no region is left in, for the reader to refuse
    kept = [
        item
        for item in (items if isinstance(items, list) else ())
        if not isinstance(item, Mapping)
        or (item.get("to_name") == tag.name and (item.get("item_index") or 0) == (index or 0))
    ]
    return {**context, "result": kept} if any(isinstance(item, Mapping) for item in kept) else None


def _placed(regions: list[Region], index: int | None) -> list[Region]:
    return regions if index is None else [{**region, "item_index": index} for region in regions]


def _task_id(task: Task) -> int | None:
    ident = task.get("id")
    return ident if isinstance(ident, int) else None
