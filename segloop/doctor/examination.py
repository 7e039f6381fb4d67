"""The whole examination: every check in order. Each has a time limit, and none can stop the others."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from concurrent.futures import Future, wait
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from threading import Thread
from typing import Any, Final

from segloop.doctor import connection, labels, machine, pictures, server
from segloop.doctor.findings import Finding, failure, ok, skipped, warning
from segloop.errors import LabelStudioError, LabelStudioUnreachable, SegloopError
from segloop.labelstudio import LabelStudio, Refusals
from segloop.labelstudio.api import same_url
from segloop.labelstudio.entries import BackendEntry, ProjectEntry, StorageEntry, TaskEntry, WebhookEntry
from segloop.project_ids import project_id
from segloop.projects import read_notes
from segloop.registry import open_registry
from segloop.settings import Settings

logger = logging.getLogger(__name__)

#: Longest time of a check, in seconds; that of /predict has as long as Label Studio gives it.
LIMIT_S: Final = 30.0
_PREDICT_LIMIT_S: Final = 160.0
#: Without a project named, at most so many of those that the store knows are looked at, the newest ones.
_PROJECTS: Final = 20

#: A check finds one thing, or several, each under a name of its own.
Check = Callable[[], Finding | dict[str, Finding]]


@dataclass(frozen=True)
class _Facts:
    """What Label Studio says of a project."""

    project: ProjectEntry
    backends: tuple[BackendEntry, ...]
    webhooks: tuple[WebhookEntry, ...]
    refusals: Refusals
    task: TaskEntry | None
    storages: tuple[StorageEntry, ...]
    #: Where Label Studio knows this segloop; empty where that can't be told.
    url: str

    @property
    def own(self) -> BackendEntry | None:
        return next((backend for backend in self.backends if backend.url == self.url), None)


class Examination:
    """Runs the checks. `findings` holds what they found so far; `announce` is called with the name of each before it."""

    def __init__(self, settings: Settings, announce: Callable[[str], None] = lambda check: None) -> None:
        self.findings: list[Finding] = []
        self._settings = settings
        self._announce = announce

    def run(self, project: int | None = None) -> list[Finding]:
        """Check this machine, Label Studio, and one project, or every project that the store knows."""
        settings = self._settings
        self._check("settings", machine.names)
        self._check("codec", machine.installation)
        self._check("store", lambda: machine.store(settings))
        self._check("disk", lambda: machine.disk(settings))
        self._check("gpu", lambda: machine.gpu(settings))
        self._check("redis", lambda: machine.queue(settings))
        self._check("access", lambda: connection.access(settings))
        with closing(LabelStudio.from_settings(settings)) as api:
            if self._label_studio(api):
                for number in [project] if project is not None else self._known():
                    self._project(api, number, named=project is not None)
            elif project is not None:
                self._add(skipped("Label Studio cannot be asked: see above", project=project), "project")
        if not any(finding.check == "server" for finding in self.findings):
            self._check("server", lambda: server.find_server(settings)[1])
        return self.findings

    def _label_studio(self, api: LabelStudio) -> bool:
        """Whether Label Studio answers and accepts this token."""
        release = self._ask("label-studio", api.release, _ADDRESS_FIX)
        if release is None:
            return False
        self._add(ok(f"Label Studio answers at {api.url}"), "label-studio")
        self._add(connection.version_skew(release), "label-studio-version")
        before = len(self.findings)
        self._check("token", lambda: token(self._settings, api))
        return all(finding.status in ("ok", "warning") for finding in self.findings[before:])

    def _known(self) -> list[int]:
        try:
            keys = open_registry(self._settings).projects()
        except SegloopError:
            return []  # the check of the store has said so
        return list(dict.fromkeys(int(project_id(key)) for key in keys))[-_PROJECTS:]

    def _project(self, api: LabelStudio, number: int, *, named: bool) -> None:
        before = len(self.findings)
        project = self._ask("project", lambda: ProjectEntry.model_validate(api.projects.get(number)), _PROJECT_FIX)
        if project is None and not named:
            del self.findings[before:]  # the store keeps the versions of projects that are deleted
        if project is not None:
            self._add(ok(repr(project.title)), "project")
            facts = self._ask("backend", lambda: self._facts(api, number, project), _ADDRESS_FIX)
            if facts is not None:
                self._connection(facts, number)
                self._running(facts)
                self._pictures(api, facts)
                self._annotations(api, project)
        self.findings[before:] = [replace(finding, project=number) for finding in self.findings[before:]]

    def _facts(self, api: LabelStudio, number: int, project: ProjectEntry) -> _Facts:
        backends = tuple(BackendEntry.model_validate(entry) for entry in api.backends.all(number))
        url = self._own_url(backends, project.key)
        task = api.tasks.first(number)
        asked = url or self._settings.public_url or server.local_address(self._settings)
        return _Facts(
            project,
            backends,
            tuple(WebhookEntry.model_validate(entry) for entry in api.webhooks.all(number)),
            api.backends.refusals(number, asked.rstrip("/")),
            None if task is None else TaskEntry.model_validate(task),
            tuple(StorageEntry.model_validate(entry) for entry in api.storages.sources(number)),
            url,
        )

    def _own_url(self, backends: Sequence[BackendEntry], key: str) -> str:
        """The address of this backend, as the worker finds it: the configured one, else the one that Label Studio called, else
        the only one."""
        url = self._settings.public_url
        if not url:
            try:
                url = read_notes(open_registry(self._settings), key).backend_url
            except SegloopError:
                url = ""
        urls = [backend.url for backend in backends]
        own = [listed for listed in urls if url and same_url(listed, url)]
        only = urls if len(urls) == 1 and not self._settings.public_url else []
        return (own or only or [""])[-1]

    def _connection(self, facts: _Facts, number: int) -> None:
        settings = self._settings
        config = facts.project.label_config
        asked = facts.url or settings.public_url or server.local_address(settings)
        self._check("label-config", lambda: connection.label_config(config))
        self._check("smart-tags", lambda: connection.smart_tags(config))
        self._check("live-predictions", lambda: connection.live_predictions(facts.project))
        self._check("backend-address", lambda: connection.backend_address(asked, facts.refusals))
        self._check("private-addresses", lambda: connection.private_addresses(asked, facts.refusals))
        self._check("backend", lambda: connection.entry(facts.backends, facts.url, settings.public_url, number))
        own = facts.own
        if own is None:
            self._add(skipped("no backend is connected: see backend"), *_OF_A_BACKEND)
            return
        self._check("title", lambda: connection.title(own, facts.project))
        self._check("webhook", lambda: connection.webhook_there(facts.webhooks, facts.url, number))
        webhook = connection.own_webhook(facts.webhooks, facts.url)
        if webhook is None:
            self._add(skipped("there is no webhook: see webhook"), *_OF_A_WEBHOOK)
        else:
            self._check("webhook-secret", lambda: connection.webhook_secret(webhook, settings, number))
            self._check("webhook-actions", lambda: connection.webhook_actions(webhook, number))

    def _running(self, facts: _Facts) -> None:
        """Check the server that answers for the project, and the version that it answers with."""
        settings, own, key = self._settings, facts.own, facts.project.key
        found = self._ask("server", lambda: server.find_server(settings, facts.url), "see segloop's log")
        running = None
        if found is not None:
            running, finding = found
            self._add(finding, "server")
        if own is not None:
            self._check("served-version", lambda: connection.served_version(own, self._champion(key)))
        config, answers = facts.project.label_config, own.model_version if own else ""
        self._check("engine", lambda: machine.engine(settings, open_registry(settings), key, config, answers))
        if running is None or own is None:
            self._add(skipped("there is no server to ask: see above"), *(f"{what}-time" for what in server.LIMITS))
            return
        self._check("health-time", lambda: server.timed("health", running, settings, "GET"))
        if self._failed("webhook", "webhook-secret"):
            self._add(skipped("Label Studio's events do not reach segloop: see above"), "webhook-time")
        else:
            webhook = connection.own_webhook(facts.webhooks, facts.url)
            event, headers = {"action": server.NO_ACTION, "project": key}, webhook.headers if webhook else {}
            ask = partial(server.timed, "webhook", running, settings, "POST", json=event, headers=headers)
            self._check("webhook-time", ask)
        if self._failed("label-config"):
            self._add(skipped("see label-config"), "setup-time", "predict-time")
            return
        self._check("setup-time", lambda: server.setup_time(running, settings, facts.project, own))
        self._check(
            "predict-time",
            lambda: server.predict_time(running, settings, facts.project, facts.task),
            limit_s=_PREDICT_LIMIT_S,
        )

    def _failed(self, *checks: str) -> bool:
        """Whether one of these checks failed for the current project."""
        return any(
            finding.check in checks and finding.status == "failure" and finding.project is None
            for finding in self.findings
        )

    def _champion(self, key: str) -> str | None:
        champion = open_registry(self._settings).champion(key)
        return None if champion is None else champion.version

    def _pictures(self, api: LabelStudio, facts: _Facts) -> None:
        config = facts.project.label_config
        self._check("image", lambda: pictures.image(self._settings, config, facts.task))
        self._check("s3-region", lambda: pictures.s3_region(facts.storages))
        self._check("s3-cors", lambda: pictures.s3_cors(self._settings, api, facts.storages, config, facts.task))

    def _annotations(self, api: LabelStudio, project: ProjectEntry) -> None:
        pages, annotators = api.tasks.annotated_pages(project.id), self._settings.annotators
        self._check("labels", lambda: labels.known(project.label_config, pages, annotators))

    # -- one check

    def _add(self, finding: Finding, *checks: str) -> None:
        self.findings += (replace(finding, check=check) for check in checks)

    def _check(self, check: str, question: Check, *, limit_s: float = LIMIT_S) -> None:
        found = self._ask(check, question, "", limit_s)
        if found is not None:
            for name, finding in (found if isinstance(found, dict) else {check: found}).items():
                self._add(finding, name)

    def _ask(self, check: str, question: Callable[[], Any], fix: str, limit_s: float = LIMIT_S) -> Any:
        """The answer to a question; None, and a failure of `check`, if there is none in time."""
        self._announce(check)
        answer: Future[Any] = Future()
        # a daemon: what never answers must not hold up the end of the command
        Thread(target=_answer, args=(question, answer), name=f"doctor-{check}", daemon=True).start()
        wait([answer], limit_s)
        if not answer.done():
            found = failure(
                f"no answer within {limit_s:g} s", fix or "see what it waits for: the network, or a busy disk"
            )
        elif (error := answer.exception()) is None:
            return answer.result()
        elif isinstance(error, SegloopError):
            found = failure(str(error), fix or "see the text")
        else:
            text = f"the check itself failed ({type(error).__name__})"
            found = failure(text, "report it with the log of SEGLOOP_LOG_LEVEL=DEBUG")
        logger.debug("%s: %s", check, found.text, exc_info=answer.exception() if answer.done() else None)
        self._add(found, check)
        return None


def _answer(question: Callable[[], Any], answer: Future[Any]) -> None:
    try:
        answer.set_result(question())
    except BaseException as error:  # noqa: BLE001 - it becomes a finding
        answer.set_exception(error)


def token(settings: Settings, api: LabelStudio) -> Finding:
    """Whether Label Studio accepts the API key, and as what."""
    key = settings.label_studio_api_key.get_secret_value()
    if not key:
        return failure(
            "LABEL_STUDIO_API_KEY is not set: segloop can read no uploaded image and train on nothing", _KEY_FIX
        )
    personal = key.count(".") == 2
    try:
        user = api.whoami()
    except LabelStudioUnreachable:
        raise
    except LabelStudioError as error:
        if personal:
            return failure(str(error), _KEY_FIX)
        text = (
            "Label Studio refuses the legacy token: it is wrong, or legacy tokens are off, as they are in a fresh "
            f"Label Studio 1.23 ({error})"
        )
        return failure(text, f"{_KEY_FIX}; or allow legacy tokens under Organization > Access Token Settings")
    if not personal:
        text = f"the legacy token of {user} is accepted; Label Studio switches such tokens off by default"
        return warning(text, "use a personal access token: Account & Settings > Personal Access Token")
    return ok(f"the personal access token of {user} is accepted")


_KEY_FIX: Final = (
    "create a personal access token in Label Studio under Account & Settings, set LABEL_STUDIO_API_KEY to it, "
    "and restart segloop"
)
_ADDRESS_FIX: Final = "see that Label Studio runs, and that LABEL_STUDIO_URL is its address as this machine reaches it"
_PROJECT_FIX: Final = "see the project's number in its address in the browser, and that the token's user may see it"
_OF_A_WEBHOOK: Final = ("webhook-secret", "webhook-actions")
_OF_A_BACKEND: Final = ("title", "webhook", *_OF_A_WEBHOOK)
