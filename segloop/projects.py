"""What Label Studio said of each project: in memory for requests, in the store for the worker and other hosts."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Final

from pydantic import BaseModel, ConfigDict, ValidationError

from segloop.errors import BadRequest, SegloopError, UnknownProject
from segloop.payloads import project_key
from segloop.project_ids import project_id
from segloop.serving.loading import SingleFlight
from segloop.serving.swap import STORE_PATIENCE_S
from segloop.settings import Settings

if TYPE_CHECKING:
    from segloop.registry import Registry

logger = logging.getLogger(__name__)

#: How old what a process knows of a project may get before the store is asked again, in seconds.
FRESH_S: Final = 5.0
_FILE: Final = "project.json"
_NOTES: Final = "the store has not answered yet; what is known of the project"


class ProjectNotes(BaseModel):
    """A project's project.json: what Label Studio said last. `model_fields_set` says which facts are known.

    `extra_params` are as Label Studio stores them; `backend_url` is the address at which it called this backend. `gone`:
    Label Studio answered that it has no such project, and has not called since. Facts of another release stay in the file.
    """

    model_config = ConfigDict(frozen=True, extra="allow")

    project: str = ""
    label_config: str = ""
    extra_params: Any = None
    backend_url: str = ""
    gone: bool = False

    def facts(self) -> dict[str, object]:
        """The facts that are known, ready for JSON."""
        return self.model_dump(exclude_unset=True)


def read_notes(registry: Registry, project: str) -> ProjectNotes:
    """A project's notes from the store; without any facts, if there are none that can be used.

    Raises:
        RegistryError: the store cannot be read.
    """
    return _notes_of(project, registry.read_json(project, _FILE))


def _notes_of(project: str, stored: object) -> ProjectNotes:
    try:
        return ProjectNotes.model_validate(stored or {})
    except ValidationError as error:
        logger.warning("project %s: %s is left out: %s", project, _FILE, error.errors(include_url=False)[0]["msg"])
        return ProjectNotes()


def _add_notes(registry: Registry, project: str, facts: Mapping[str, object]) -> ProjectNotes:
    """Add facts to a project's notes in the store, and nothing else: what others noted meanwhile stays. All that it has then."""
    added = [ProjectNotes()]

    def with_facts(stored: object) -> dict[str, object]:
        added[0] = _notes_of(project, stored).model_copy(update={"project": project, **facts})
        return added[0].facts()

    registry.change_json(project, _FILE, with_facts)
    return added[0]


def note_gone(registry: Registry, project: str) -> None:
    """Note that Label Studio has no such project, so that it is not asked about it until it calls again.

    Raises:
        RegistryError: the store cannot be written.
    """
    _add_notes(registry, project, {"gone": True})


def own_settings(settings: Settings, project: str, notes: ProjectNotes) -> tuple[Settings, str | None]:
    """The settings with the project's own over them, and None; or as they are, and why its own cannot be used."""
    try:
        return settings.for_project(notes.extra_params), None
    except BadRequest as error:
        logger.warning("project %s: %s", project, error)
        return settings, str(error)


@dataclass(frozen=True)
class _Known:
    """One project's notes, the settings that follow from them or why they don't, when they were read (monotonic
    seconds), and what was noted here that the store may not have yet."""

    notes: ProjectNotes
    settings: Settings
    problem: str | None
    read_at: float
    pending: Mapping[str, object] = field(default_factory=dict)


class Projects:
    """The projects that Label Studio named to this process, or that the store knows. Thread-safe.

    A request reads the store once a project, with the first; later the notes are written and read again aside, so
    that /setup and /webhook wait for no store. What another process was told arrives within `FRESH_S` and a request.
    """

    def __init__(self, registry: Registry, settings: Settings) -> None:
        self._registry = registry
        self._settings = settings
        self._known: dict[str, _Known] = {}
        self._lock = threading.Lock()
        self._reading = SingleFlight()
        self._aside = ThreadPoolExecutor(1, thread_name_prefix="project-notes")

    def key(self, project: str) -> str:
        """The full key of a project that may have come without its timestamp."""
        if "." in project:
            return project
        with self._lock:
            known = [key for key in self._known if project_id(key) == project]
        if known:
            return max(known, key=lambda key: float(key.partition(".")[2] or 0))
        try:
            return self._registry.resolve(project)
        except UnknownProject:
            return project

    def connected(self, project: object) -> str:
        """The key of a project that this backend was connected to, from the key or from its id alone.

        Raises:
            UnknownProject: it never was.
        """
        key = self.key(project_key(project))
        if not self.notes(key).model_fields_set and key not in self._registry.projects():
            raise UnknownProject(
                f"project {project_id(key)} is unknown here: connect this backend to it in Label Studio first."
            )
        return key

    def notes(self, project: str) -> ProjectNotes:
        """What is noted about a project; without any facts, if nothing is or the store is away."""
        return self._of(project).notes

    def settings(self, project: str) -> Settings:
        """The settings with the project's own over them; as they are, if its own cannot be used."""
        return self._of(project).settings

    def problem(self, project: str) -> str | None:
        """Why a project's own settings (its extra params) cannot be used, in a sentence; None if they can."""
        return self._of(project).problem

    def note(self, project: str, **facts: object) -> None:
        """Note facts about a project. They hold at once here; the store has them a moment later."""
        self._of(project)
        with self._lock:
            known = self._known.get(project)
            old = ProjectNotes() if known is None else known.notes
            if old.gone:
                facts["gone"] = False  # it calls, so it is there
            new = ProjectNotes.model_validate({**old.facts(), **facts, "project": project})
            pending = {} if known is None else known.pending
            if new == old and known is not None and not pending:
                return
            known = self._known[project] = replace(self._make(project, new), pending={**pending, **facts})
            self._aside.submit(self._write, project, known)  # under the lock, so that the store gets them in order

    def close(self) -> None:
        """Write what is not yet in the store."""
        self._aside.shutdown(wait=True)

    def _of(self, project: str) -> _Known:
        with self._lock:
            known = self._known.get(project)
            if known is not None and time.monotonic() - known.read_at > FRESH_S:
                known = self._known[project] = replace(known, read_at=time.monotonic())
                self._aside.submit(self._write if known.pending else self._read_again, project, known)
        if known is not None:
            return known
        deadline = time.monotonic() + STORE_PATIENCE_S
        try:
            # in a thread of its own: a request must not wait for a store that hangs
            notes = self._reading.get(project, lambda: read_notes(self._registry, project), _NOTES, deadline)
        except SegloopError as error:
            logger.error("project %s: its notes cannot be read now, and are later: %s", project, error)
            notes = ProjectNotes()
        read = self._make(project, notes)
        with self._lock:
            return self._known.setdefault(project, read)

    def _make(self, project: str, notes: ProjectNotes) -> _Known:
        return _Known(notes, *own_settings(self._settings, project, notes), time.monotonic())

    def _read_again(self, project: str, known: _Known) -> None:
        try:
            notes = read_notes(self._registry, project)
        except SegloopError as error:
            logger.warning("project %s: its notes cannot be read again; the last ones hold: %s", project, error)
            return
        if notes == known.notes:
            return
        read = self._make(project, notes)
        with self._lock:
            if self._holds(project, known):  # else something was noted since
                self._known[project] = read

    def _write(self, project: str, known: _Known) -> None:
        try:
            # the rest of what is known here may be older than what another process has noted since
            written = self._make(project, _add_notes(self._registry, project, known.pending))
        except SegloopError as error:
            logger.error("project %s: its notes cannot be written now, and are later: %s", project, error)
            return
        with self._lock:
            if self._holds(project, known):  # else something was noted since, which is written after this
                self._known[project] = written

    def _holds(self, project: str, known: _Known) -> bool:
        now = self._known.get(project)
        return now is not None and now.notes is known.notes
