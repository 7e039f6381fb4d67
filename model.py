"""segloop under label-studio-ml's own servers and tools: 1.0.9 (PyPI) and 2.x (its repository)."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any

import label_studio_ml.api
import label_studio_ml.model
from flask import has_request_context
from label_studio_ml.model import LabelStudioMLBase
from werkzeug.exceptions import HTTPException

from segloop.backend import Backend
from segloop.errors import BadRequest, SegloopError
from segloop.payloads import START_TRAINING, parse_event, parse_predict, parse_setup, project_key
from segloop.settings import load_settings
from segloop.web.refusals import refusal

if TYPE_CHECKING:
    from segloop.responses import EventResponse
    from segloop.serving.predict import NotNow, Prediction, Task


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
        #: The version that gave the last predictions; empty before.
        self.answered = ""
        super().__init__(project_id=project_id, label_config=label_config, **kwargs)

    def setup(self) -> None:
        """Give 2.x the version that answers, with every request; 1.0.9 never calls this."""
        if self._config and self._project and hasattr(self, "set"):
            self.set("model_version", self.version())

    def version(self) -> str:
        """The version that answers for the project: what `/setup` says.

        Raises:
            BadRequest: the label config or the project cannot be used.
        """
        known = backend().projects
        body = {"project": self._project, "schema": self._config}
        # they come apart from this, if at all: what was noted stays
        noted = known.notes(known.key(project_key(self._project))).extra_params
        return backend().setup(parse_setup({**body, "extra_params": noted}))["model_version"]

    def set_extra_params(self, extra_params: object) -> None:
        """Take the project's own settings: 2.x calls this from `/setup`, where Label Studio sends any.

        Raises:
            BadRequest: the project is none.
        """
        known = backend().projects
        known.note(known.key(project_key(self._project)), extra_params=extra_params)
        if hasattr(self, "set"):
            # the library keeps strings, and its property `extra_params` reads them as JSON
            self.set("extra_params", extra_params if isinstance(extra_params, str) else json.dumps(extra_params))

    def predict(
        self, tasks: Sequence[Task], context: Mapping[str, object] | None = None, **kwargs: Any
    ) -> list[Prediction | NotNow]:
        """One prediction per task, in order: `{"result", "score", "model_version"}`, or `{}` for one that cannot be
        predicted now.

        Raises:
            BadRequest: the tasks, the label config or the context cannot be used.
            ModelUnavailable, RegistryError: the version that the project serves cannot be loaded now.
        """
        tasks = list(tasks)
        body = {
            "tasks": tasks,
            "project": self._project_of(tasks, kwargs),
            "label_config": self._config,
            "params": {"context": context},
        }
        answer = backend().predict(parse_predict(body))
        self.answered = answer["model_version"]
        return answer["results"]

    def fit(self, *args: Any, **kwargs: Any) -> EventResponse:
        """Handle an event: `fit(event, data)`, or `fit(tasks, workdir, event=..., data=...)`, or, from 1.0.9's
        route `/train`, `fit(tasks, workdir)`. Queues a retrain, or counts; returns what `/webhook` answers.

        Raises:
            BadRequest: the event names no project.
            QueueUnavailable: a training was asked for and Redis is away.
            HTTPException: the same within a request, as a JSON answer: 2.x would answer with a page of HTML.
        """
        try:
            return self._fit(args, kwargs)
        except SegloopError as error:
            if not has_request_context():
                raise
            answer = HTTPException(str(error), refusal(str(error), error.http_status))
            answer.code = error.http_status
            raise answer from error

    def _fit(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> EventResponse:
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


if hasattr(label_studio_ml.model, "LabelStudioMLManager"):

    class Manager(label_studio_ml.model.LabelStudioMLManager):  # type: ignore[misc]
        """1.0.9's manager, by which `/setup` and `/predict` name the same version: the one that answers.

        The library's own calls every version INITIAL in `/setup`, so that Label Studio takes each prediction for an old
        one and stores another with every *Retrieve Predictions*. It also predicts with the label config of whichever
        project was set up last.
        """

        @classmethod
        def fetch(
            cls, project: str | None = None, label_config: str | None = None, *args: object, **kwargs: object
        ) -> Any:
            """A model of the project, and the version that answers for it."""
            made = cls.model_class(project_id=project, label_config=label_config)
            return label_studio_ml.model.ModelWrapper(made, made.version())

        @classmethod
        def predict(
            cls,
            tasks: Sequence[Task],
            project: str | None = None,
            label_config: str | None = None,
            force_reload: bool = False,
            try_fetch: bool = True,
            **params: Any,
        ) -> tuple[list[Prediction | NotNow], Any]:
            """The predictions, and the model that gave them."""
            made = cls.model_class(project_id=project, label_config=label_config)
            results = made.predict(tasks, **params)
            return results, label_studio_ml.model.ModelWrapper(made, made.answered)

    label_studio_ml.api._manager = Manager()
