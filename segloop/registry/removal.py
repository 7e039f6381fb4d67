"""Which versions' models were removed: a small file of each project."""

from __future__ import annotations

import time

from segloop.errors import ModelRemoved, RegistryError
from segloop.registry.store import ATTEMPTS, PAUSE_S, Store
from segloop.registry.versions import check_project, dump_json, parse_json

REMOVED_FILE = "removed.json"


class RemovedModels:
    """removed.json of every project of a store: version -> when its model was removed (ISO 8601)."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def of(self, project: str) -> dict[str, str]:
        """The removed versions of one project.

        Raises:
            RegistryError: the file is not what was written.
        """
        return self._read(project)[0]

    def check(self, project: str, version: str) -> None:
        """Raise if a version's model was removed.

        Raises:
            ModelRemoved: it is.
        """
        if when := self.of(project).get(version):
            raise ModelRemoved(
                f"The model of version {version} was removed on {when[:10]} (segloop versions prune): "
                "it can be neither served nor begun with; its figures stay."
            )

    def mark(self, project: str, version: str, when: str | None) -> None:
        """Note when a version's model was removed; None notes that it is there again.

        Raises:
            RegistryError: others kept writing, or the file is not what was written.
        """
        for _ in range(ATTEMPTS):
            found, tag = self._read(project)
            found.pop(version, None)
            data = dump_json({**found, version: when} if when else found, REMOVED_FILE)
            if self._store.write_if(f"{project}/{REMOVED_FILE}", data, tag):
                return
            time.sleep(PAUSE_S)
        raise RegistryError(f"{project}/{REMOVED_FILE} kept changing; try again")

    def _read(self, project: str) -> tuple[dict[str, str], str | None]:
        key = f"{check_project(project)}/{REMOVED_FILE}"
        blob = self._store.read(key)
        if blob is None:
            return {}, None
        found = parse_json(blob.data, key)
        if not isinstance(found, dict) or not all(isinstance(when, str) for when in found.values()):
            raise RegistryError(f"{key} does not map versions to times")
        return found, blob.tag
