"""Registry: add, get, promote and roll back versions.

<store>/<project>/champion.json                      which version is served; replaced atomically, conditionally
<store>/<project>/removed.json                       version -> when its model was removed; written before it goes
<store>/<project>/names.json                         bundle identity -> version name; written before a version
<store>/<project>/versions/<version>/<file>          a bundle's files; written before its version.json
<store>/<project>/versions/<version>/version.json    makes the version visible; never changes
<store>/<project>/<name>.json                        small state of a project, by read_json and write_json
<store>/champions.json                               the generations of all champions; written after each champion.json
<store>/versions.json                                the names of all projects' versions; made anew where it is missing
<store>/probe.json                                   written to see that it can be
"""

from __future__ import annotations

import hashlib
import json
import logging
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from segloop.errors import RegistryError, UnknownProject, VersionNotFound
from segloop.formats import VERSION_FILE, WEIGHTS_FILE
from segloop.project_ids import project_id
from segloop.registry.bundles import BundleCache, describe_files, verify_files
from segloop.registry.champions import CHAMPION_FILE, Champions
from segloop.registry.generations import Generations
from segloop.registry.removal import REMOVED_FILE, RemovedModels
from segloop.registry.s3 import S3Store
from segloop.registry.store import ATTEMPTS, PAUSE_S, FolderStore, Store
from segloop.registry.version_index import VersionIndex
from segloop.registry.versions import (
    Champion,
    by_number,
    check_project,
    dump_json,
    model_bytes,
    model_files,
    needed,
    parse_json,
    project_order,
    shown_ids,
)
from segloop.settings import Settings
from segloop.versions import FileInfo, VersionInfo, is_file_name, parse_version, version_number

log = logging.getLogger(__name__)

_NAMES = "names.json"
_PROBE = "probe.json"


def open_registry(settings: Settings) -> Registry:
    """The registry at `settings.store_url`; touches neither disk nor network yet.

    Raises:
        SettingsError: an s3:// address without a bucket.
    """
    url = settings.store_url
    store: Store = S3Store(url) if url.startswith("s3://") else FolderStore(Path(url))
    return Registry(store, settings.data_dir.absolute() / "cache" / "versions")


class Registry:
    """Versions and champions of all projects. Thread-safe, and safe with several processes.

    Every method may raise RegistryError (the store is unreachable, or holds something that cannot be trusted)
    and UnknownProject (a key that is none).
    """

    def __init__(self, store: Store, cache_dir: Path) -> None:
        self._store = store
        self._removed = RemovedModels(store)
        self._cache = BundleCache(store, cache_dir)
        self._champions = Champions(store, self._removed, self._verify)
        self._index = VersionIndex(store, self._all_names)

    def projects(self) -> list[str]:
        """Keys of the projects that the store knows, by id and age."""
        names = []
        for name in self._store.folders(""):
            try:
                names.append(check_project(name))
            except UnknownProject:
                log.debug("the store has a folder %r that is no project", name)
        return sorted(names, key=project_order)

    def resolve(self, text: str) -> str:
        """The key of a known project, from the key or from its id alone (then the newest).

        Raises:
            UnknownProject: the store has no such project.
        """
        known = self.projects()
        own = check_project(text)
        matches = [key for key in known if own in (key, project_id(key))]
        if not matches:
            shown = ", ".join(shown_ids(known).values())
            raise UnknownProject(f"project {own} is unknown here; known: {shown or 'none'}")
        return matches[-1]

    def shown_id(self, project: str) -> str:
        """What people are told of a project: its id, or its key where the id names a newer one. `resolve` takes both."""
        return shown_ids({*self.projects(), project})[project]

    def check_writable(self) -> None:
        """Write a small probe file, and read it back.

        Raises:
            RegistryError: the store cannot be written, or does not keep what is written.
        """
        data = dump_json({"written_at": datetime.now(UTC).isoformat()}, _PROBE)
        self._store.write(_PROBE, data)
        blob = self._store.read(_PROBE)
        if blob is None or blob.data != data:
            raise RegistryError(f"{_PROBE} was written to the store, and is another now")

    # -- versions

    def add(self, project: str, bundle: Path, info: VersionInfo) -> str:
        """Store a bundle folder as a new version, and name it v{n}-{first 8 hex digits of the weights' sha256}.

        Of `info`, version, project and files are set here; the files are those in `bundle` (hidden ones and version.json
        aside). The same files and classes give the same version, however often and from
        however many processes they are added, and whatever was killed half-way before; the first info stays.

        Raises:
            RegistryError: the bundle lacks its weights, has a folder or link in it, or differs from the hashes that
                `info` declares.
        """
        check_project(project)
        files = describe_files(bundle)
        for name, declared in info.files.items():
            if files.get(name) != declared:
                raise RegistryError(f"{bundle}: {name} is not the file that its version.json describes")
        version = self._claim_name(project, files, info.classes)
        is_removed = version in self.removed(project)
        if not is_removed and self._store.read(_version_key(project, version)) is not None:
            # whoever wrote it may have died before it was listed
            self._index.note(project, version)
            return version
        stored = info.model_copy(update={"version": version, "project": project, "files": files})
        for name in files:
            self._store.upload(bundle / name, f"{project}/versions/{version}/{name}")
        self._store.write_if(_version_key(project, version), stored.to_json(), None)
        if is_removed:
            self._removed.mark(project, version, None)
        self._index.note(project, version)
        log.info("project %s: version %s is in the store", project, version)
        return version

    def get(self, project: str, version: str) -> VersionInfo:
        """What is known of a version.

        Raises:
            VersionNotFound: the project has no such version.
        """
        check_project(project)
        blob = None
        if version_number(version) is not None:
            blob = self._store.read(_version_key(project, version))
        if blob is None:
            raise VersionNotFound(
                f"project {project_id(project)} has no version {version!r}; see: segloop versions list"
            )
        where = f"{VERSION_FILE} of {project} {version}"
        info = parse_version(blob.data, where)
        if (info.project, info.version) != (project, version):
            raise RegistryError(f"{where} belongs to {info.project} {info.version}")
        return info

    def versions(self, project: str) -> list[VersionInfo]:
        """All versions of a project, oldest first. One that cannot be read is left out, with a warning in the log."""
        found = []
        for name in self.version_names(project):
            try:
                found.append(self.get(project, name))
            except VersionNotFound:
                log.debug("project %s: version %s is half-written", project, name)
            except RegistryError as error:
                log.warning("project %s: version %s is left out: %s", project, name, error)
        return found

    def all_version_names(self) -> list[str]:
        """The names of the versions of all projects, by project and oldest first: one read of the store, however many they are.

        A store of an earlier segloop, which has no list, is read through once.
        """
        return self._index.names()

    def _all_names(self) -> dict[str, list[str]]:
        return {key: [info.version for info in self.versions(key)] for key in self.projects()}

    def bundle(self, project: str, version: str, files: Collection[str] | None = None) -> Path:
        """A local folder with the version's files (or only those asked for), the sha256 of each verified by this call.

        Raises:
            VersionNotFound: the project has no such version.
            ModelRemoved: a file that is asked for was removed.
            RegistryError: a file is missing or is not the one that version.json describes.
        """
        info = self.get(project, version)
        wanted = info.files.keys() if files is None else files
        if missing := sorted(set(wanted) - info.files.keys()):
            raise RegistryError(f"version {version} of project {project_id(project)} has no file {missing[0]}")
        if not set(wanted).isdisjoint(model_files(info)):
            self._removed.check(project, version)
        folder = self._store.local(f"{project}/versions/{version}")
        if folder is not None:
            verify_files(folder, info, wanted)
            return folder
        return self._cache.get(info, wanted)

    def removed(self, project: str) -> dict[str, str]:
        """The versions whose models were removed, and when (ISO 8601)."""
        return self._removed.of(project)

    def remove(self, project: str, version: str) -> int:
        """Remove a version's model from the store, for good: weights and exported engines. What is known of it stays.

        Returns: the bytes that are freed; 0 if it was removed before.

        Raises:
            VersionNotFound: the project has no such version.
            RegistryError: it is served, or the next rollback would serve it.
        """
        info = self.get(project, version)
        self._check_unneeded(project, version)
        is_removed = version in self.removed(project)
        if not is_removed:
            # From here on nobody promotes it; who has done so since it was looked at is seen now.
            self._removed.mark(project, version, datetime.now(UTC).isoformat())
            try:
                self._check_unneeded(project, version)
            except RegistryError:
                self._removed.mark(project, version, None)
                raise
        for name in model_files(info):
            self._store.delete(f"{project}/versions/{version}/{name}")
        if is_removed:
            return 0
        log.info("project %s: the model of version %s is removed", project, version)
        return model_bytes(info)

    # -- the champion

    def champion(self, project: str) -> Champion | None:
        """The version that the project serves, or None; one small read."""
        return self._champions.current(project)

    def generations(self, known: Generations | None = None) -> Generations:
        """The generations of all projects' champions, in one read however many they are; `known` itself where none changed.

        An entry may be late by as much as a dead process never wrote: who follows champions reads each one itself too, now
        and then.
        """
        return self._champions.generations(known)

    def promote(self, project: str, version: str, reason: str, *, instead_of: int | None = None) -> Champion:
        """Make a version the champion, once its files are verified; promoting the champion changes nothing.

        Args:
            instead_of: the generation of the champion that it is to replace (0: there is none); None: whichever it is.

        Raises:
            VersionNotFound: the project has no such version.
            ModelRemoved: there is nothing of it left to serve.
            ChampionMoved: the champion is another than the one that it is to replace.
            RegistryError: one of its files is missing or damaged.
        """
        self.get(project, version)
        return self._champions.promote(project, version, reason, instead_of)

    def rollback(self, project: str, reason: str) -> Champion:
        """Make the version that was served before the champion the champion again. A second call goes one further back.

        Raises:
            ModelRemoved: there is nothing of it left to serve.
            RegistryError: there is none, its files are damaged, or somebody else changed the champion meanwhile.
        """
        return self._champions.rollback(project, reason)

    def repair(self, project: str) -> Champion | None:
        """Write a champion pointer that cannot be read, or is lost, anew; None where it is whole, or none is needed.

        The champion is the version that the rest of the pointer names, else the newest one that won its comparison; of
        them the first whose files are all there. Promotions and rollbacks by hand are noted in the pointer alone, and lost.

        Raises:
            RegistryError: no version is whole.
        """
        if self._champions.is_whole(project):
            return None
        won = [info.version for info in self.versions(project) if info.decision is not None and info.decision.act]
        return self._champions.make_anew(project, self.version_names(project), won)

    # -- small state of a project

    def read_json(self, project: str, name: str) -> Any:
        """A project's own JSON file such as "split.json", or None."""
        key = _state_key(project, name)
        blob = self._store.read(key)
        return None if blob is None else parse_json(blob.data, key)

    def write_json(self, project: str, name: str, value: Any) -> None:
        """Write a project's own JSON file, atomically; the last writer wins."""
        key = _state_key(project, name)
        self._store.write(key, dump_json(value, key))

    def change_json(self, project: str, name: str, change: Callable[[Any], Any]) -> None:
        """Replace a project's own JSON file by what `change` makes of it (of None where there is none). Nothing that others
        write at the same time is lost: then `change` is called again."""
        key = _state_key(project, name)
        for _ in range(ATTEMPTS):
            blob = self._store.read(key)
            changed = change(None if blob is None else parse_json(blob.data, key))
            if self._store.write_if(key, dump_json(changed, key), blob.tag if blob else None):
                return
            time.sleep(PAUSE_S)
        raise RegistryError(f"{key} kept changing; too many processes write it at once")

    def version_names(self, project: str) -> list[str]:
        """Names of a project's versions, oldest first; one of them may be half-written."""
        names = self._store.folders(f"{check_project(project)}/versions/")
        return sorted((name for name in names if version_number(name) is not None), key=by_number)

    def _claim_name(self, project: str, files: Mapping[str, FileInfo], classes: Sequence[str]) -> str:
        """The name of these files and classes. It is settled before anything is written, so that a repeat finds it."""
        key = f"{project}/{_NAMES}"
        plain = {name: file.model_dump() for name, file in files.items()}
        identity = hashlib.sha256(json.dumps([plain, classes], sort_keys=True).encode()).hexdigest()
        for _ in range(ATTEMPTS):
            blob = self._store.read(key)
            names = parse_json(blob.data, key) if blob else {}
            if not isinstance(names, dict) or not all(version_number(str(name)) for name in names.values()):
                raise RegistryError(f"{key} is not a list of versions")
            if identity in names:
                return str(names[identity])
            highest = max(map(by_number, [*names.values(), *self.version_names(project)]), default=(0, ""))[0]
            name = f"v{highest + 1}-{files[WEIGHTS_FILE].sha256[:8]}"
            if self._store.write_if(key, dump_json({**names, identity: name}, key), blob.tag if blob else None):
                return name
            time.sleep(PAUSE_S)
        raise RegistryError(f"{key} kept changing; too many processes write versions at once")

    def _verify(self, project: str, version: str) -> None:
        """Raise RegistryError where a file of a version is missing, cut or damaged, here or in the store."""
        for name, file in self.get(project, version).files.items():
            if self._store.size(f"{project}/versions/{version}/{name}") != file.bytes:
                raise RegistryError(
                    f"{name} of {project} {version} is missing in the store, or was cut; it is not served"
                )
        self.bundle(project, version)

    def _check_unneeded(self, project: str, version: str) -> None:
        if version in needed(self.champion(project)):
            raise RegistryError(
                f"version {version} of project {project_id(project)} is served, or is what a rollback would serve"
            )


def _version_key(project: str, version: str) -> str:
    return f"{project}/versions/{version}/{VERSION_FILE}"


def _state_key(project: str, name: str) -> str:
    if not is_file_name(name) or not name.endswith(".json") or name in {CHAMPION_FILE, _NAMES, REMOVED_FILE}:
        raise RegistryError(f"{name!r} cannot hold a project's state; write a plain name such as split.json")
    return f"{check_project(project)}/{name}"
