"""The served version: promoted, rolled back, and raced for."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from segloop.errors import ChampionMoved, RegistryError, VersionNotFound
from segloop.registry import Registry, open_registry
from segloop.registry.store import Blob, FolderStore, Store
from segloop.settings import Settings
from tests.bundles import PROJECT, digest, make_info


def test_promote_and_roll_back(registry: Registry, make_bundle: Callable[..., Path]) -> None:
    assert registry.champion(PROJECT) is None
    with pytest.raises(RegistryError, match="nothing to roll back to"):
        registry.rollback(PROJECT, "")
    one, two, three = (registry.add(PROJECT, make_bundle(b"%d" % number), make_info()) for number in range(3))

    first = registry.promote(PROJECT, one, "The first version.")
    assert (first.version, first.generation, first.reason, first.previous) == (one, 1, "The first version.", ())
    assert registry.champion(PROJECT) == first
    assert registry.promote(PROJECT, one, "again") == first
    with pytest.raises(RegistryError, match="nothing to roll back to"):
        registry.rollback(PROJECT, "")

    registry.promote(PROJECT, two, "better")
    assert registry.promote(PROJECT, three, "better").previous == (one, two)
    back = registry.rollback(PROJECT, "worse after all")
    assert (back.version, back.generation, back.previous, back.reason) == (two, 4, (one,), "worse after all")
    assert registry.rollback(PROJECT, "").version == one
    assert registry.promote(PROJECT, three, "").previous == (one,)
    with pytest.raises(VersionNotFound):
        registry.promote(PROJECT, "v9-00000000", "")
    assert registry.champion("30") is None


def test_a_broken_champion_is_an_error(registry: Registry, store: Store) -> None:
    for text in (b"", b"{}", b"[]", b"null"):
        store.write(f"{PROJECT}/champion.json", text)
        with pytest.raises(RegistryError):
            registry.champion(PROJECT)


def test_a_hostile_champion_is_an_error(registry: Registry, store: Store) -> None:
    value = {"version": "../../evil", "generation": 1, "promoted_at": "", "reason": "", "previous": []}
    store.write(f"{PROJECT}/champion.json", json.dumps(value).encode())
    with pytest.raises(RegistryError, match="evil"):
        registry.champion(PROJECT)


def test_a_poll_is_one_read_of_the_store(tmp_path: Path, make_bundle: Callable[..., Path]) -> None:
    calls: list[str] = []

    class Counting(FolderStore):
        def read(self, key: str) -> Blob | None:
            calls.append(key)
            return super().read(key)

    registry = Registry(Counting(tmp_path / "store"), tmp_path / "cache")
    registry.promote(PROJECT, registry.add(PROJECT, make_bundle(b"one"), make_info()), "")
    calls.clear()
    registry.champion(PROJECT)
    assert calls == [f"{PROJECT}/champion.json"]


class Meddling(FolderStore):
    """A folder where somebody else acts just before the first conditional write of champion.json."""

    meddle: Callable[[], object] | None = None

    def write_if(self, key: str, data: bytes, tag: str | None) -> bool:
        meddle, self.meddle = self.meddle, None
        if meddle and key.endswith("champion.json"):
            meddle()
        return super().write_if(key, data, tag)


def test_a_promotion_and_a_rollback_that_lose_a_race(tmp_path: Path, make_bundle: Callable[..., Path]) -> None:
    store = Meddling(tmp_path / "store")
    registry = Registry(store, tmp_path / "cache")
    one, two, three = (registry.add(PROJECT, make_bundle(b"%d" % number), make_info()) for number in range(3))
    registry.promote(PROJECT, one, "")

    store.meddle = lambda: registry.promote(PROJECT, two, "theirs")
    ours = registry.promote(PROJECT, three, "ours")
    assert (ours.version, ours.generation, ours.previous) == (three, 3, (one, two))

    # The rollback was meant for three; it must not undo the promotion that came between.
    store.meddle = lambda: registry.promote(PROJECT, one, "theirs")
    with pytest.raises(RegistryError, match="changed meanwhile"):
        registry.rollback(PROJECT, "")
    champion = registry.champion(PROJECT)
    assert champion is not None
    assert champion.version == one


def test_a_promotion_instead_of_one_champion_leaves_another_alone(
    registry: Registry, make_bundle: Callable[..., Path]
) -> None:
    one, two = (registry.add(PROJECT, make_bundle(b"%d" % number), make_info()) for number in range(2))
    first = registry.promote(PROJECT, one, "", instead_of=0)
    with pytest.raises(ChampionMoved, match=f"now serves {one}, changed meanwhile"):
        registry.promote(PROJECT, two, "", instead_of=0)
    assert registry.champion(PROJECT) == first
    assert registry.promote(PROJECT, two, "", instead_of=first.generation).version == two
    # what it asks for is so already
    assert registry.promote(PROJECT, two, "", instead_of=first.generation).generation == 2


def _promote_many(store_url: str, data_dir: str, versions: list[str], barrier: Any) -> None:
    registry = open_registry(Settings(store=store_url, data_dir=Path(data_dir)))
    barrier.wait()
    for version in versions:
        registry.promote(PROJECT, version, f"by {os.getpid()}")


@pytest.mark.slow
def test_racing_promoters_lose_no_generation(tmp_path: Path, make_bundle: Callable[..., Path]) -> None:
    store_url = str(tmp_path / "store")
    registry = open_registry(Settings(store=store_url, data_dir=tmp_path))
    names = [registry.add(PROJECT, make_bundle(b"%d" % number), make_info()) for number in range(4)]
    context = multiprocessing.get_context("spawn")
    barrier = context.Barrier(2)
    racers = [
        context.Process(target=_promote_many, args=(store_url, str(tmp_path), own * 5, barrier))
        for own in (names[:2], names[2:])
    ]
    for racer in racers:
        racer.start()
    for racer in racers:
        racer.join(60)
        assert racer.exitcode == 0
    champion = registry.champion(PROJECT)
    assert champion is not None
    # Each promotion (of another version than the champion: always, here) counted once.
    assert champion.generation == 20
    assert len(champion.previous) == 19


def test_racing_adders_of_one_bundle_agree(registry: Registry, make_bundle: Callable[..., Path]) -> None:
    bundle = make_bundle(b"weights")
    names: list[str] = []
    threads = [
        threading.Thread(target=lambda: names.append(registry.add(PROJECT, bundle, make_info()))) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(names) == 4
    assert set(names) == {f"v1-{digest(b'weights')[:8]}"}


def test_a_promoter_killed_while_it_holds_the_lock_blocks_nobody(
    tmp_path: Path, make_bundle: Callable[..., Path]
) -> None:
    registry = open_registry(Settings(store=str(tmp_path / "store"), data_dir=tmp_path))
    version = registry.add(PROJECT, make_bundle(b"weights"), make_info())
    lock = tmp_path / "store" / PROJECT / ".champion.json.lock"
    code = "import sys, time; from filelock import FileLock; FileLock(sys.argv[1]).acquire(); print('held'); time.sleep(60)"
    holder = subprocess.Popen([sys.executable, "-u", "-c", code, str(lock)], stdout=subprocess.PIPE)
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        threading.Timer(0.3, holder.send_signal, [signal.SIGKILL]).start()
        assert registry.promote(PROJECT, version, "").generation == 1
    finally:
        holder.kill()
        holder.wait()
        holder.stdout.close()
