"""The refresh of predictions after a promotion."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator
from functools import cache
from itertools import chain, islice
from typing import Any, Final, TypedDict

from segloop.label_config import parse_label_config
from segloop.serving.predict import Predictor
from worker.jobs.context import JobContext, note_predicted, project_id_of, set_backend_title
from worker.jobs.label_order import (
    CANDIDATES,
    Embeddings,
    keep_ordered_view,
    least_sure_before,
    put_in_order,
    serves,
)

logger = logging.getLogger(__name__)

#: Tasks that are predicted before all others: those that the version before was least sure of.
HEAD_START: Final = 200

#: Stores predictions in Label Studio; how many it stored.
Store = Callable[[list[dict[str, Any]]], int]


class PrelabelResult(TypedDict):
    """What a prelabel job returns: how many tasks it predicted and put in order, and the ids of those that failed.

    `superseded`: another version is the champion, so that it ended early.
    """

    version: str
    predicted: int
    failed: list[int]
    ordered: int
    superseded: bool


def run_prelabel(context: JobContext, project: str, version: str, job_id: str) -> PrelabelResult:
    """Title the backend with the version, and predict every task without an annotation and without a prediction of it;
    at last those whose prediction of it is an empty one.

    Those that the version before was least sure of come first, as people are served them first. Each prediction's
    score is there at once; with the setting `entropy+diversity` the least sure tasks are then put in an order in which
    each is unlike those before it, and with `ordered_view` a tab of the Data Manager shows it.

    What is missing is asked of Label Studio, so that a second call goes on where the first was killed. Ends
    early when another version is the champion. A task that fails keeps no prediction and is only counted.

    Raises:
        LabelStudioError: Label Studio refuses.
        LabelStudioUnreachable, QueueUnavailable, RegistryError: try again later.
    """
    settings = context.settings_of(project)
    project_id = project_id_of(project)
    failed: list[int] = []
    result: PrelabelResult = {"version": version, "predicted": 0, "failed": failed, "ordered": 0, "superseded": True}
    if not serves(context, project, version):
        return result
    # The title decides whose scores Label Studio sorts by: after it, those of the version before are out of reach.
    first = least_sure_before(context, project, version, HEAD_START)
    set_backend_title(context, project, version)
    studio = context.label_studio
    described = studio.projects.get(project_id)
    config = parse_label_config(described["label_config"])
    embeddings = Embeddings(CANDIDATES * settings.acquisition_batch)
    diverse = settings.acquisition == "entropy+diversity"

    @cache
    def predictor() -> Predictor:
        model = context.load_model(context.registry, project, version, settings)
        return Predictor(config, model, context.images, settings, watch=embeddings.watch if diverse else None)

    def create(rows: list[dict[str, Any]]) -> int:
        return studio.predictions.create(project_id, rows)

    def fill(rows: list[dict[str, Any]]) -> int:
        return sum(studio.predictions.fill(row) > 0 for row in rows)

    def batches(tasks: Iterable[dict[str, Any]], store: Store) -> Iterator[tuple[list[dict[str, Any]], Store]]:
        return ((batch, store) for batch in _batched(tasks, settings.prelabel_batch))

    others = _others(context, project_id, version, failed)
    # scores are those of the version that the title names, where Label Studio took it
    is_current = described.get("model_version") == version
    empty = studio.tasks.without_score(project_id, version) if is_current else ()
    for batch, store in chain(batches(first, create), batches(others, create), batches(empty, fill)):
        if not serves(context, project, version):
            return result
        predictions = predictor().predict(batch)
        rows = [{"task": task["id"], **one} for task, one in zip(batch, predictions, strict=True)]
        failed += [row["task"] for row in rows if row.get("score") is None]
        rows = [row for row in rows if row.get("score") is not None]
        result["predicted"] += store(rows)
        context.jobs.counters.count_prelabelled(len(rows), len(batch) - len(rows))
        embeddings.keep({row["task"]: row["score"] for row in rows})
        message = f"{result['predicted']} tasks predicted" + (f", {len(failed)} failed." if failed else ".")
        step = result["predicted"] + len(failed)
        context.jobs.report(job_id, {"phase": "predicting", "step": step, "message": message})
    if serves(context, project, version):
        # Once more: Label Studio saves a backend's whole row when its page is opened, and may have undone it meanwhile.
        set_backend_title(context, project, version)
    if diverse:
        context.jobs.report(job_id, {"phase": "ordering", "message": "The least sure tasks are put in order."})
        result["ordered"] = put_in_order(context, predictor(), embeddings)
    if settings.ordered_view:
        keep_ordered_view(context, project)
    result["superseded"] = False
    note_predicted(context, project, version)
    if settings.auto_accept:
        context.jobs.enqueue_accept(project)
    logger.info("project %s: %d tasks predicted with %s, %d failed", project, result["predicted"], version, len(failed))
    return result


def _others(context: JobContext, project_id: int, version: str, failed: list[int]) -> Iterator[dict[str, Any]]:
    """Tasks without a prediction of the version, but for those that failed before the first of these is asked for."""
    tried = set(failed)
    yield from (task for task in context.label_studio.tasks.unlabelled(project_id, version) if task["id"] not in tried)


def _batched(tasks: Iterable[dict[str, Any]], size: int) -> Iterator[list[dict[str, Any]]]:
    tasks = iter(tasks)
    while batch := list(islice(tasks, size)):
        yield batch
