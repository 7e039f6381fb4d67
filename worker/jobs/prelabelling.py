"""The refresh of predictions after a promotion."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any

from segloop.label_config import parse_label_config
from segloop.prediction import predict_tasks
from worker.jobs.workshop import Workshop, project_id_of, tell

logger = logging.getLogger(__name__)


def run_prelabel(shop: Workshop, project: str, version: str, job_id: str) -> dict[str, Any]:
    """Title the backend with the version, and predict every task without an annotation and without a prediction of it.

    What is missing is asked of Label Studio, so that a second call goes on where the first was killed. Ends
    early when another version is the champion. A task that fails keeps no prediction and is only counted.

    Raises:
        LabelStudioError: Label Studio refuses.
        LabelStudioUnreachable, QueueUnavailable, RegistryError: try again later.
    """
    settings = shop.settings_of(project)
    project_id = project_id_of(project)
    predicted, failed = 0, list[int]()
    result = {"version": version, "predicted": predicted, "failed": failed, "superseded": True}
    if not _serves(shop, project, version):
        return result
    tell(shop, project, version)
    config = parse_label_config(shop.label_studio.project(project_id)["label_config"])
    model = None
    for batch in _batched(shop.label_studio.unlabelled_tasks(project_id, version), settings.prelabel_batch):
        if not _serves(shop, project, version):
            return {**result, "predicted": predicted}
        model = model or shop.load_model(shop.registry, project, version, settings)
        predictions = predict_tasks(batch, config, model, shop.images, settings)
        pairs = list(zip(batch, predictions, strict=True))
        failed += [task["id"] for task, prediction in pairs if prediction["score"] is None]
        predicted += shop.label_studio.create_predictions(
            project_id,
            [
                {"task": task["id"], **prediction, "model_version": version}
                for task, prediction in pairs
                if prediction["score"] is not None
            ],
        )
        message = f"{predicted} tasks predicted" + (f", {len(failed)} failed." if failed else ".")
        shop.jobs.report(job_id, {"phase": "predicting", "step": predicted + len(failed), "message": message})
    logger.info("project %s: %d tasks predicted with %s, %d failed", project, predicted, version, len(failed))
    return {**result, "predicted": predicted, "superseded": False}


def _batched(tasks: Iterable[dict[str, Any]], size: int) -> Iterator[list[dict[str, Any]]]:
    tasks = iter(tasks)
    while batch := list(islice(tasks, size)):
        yield batch


def _serves(shop: Workshop, project: str, version: str) -> bool:
    champion = shop.registry.champion(project)
    return champion is not None and champion.version == version
