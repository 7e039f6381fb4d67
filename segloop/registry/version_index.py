"""The names of all projects' versions in one object, for who wants all of them: one read, however many projects there are.

The versions themselves are the truth. A store of an earlier segloop has no such list; it is read through once, and the list is
made. A version is in the list when `Registry.add` returns.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any, Final

from segloop.errors import RegistryError, UnknownProject
from segloop.registry.store import ATTEMPTS, PAUSE_S, Blob, Store
from segloop.registry.versions import by_number, check_project, dump_json, project_order
from segloop.versions import version_number

VERSIONS_FILE: Final = "versions.json"


class VersionIndex:
    """versions.json at the root of a store: the key of each project, and the names of its versions.

    Args:
        read_through: reads the names of each project's versions from the versions themselves, where there is no list.
    """

    def __init__(self, store: Store, read_through: Callable[[], dict[str, list[str]]]) -> None:
        self._store, self._read_through = store, read_through

    def names(self) -> list[str]:
        """The names of all versions, by project and oldest first; see `Registry.all_version_names`."""
        blob = self._store.read(VERSIONS_FILE)
        listed = _parsed(blob)
        if listed is None:
            listed = self._read_through()
            # where another was faster, theirs is as good
            self._store.write_if(VERSIONS_FILE, dump_json(listed, VERSIONS_FILE), blob.tag if blob else None)
        return [name for key in sorted(listed, key=project_order) for name in sorted(listed[key], key=by_number)]

    def note(self, project: str, version: str) -> None:
        """Have a version in the list.

        Raises:
            RegistryError: others kept writing.
        """
        for _ in range(ATTEMPTS):
            blob = self._store.read(VERSIONS_FILE)
            listed = _parsed(blob)
            if listed is None:
                # not left to whoever asks: what they read may be older than this version
                listed = self._read_through()
            elif version in listed.get(project, ()):
                return
            names = {*listed.get(project, ()), version}
            changed = {**listed, project: sorted(names, key=by_number)}
            if self._store.write_if(VERSIONS_FILE, dump_json(changed, VERSIONS_FILE), blob.tag if blob else None):
                return
            time.sleep(PAUSE_S)
        raise RegistryError(f"{VERSIONS_FILE} kept changing; too many processes write versions at once")


def _parsed(blob: Blob | None) -> dict[str, list[str]] | None:
    """The list of all versions; None where there is none, or something else, and it is then made anew."""
    try:
        found: Any = json.loads(blob.data) if blob else None
        return {
            check_project(key): [str(name) for name in names if version_number(name)] for key, names in found.items()
        }
    except (ValueError, TypeError, AttributeError, UnknownProject):
        return None
