"""segloop under label-studio-ml's own servers and tools: 1.0.9 (PyPI) and 2.x (its repository)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any

from label_studio_ml.model import LabelStudioMLBase

from segloop.backend import Backend
from segloop.errors import BadRequest
from segloop.payloads import START_TRAINING, parse_event, parse_predict, parse_setup, project_key
from segloop.settings import load_settings

if TYPE_CHECKING:
    from segloop.responses import EventResponse
    from segloop.serving.predict import Prediction, Task


@cache
def backend() -> Backend:
    """The one backend of this process: label-studio-ml makes a model object per request, the networks stay."""
    return Backend.from_settings(load_settings())


class SegmentationBackend(LabelStudioMLBase):  # type: ignore[misc]
    """`segloop.backend` in the shape of label-studio-ml.

    1.0.9 constructs it with `label_config` and `train_output` and calls `fit(tasks, workdir, event=, data=)`;
    2.x constructs it with `project_id` and `label_config` and calls `fit(event, data)`. Both are accepted.
    """

    #: 1.0.9 passes only these on to `fit`, and leaves the training button out of its own list.
    TRAIN_EVENTS = (
        *LabelStudioMLBase.TRAIN_EVENTS,
        "START_TRAINING",
        "ANNOTATIONS_CREATED",
        "ANNOTATIONS_DELETED",
    )

    def __init__(self, project_id: str | None = None, label_config: str | None = None, **kwargs: Any) -> None:
        self._project = project_id
        self._config = label_config
        super().__init__(project_id=project_id, label_config=label_config, **kwargs)

    def setup(self) -> None:
        """Give 2.x the version that answers; 1.0.9 never calls this."""
        if self._config and self._project and hasattr(self, "set"):
            request = parse_setup({"project": self._project, "schema": self._config})
            self.set("model_version", backend().setup(request)["model_version"])

    def predict(
        self, tasks: Sequence[Task], context: Mapping[str, object] | None = None, **kwargs: Any
    ) -> list[Prediction]:
        """One prediction per task, in order: `{"result", "score", "model_version"}`.

        Raises:
            BadRequest: the tasks, the label config or the context cannot be used.
        """
        tasks = list(tasks)
        body = {
            "tasks": tasks,
            "project": self._project_of(tasks, kwargs),
            "label_config": self._config,
            "params": {"context": context},
        }
        return backend().predict(parse_predict(body))["results"]

    def fit(self, *args: Any, **kwargs: Any) -> EventResponse:
        """Handle an event: `fit(event, data)`, or `fit(tasks, workdir, event=..., data=...)`, or, from 1.0.9's
        route `/train`, `fit(tasks, workdir)`. Queues a retrain, or counts; returns what `/webhook` answers.

        Raises:
            BadRequest: the event names no project.
        """
        first = args[0] if args else None
        event = kwargs.get("event") or (first if isinstance(first, str) else START_TRAINING)
        data = kwargs.get("data")
        if data is None:
            data = args[1] if len(args) > 1 and isinstance(args[1], Mapping) else {}
        if data.get("project") is None:
            tasks = [] if isinstance(first, str) or first is None else list(first)
            data = {**data, "project": self._project_of(tasks, kwargs)}
        return backend().fit(parse_event({"label_config": self._config, **data, "action": event}))

    def _project_of(self, tasks: Sequence[Task], kwargs: Mapping[str, object]) -> str:
        for value in (kwargs.get("project"), self._project, *(task.get("project") for task in tasks[:1])):
            if value not in (None, ""):
                return project_key(value)
        raise BadRequest("no project: neither project_id nor the first task's 'project' says which one this is.")
