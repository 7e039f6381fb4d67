"""Which version each project serves: its champion pointer, replaced atomically and conditionally.

A version's files are verified before the pointer names it.
"""

from __future__ import annotations

import dataclasses
import logging
import time
from collections.abc import Callable, Collection, Sequence
from datetime import UTC, datetime

from segloop.errors import ChampionMoved, ModelRemoved, RegistryError
from segloop.project_ids import project_id
from segloop.registry.generations import GenerationIndex, Generations
from segloop.registry.removal import RemovedModels
from segloop.registry.store import ATTEMPTS, PAUSE_S, Store
from segloop.registry.versions import (
    Champion,
    by_number,
    check_project,
    dump_json,
    parse_champion,
    parse_json,
    rest_of_champion,
)

log = logging.getLogger(__name__)

CHAMPION_FILE = "champion.json"
# Served versions that the pointer remembers for rollbacks: it is read every second, so it stays small.
_REMEMBERED = 50


class Champions:
    """The pointers of all projects.

    Args:
        verify: raises RegistryError where a file of a version of a project is missing, cut or damaged.
    """

    def __init__(self, store: Store, removed: RemovedModels, verify: Callable[[str, str], None]) -> None:
        self._store, self._removed, self._verify = store, removed, verify
        self._index = GenerationIndex(store)

    def generations(self, known: Generations | None = None) -> Generations:
        """See `Registry.generations`."""
        return self._index.read(known)

    def current(self, project: str) -> Champion | None:
        """The version that the project serves, or None; one small read."""
        return self._read(project)[0]

    def promote(self, project: str, version: str, reason: str, instead_of: int | None = None) -> Champion:
        """Make a version the champion; see `Registry.promote`."""

        def chosen(current: Champion | None) -> str:
            generation = 0 if current is None else current.generation
            is_served = current is not None and current.version == version
            if instead_of is not None and generation != instead_of and not is_served:
                served = "no version" if current is None else current.version
                raise ChampionMoved(
                    f"project {project_id(project)} now serves {served}, changed meanwhile; compare {version} again"
                )
            return version

        return self._swap(project, chosen, reason)

    def rollback(self, project: str, reason: str) -> Champion:
        """Make the version that was served before the champion the champion again. A second call goes one further back.

        Raises:
            VersionNotFound, ModelRemoved: there is nothing of it left to serve.
            RegistryError: there is none, its files are damaged, or somebody else changed the champion meanwhile.
        """
        seen: list[int] = []

        def earlier(current: Champion | None) -> str:
            if current is None or not current.previous:
                raise RegistryError(
                    f"project {project_id(project)} served no version before this one; nothing to roll back to"
                )
            seen.append(current.generation)
            if seen[0] != current.generation:
                raise RegistryError(
                    f"project {project_id(project)} now serves {current.version}, changed meanwhile; look again"
                )
            return current.previous[-1]

        return self._swap(project, earlier, reason, back=True)

    def is_whole(self, project: str) -> bool:
        """Whether the pointer is there and can be read; what is wrong with it is logged."""
        try:
            return self.current(project) is not None
        except RegistryError as error:
            log.warning("project %s: %s", project, error)
            return False

    def make_anew(self, project: str, names: Collection[str], won: Sequence[str]) -> Champion | None:
        """Write the pointer anew; see `Registry.repair`. None where it is whole by now, or there is neither a pointer
        nor a version that won.

        Args:
            names: of all of the project's versions.
            won: those that won their comparison, the newest last.

        Raises:
            RegistryError: no version is whole, or somebody else wrote the pointer.
        """
        key = f"{check_project(project)}/{CHAMPION_FILE}"
        blob = self._store.read(key)
        if (blob is None and not won) or self.is_whole(project):  # somebody may have been faster
            return None
        named = rest_of_champion(b"" if blob is None else blob.data)
        for version in dict.fromkeys((*(name for name in named if name in names), *reversed(won))):
            try:
                self._verify(project, version)
            except RegistryError as error:
                log.warning("project %s: %s cannot be served: %s", project, version, error)
                continue
            champion = Champion(
                version=version,
                # beyond any that it had, so that whoever compares generations sees a change
                generation=int(time.time()),
                promoted_at=datetime.now(UTC).isoformat(),
                reason="Its pointer was damaged, and is made again from what is known of the versions.",
                previous=tuple(name for name in won if name != version and by_number(name) < by_number(version)),
            )
            data = dump_json(dataclasses.asdict(champion), CHAMPION_FILE)
            if not self._store.write_if(key, data, blob.tag if blob else None):
                raise RegistryError(f"{key} was changed meanwhile; look again")
            self._index.note(project, champion.generation)
            return champion
        raise RegistryError(
            f"project {project_id(project)}: {key} is damaged, and no version is whole that could be served instead"
        )

    def _read(self, project: str) -> tuple[Champion | None, str | None]:
        key = f"{check_project(project)}/{CHAMPION_FILE}"
        blob = self._store.read(key)
        if blob is None:
            return None, None
        try:
            return parse_champion(parse_json(blob.data, key), key), blob.tag
        except RegistryError as error:
            raise RegistryError(f"{error}. Run: segloop versions repair --project {project}") from error

    def _swap(
        self, project: str, choose: Callable[[Champion | None], str], reason: str, *, back: bool = False
    ) -> Champion:
        verified = ""
        for _ in range(ATTEMPTS):
            current, tag = self._read(project)
            version = choose(current)
            if current and current.version == version:
                # whoever promoted it may have died before that was noted
                self._index.note(project, current.generation)
                return current
            self._removed.check(project, version)
            if version != verified:
                self._verify(project, version)
                verified = version
                continue  # it may have taken a while
            previous = (
                () if current is None else current.previous[:-1] if back else (*current.previous, current.version)
            )
            champion = Champion(
                version=version,
                generation=current.generation + 1 if current else 1,
                promoted_at=datetime.now(UTC).isoformat(),
                reason=reason,
                previous=previous[-_REMEMBERED:],
            )
            data = dump_json(dataclasses.asdict(champion), CHAMPION_FILE)
            if self._store.write_if(f"{project}/{CHAMPION_FILE}", data, tag):
                log.info("project %s: champion %s, generation %d: %s", project, version, champion.generation, reason)
                self._index.note(project, champion.generation)
                self._restore_if_removed(project, champion, current)
                return champion
            time.sleep(PAUSE_S)
        raise RegistryError(f"the champion of project {project_id(project)} kept changing; try again")

    def _restore_if_removed(self, project: str, champion: Champion, before: Champion | None) -> None:
        """Serve the earlier version again, if somebody removed the new champion's model during the promotion."""
        try:
            self._removed.check(project, champion.version)
        except ModelRemoved:
            current, tag = self._read(project)
            if before is not None and current == champion:
                again = dataclasses.replace(before, generation=champion.generation + 1)
                data = dump_json(dataclasses.asdict(again), CHAMPION_FILE)
                if self._store.write_if(f"{project}/{CHAMPION_FILE}", data, tag):
                    self._index.note(project, again.generation)
            raise
