"""A project's ledger in the store, where every host reads it, and since when which share of its tasks is blind."""

from __future__ import annotations

import logging
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

from pydantic import ValidationError

from segloop.ledger.ledger import Ledger

if TYPE_CHECKING:
    from segloop.dataset import JsonStore

_log = logging.getLogger(__name__)

_LEDGER: Final = "ledger.json"
_BLIND: Final = "blind.json"


def read_ledger(store: JsonStore, project: str) -> Ledger | None:
    """The ledger that was stored last; None if there is none that can be used.

    Raises:
        RegistryError: the store cannot be read.
    """
    try:
        kept = store.read_json(project, _LEDGER)
        return None if kept is None else Ledger.model_validate(kept)
    except ValidationError as error:
        _log.warning("project %s: %s is left out: %s", project, _LEDGER, error.errors(include_url=False)[0]["msg"])
        return None


def write_ledger(store: JsonStore, project: str, ledger: Ledger) -> None:
    """Store a ledger, unless the same is there.

    Raises:
        RegistryError: the store cannot be written.
    """
    known = read_ledger(store, project)
    if known is None or known.model_copy(update={"made_at": ledger.made_at}) != ledger:
        store.write_json(project, _LEDGER, ledger.model_dump(mode="json"))


class BlindShares:
    """Which share of a project's tasks was blind when: what the setting `blind_share` was, as a worker saw it."""

    def __init__(self, store: JsonStore, project: str) -> None:
        self._store, self._project = store, project
        kept = store.read_json(project, _BLIND) or {"shares": []}
        self._shares: list[tuple[str, float]] = [(str(since), float(share)) for since, share in kept["shares"]]

    def note(self, share: float) -> None:
        """Note the share that holds from now on."""
        if share != (self._shares[-1][1] if self._shares else 0.0):
            self._shares.append((datetime.now(UTC).isoformat(), share))
            self._store.write_json(self._project, _BLIND, {"shares": self._shares})

    @property
    def most(self) -> float:
        """The largest share that ever held."""
        return max((share for _, share in self._shares), default=0.0)

    def at(self, moment: str | None) -> float:
        """The share at a moment, ISO 8601 in UTC; the latest where it is None."""
        held = [share for since, share in self._shares if moment is None or since <= moment]
        return held[-1] if held else 0.0
