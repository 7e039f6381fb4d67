"""The embedded Valkey's file, damaged in every way: a Valkey starts on what is made of it."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from redis import Redis

from demo.stack import RunningSegloop
from segloop.supervisor import valkey_command
from segloop.valkey_file import mend
from tests.toys import BRUSH
from tests.valkey import Valkey

KEYS = 2000
INCREMENT, BASE, MANIFEST = "appendonly.aof.1.incr.aof", "appendonly.aof.1.base.rdb", "appendonly.aof.manifest"
Damage = Callable[[Path], object]


def overwritten(name: str, start: int) -> Damage:
    def damage(folder: Path) -> None:
        with (folder / name).open("r+b") as file:
            file.seek(start)
            file.write(b"\xff" * 100)

    return damage


def cut(name: str, left: int) -> Damage:
    return lambda folder: (folder / name).write_bytes((folder / name).read_bytes()[:left])


def lost(name: str) -> Damage:
    return lambda folder: (folder / name).unlink()


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file of a Valkey that was killed."""
    folder = tmp_path_factory.mktemp("v")
    valkey = Valkey(folder).start()
    with Redis.from_url(valkey.url) as client:
        for number in range(KEYS):
            client.set(f"key {number}", b"x" * 50)
    valkey.kill()
    return folder / "valkey" / "appendonlydir"


@pytest.mark.parametrize(
    ("damage", "least", "says"),
    [
        (lambda folder: None, KEYS, ""),
        (overwritten(INCREMENT, 60_000), 500, "is repaired"),
        (overwritten(INCREMENT, 0), 0, "is repaired"),
        (cut(INCREMENT, 100_000), 900, "is repaired"),
        (cut(INCREMENT, 0), 0, ""),
        (lost(INCREMENT), 0, "begins anew"),
        (overwritten(BASE, 0), 0, "begins anew"),
        (lost(BASE), 0, "begins anew"),
        (overwritten(MANIFEST, 0), 0, "begins anew"),
        (cut(MANIFEST, 0), 0, "begins anew"),
        (lost(MANIFEST), 0, "begins anew"),
    ],
)
def test_a_valkey_starts_whatever_became_of_its_file(
    whole: Path, tmp_path_factory: pytest.TempPathFactory, damage: Damage, least: int, says: str
) -> None:
    folder = tmp_path_factory.mktemp("v")
    file = folder / "valkey" / "appendonlydir"
    shutil.copytree(whole, file)
    damage(file)
    valkey = Valkey(folder)
    done = mend(folder / "valkey", valkey_command(valkey.settings)[0])
    assert says in done if says else done == ""
    assert len(list((folder / "valkey").glob("appendonlydir.damaged-*"))) == bool(says), "what it was is kept"
    valkey.start()
    with Redis.from_url(valkey.url) as client:
        assert least <= client.dbsize() <= KEYS
    valkey.stop()


@pytest.mark.slow
def test_segloop_starts_on_a_damaged_file_and_says_so(tmp_path: Path) -> None:
    event = {"action": "ANNOTATION_CREATED", "annotation": {"id": 1, "task": 1}}
    event |= {"project": {"id": 7, "created_at": "2026-11-22T21:30:40.804663Z", "label_config": BRUSH}}
    segloop = RunningSegloop(tmp_path, weights="none")
    for damage in (lambda folder: None, overwritten(INCREMENT, 0)):
        file = segloop.data_dir / "valkey" / "appendonlydir"
        if file.exists():
            damage(file)
        with segloop, segloop.client() as client:
            answer = client.post("/webhook", json=event)
            assert (answer.status_code, answer.json()["status"]) == (201, "counted")
    assert "is repaired up to the damage" in segloop.log.read_text()
