"""The order of a project's unlabelled tasks after a promotion: unlike ones first, and a tab that shows it."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from segloop.errors import LabelStudioError
from segloop.metrics.uncertainty import MAX_ORDER, ORDER_LIMIT, ORDER_STEP, k_center_greedy
from segloop.serving.predict import Predictor
from worker.jobs.context import JobContext, project_id_of

if TYPE_CHECKING:
    from segloop.serving import Segmentation

logger = logging.getLogger(__name__)

#: A batch is picked from this many times as many tasks, the least sure ones.
CANDIDATES: Final = 5

Embedding = NDArray[np.float16]


class Embeddings:
    """Embeddings of the least sure tasks that were predicted: at least `most` of them, and at most twice as many."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._seen: dict[int, Embedding] = {}
        self._kept: dict[int, tuple[float, Embedding]] = {}

    def watch(self, task: Mapping[str, Any], segmentation: Segmentation) -> None:
        """Keep the embedding of a task that a `Predictor` predicted; called from several threads."""
        self._seen[task["id"]] = segmentation.embedding

    def keep(self, scores: Mapping[int, float]) -> None:
        """Keep what was seen of tasks by their scores; the surest are forgotten."""
        self._kept |= {task: (score, self._seen[task]) for task, score in scores.items() if task in self._seen}
        self._seen.clear()
        if len(self._kept) > 2 * self._most:
            least_sure = sorted(self._kept.items(), key=lambda item: item[1][0])
            self._kept = dict(least_sure[: self._most])

    def get(self, task: int) -> Embedding | None:
        """The embedding of a task, if it is there."""
        found = self._kept.get(task)
        return None if found is None else found[1]


def put_in_order(context: JobContext, predictor: Predictor, embeddings: Embeddings) -> int:
    """Give the first `acquisition_batch` tasks scores in the order in which they should be labelled; how many it gave.

    They are picked among the least sure, each as unlike those before it as can be. Scores below ORDER_LIMIT are places
    in the order, so that a second call goes on where the first was killed; one that has nothing to add changes
    nothing. Embeddings that the first call took with it are computed anew. Ends early when another version is the
    champion.

    Raises:
        LabelStudioError: Label Studio refuses.
        LabelStudioUnreachable, RegistryError: try again later.
    """
    project, version = predictor.model.project, predictor.model.version
    size = predictor.settings.acquisition_batch
    tasks = context.label_studio.tasks.least_sure(project_id_of(project), CANDIDATES * size, predicted_by=version)
    places = [round(task["score"] / ORDER_STEP) for task in tasks if task["score"] < ORDER_LIMIT]
    place = max(places, default=0)
    count = min(size - len(places), MAX_ORDER - place)
    if count <= 0 or len(places) == len(tasks):
        return 0
    vectors = _vectors(context, predictor, tasks, embeddings)
    tasks = [task for task in tasks if task["id"] in vectors]
    if not tasks:
        return 0
    picked = sum(task["score"] < ORDER_LIMIT for task in tasks)
    matrix = np.stack([vectors[task["id"]] for task in tasks]).astype(np.float32)
    ordered = 0
    for row in k_center_greedy(matrix, count, range(picked)):
        if not serves(context, project, version):
            break
        ordered += 1
        context.label_studio.predictions.set_score(tasks[row]["id"], version, (place + ordered) * ORDER_STEP)
    logger.info("project %s: %d tasks put in order for %s", project, ordered, version)
    return ordered


def _vectors(
    context: JobContext, predictor: Predictor, tasks: Sequence[dict[str, Any]], embeddings: Embeddings
) -> dict[int, Embedding]:
    """The embedding of each task, but for those that cannot be predicted any more."""
    found = {task["id"]: vector for task in tasks if (vector := embeddings.get(task["id"])) is not None}
    missing = [task for task in tasks if task["id"] not in found]

    def watch(task: Mapping[str, Any], segmentation: Segmentation) -> None:
        found[task["id"]] = segmentation.embedding

    watched, size = replace(predictor, watch=watch), predictor.settings.prelabel_batch
    for start in range(0, len(missing), size):
        if not serves(context, predictor.model.project, predictor.model.version):
            break
        watched.predict(missing[start : start + size])
    return found


def keep_ordered_view(context: JobContext, project: str) -> None:
    """Keep the tab of the tasks to label, by the setting `ordered_view`. Never raises: it is a convenience."""
    try:
        context.label_studio.views.keep_ordered(project_id_of(project))
    except LabelStudioError as error:
        logger.error("project %s: its tab of tasks to label cannot be kept: %s", project, error)


def least_sure_before(context: JobContext, project: str, version: str, limit: int) -> list[dict[str, Any]]:
    """The tasks that the version before was least sure of: they are predicted first. Empty where none can be told, or
    not in time: it is a convenience too."""
    try:
        return context.label_studio.tasks.least_sure(project_id_of(project), limit, not_predicted_by=version)
    except LabelStudioError as error:
        logger.warning("project %s: its tasks cannot be sorted by their scores: %s", project, error)
        return []


def serves(context: JobContext, project: str, version: str) -> bool:
    """Whether a version is the champion of a project."""
    champion = context.registry.champion(project)
    return champion is not None and champion.version == version
