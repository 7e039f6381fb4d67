"""The actions of the page's buttons; each writes a line to the log that says who pressed it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Final

from flask import request
from werkzeug.exceptions import Conflict

from segloop.backend import Backend
from segloop.errors import BadRequest, QueueUnavailable
from segloop.registry import Champion
from segloop.suspects import Verdict, found_suspects, keep_verdict

logger = logging.getLogger(__name__)

#: The notice that a page shows after a button was pressed.
NOTICES: Final = {
    "queued": "The training is queued.",
    "joined": "A training is under way; this joins it, and what changed since it began follows in another.",
    "stopping": "The training is asked to stop; it ends within seconds, in SageMaker within minutes.",
    "nothing": "There is no training to stop any more.",
    "promoted": "The version is served from now on; predictions of unlabelled tasks follow.",
    "rolled-back": "The version served before is served again; predictions of unlabelled tasks follow.",
    "called-right": "Noted: this label is right. It is not shown again unless it is changed.",
    "called-wrong": "Noted: this label is wrong. Correct it in Label Studio.",
}
#: The notice of each verdict on a suspected label.
VERDICT_NOTICES: Final[dict[Verdict, str]] = {"right": "called-right", "wrong": "called-wrong"}

Action = Callable[[str, Mapping[str, str]], str]


class Actions:
    """The buttons. Each takes a project's key and the form, and returns the name of its notice.

    `cannot_train` says why a project cannot be trained; None where it can, or where that is not known.
    """

    def __init__(self, backend: Backend, cannot_train: Callable[[str], str | None]) -> None:
        self._backend = backend
        self._cannot_train = cannot_train

    def all(self) -> dict[str, Action]:
        """The actions by their names in the address."""
        return {
            "train": self.train,
            "cancel": self.cancel,
            "promote": self.promote,
            "rollback": self.rollback,
            "verdict": self.verdict,
        }

    @staticmethod
    def user() -> str:
        """The user of basic auth; "somebody on this machine" while no password is set."""
        given = request.authorization
        return (given.username if given else None) or "somebody on this machine"

    def train(self, project: str, form: Mapping[str, str]) -> str:
        """Queue a full retrain, or join the one under way; Conflict where too little is labelled for any."""
        why_not = self._cannot_train(project)
        if why_not:
            raise Conflict(why_not)
        answer = self._backend.start_training(project)
        self._log(project, f"started a training: job {answer['job']} {answer['status']}")
        return str(answer["status"])

    def cancel(self, project: str, form: Mapping[str, str]) -> str:
        """Ask the live retrain to stop for good."""
        jobs = self._backend.jobs()
        job = jobs.ask_stop(project) if jobs.live_retrain(project) else None
        self._log(project, f"asked job {job} to stop")
        return "stopping" if job else "nothing"

    def promote(self, project: str, form: Mapping[str, str]) -> str:
        """Serve a version."""
        self._check_generation(project, form)
        version = form.get("version", "")
        champion = self._backend.registry.promote(project, version, f"Promoted by {self.user()} on the status page.")
        self._log(project, f"promoted {champion.version}")
        self._refresh(project, champion.version)
        return "promoted"

    def rollback(self, project: str, form: Mapping[str, str]) -> str:
        """Serve the version again that was served before."""
        served = self._check_generation(project, form)
        if served is None or not served.previous:
            raise Conflict("No version was served before this one, so there is nothing to roll back to.")
        champion = self._backend.registry.rollback(project, f"Rolled back by {self.user()} on the status page.")
        self._log(project, f"rolled back to {champion.version}")
        self._refresh(project, champion.version)
        return "rolled-back"

    def verdict(self, project: str, form: Mapping[str, str]) -> str:
        """Keep what somebody said of a suspected label; Conflict where a newer training has found others meanwhile."""
        verdict = next((one for one in VERDICT_NOTICES if one == form.get("verdict")), None)
        if verdict is None:
            raise BadRequest(f"verdict={form.get('verdict', '')[:20]!r} is neither right nor wrong.")
        registry, number = self._backend.registry, form.get("suspect", "")
        found = found_suspects(registry, project)
        if found is None or found.version != form.get("version"):
            raise Conflict(
                "A newer training has looked for suspected labels since this page was loaded; load it again."
            )
        suspects = found.suspects
        known = [str(place) for place in range(len(suspects.suspects))]
        if number not in known:
            raise BadRequest(f"suspect={number[:20]!r}: {found.version} has no suspected label of this number.")
        suspect = suspects.suspects[int(number)]
        image = suspects.image_of(suspect)
        keep_verdict(registry, project, image, suspect, verdict)
        self._log(project, f"called a label of task {image.task} ({suspect.labelled}) {verdict}")
        return VERDICT_NOTICES[verdict]

    def _check_generation(self, project: str, form: Mapping[str, str]) -> Champion | None:
        """The champion; Conflict where the page was loaded under another one."""
        champion = self._backend.registry.champion(project)
        if form.get("generation") != str(champion.generation if champion else 0):
            raise Conflict("Another version was promoted since this page was loaded; load it again.")
        return champion

    def _refresh(self, project: str, version: str) -> None:
        """Queue the predictions of the unlabelled tasks; while Redis is away, the next reconciliation queues them."""
        try:
            self._backend.jobs().enqueue_prelabel(project, version)
        except QueueUnavailable as error:
            logger.warning("project %s: predictions of %s follow with the reconciliation: %s", project, version, error)

    def _log(self, project: str, what: str) -> None:
        logger.info("project %s: %s (%s) %s on the status page", project, self.user(), request.remote_addr, what)
