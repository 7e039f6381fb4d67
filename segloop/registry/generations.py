"""The generations of all champion pointers in one object: who follows many projects asks for it, and for a pointer when it moved.

The pointers are the truth. An entry is written after its pointer, so one whose writer died in between is late, never wrong:
who follows looks at the pointers themselves too, now and then.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from segloop.errors import RegistryError, UnknownProject
from segloop.registry.store import ATTEMPTS, PAUSE_S, Blob, Store
from segloop.registry.versions import check_project, dump_json

log = logging.getLogger(__name__)

GENERATIONS_FILE: Final = "champions.json"


@dataclass(frozen=True)
class Generations:
    """The generation of each project's champion at one moment; empty where no pointer was written by this segloop or a later one."""

    of: Mapping[str, int] = field(default_factory=dict)
    blob: Blob | None = field(default=None, repr=False)


class GenerationIndex:
    """champions.json at the root of a store: the key of each project, and the generation of its champion."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def read(self, known: Generations | None = None) -> Generations:
        """The generations now, in one call of the store; `known` itself where nothing changed, which S3 then does not send again."""
        if known is not None and known.blob is not None:
            blob = self._store.reread(GENERATIONS_FILE, known.blob)
            if blob is known.blob:
                return known
        else:
            blob = self._store.read(GENERATIONS_FILE)
        return Generations(_parsed(blob), blob)

    def note(self, project: str, generation: int) -> None:
        """Have a pointer's generation in the index. A store that refuses costs those who follow some seconds, and no promotion."""
        try:
            for _ in range(ATTEMPTS):
                now = self.read()
                if now.of.get(project) == generation:
                    return
                data = dump_json({**now.of, project: generation}, GENERATIONS_FILE)
                if self._store.write_if(GENERATIONS_FILE, data, now.blob.tag if now.blob else None):
                    return
                time.sleep(PAUSE_S)
            log.warning("%s kept changing: servers find the champion of project %s later", GENERATIONS_FILE, project)
        except RegistryError as error:
            log.warning("project %s: servers find its champion later: %s", project, error)


def _parsed(blob: Blob | None) -> dict[str, int]:
    """The entries; none of what is no index, which the next promotion then makes anew."""
    try:
        found: Any = json.loads(blob.data) if blob else {}
        return {check_project(key): int(generation) for key, generation in found.items()}
    except (ValueError, TypeError, AttributeError, UnknownProject):
        return {}
