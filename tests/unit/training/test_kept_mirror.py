"""The mirror that trainings of the managed route keep in a bucket: few packs, nothing left behind, and damage that costs time alone."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from pathlib import Path

import pytest

from segloop.dataset import Memory, Mirror
from segloop.dataset.files import KnownImage
from segloop.dataset.image_waits import ImageWaits
from segloop.registry.store import FolderStore
from segloop.training import kept_mirror
from segloop.training.kept_mirror import KeptMirror

PREFIX = "projects/29/mirror"


class Trainings:
    """Trainings one after the other, each on an empty disk; `store` is the bucket."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.number = folder, 0
        self.store = FolderStore(folder / "bucket")
        self.bucket = folder / "bucket" / PREFIX

    def run(self, new: list[int], gone: list[int] = []) -> set[str]:  # noqa: B006 - it is not changed
        """One that finds new tasks with an image each, and some gone; the names of the images that it need not read."""
        self.number += 1
        folder = self.folder / f"job{self.number}"
        kept = KeptMirror(self.store, PREFIX)
        kept.restore(folder)
        with Mirror(folder) as mirror:
            memory = Memory(mirror)
            ImageWaits(mirror.db, 0)  # as a snapshot has it, whose memory is pruned
            known = (memory.image(task, "image", None, f"s3://images/{task}") for task in mirror.ids())
            before = {one.file.removeprefix("images/") for one in known if one is not None}
            with mirror.sync("s3://annotations") as revision, mirror.writing():
                annotation = {"id": 1, "updated_at": "2026-11-29T10:00:00Z", "result": []}
                tasks = [{"id": task, "data": {}, "annotations": [annotation | {"id": task}]} for task in new]
                mirror.put(tasks, revision)
                mirror.drop(gone, revision)
            for task in new:
                memory.objects.put(image(task), body(task))
                memory.keep_image(task, "image", None, f"s3://images/{task}", KnownImage(image(task), 16, 16))
            memory.prune()
            assert all(memory.image(task, "image", None, f"s3://images/{task}") for task in mirror.ids())
            kept.save(mirror)
        return before

    def names(self) -> set[str]:
        return {
            path.relative_to(self.bucket).as_posix()
            for path in self.bucket.rglob("*")
            if path.is_file() and path.suffix != ".lock"
        }

    def state(self) -> dict[str, object]:
        return json.loads((self.bucket / "state.json").read_bytes())


def body(task: int) -> bytes:
    return f"image {task}".encode() * 1000


def image(task: int) -> str:
    return f"images/{hashlib.sha256(body(task)).hexdigest()}.png"


def files(*tasks: int) -> set[str]:
    return {image(task).removeprefix("images/") for task in tasks}


@pytest.fixture
def trainings(tmp_path: Path) -> Trainings:
    return Trainings(tmp_path)


def test_each_training_has_what_the_ones_before_read(trainings: Trainings) -> None:
    assert trainings.run([1, 2, 3]) == set()
    assert trainings.run([4], gone=[2]) == files(1, 2, 3)
    assert trainings.run([]) == files(1, 3, 4)


@pytest.mark.slow
def test_there_are_few_packs_and_nothing_else_is_left(trainings: Trainings) -> None:
    for task in range(1, 10):
        trainings.run([task])
        state = trainings.state()
        assert isinstance(packs := state["packs"], list)
        assert len(packs) <= 4, "as many as the number of trainings has binary digits"
        assert trainings.names() == {
            "state.json",
            f"tasks-{state['file']}.sqlite",
            *(f"packs/{p['name']}.tar" for p in packs),
        }
    assert trainings.run([]) == files(*range(1, 10))


def test_a_pack_of_which_most_is_gone_is_written_anew(trainings: Trainings) -> None:
    trainings.run([1, 2, 3, 4, 5])
    trainings.run([], gone=[1, 2, 3])
    [pack] = (trainings.bucket / "packs").iterdir()
    with tarfile.open(pack) as tar:
        assert {name.removeprefix("images/") for name in tar.getnames()} == files(4, 5)


def test_a_pack_is_no_larger_than_it_may_be(trainings: Trainings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kept_mirror, "FULL_BYTES", 3 * len(body(1)))
    trainings.run([*range(1, 8)])
    assert len([*(trainings.bucket / "packs").iterdir()]) == 3
    assert trainings.run([]) == files(*range(1, 8))


def test_the_same_files_are_the_same_pack(tmp_path: Path) -> None:
    packs = []
    for name in ("one", "other"):
        trainings = Trainings(tmp_path / name)
        trainings.run([1, 2])
        packs.append(trainings.state()["packs"])
    assert packs[0] == packs[1]


@pytest.mark.parametrize("damage", ["state", "version", "file", "pack", "no pack", "outside", "link"])
def test_damage_costs_time_alone(trainings: Trainings, damage: str, caplog: pytest.LogCaptureFixture) -> None:
    trainings.run([1, 2])
    bucket, state = trainings.bucket, trainings.state()
    [pack] = (bucket / "packs").iterdir()
    if damage == "state":
        (bucket / "state.json").write_bytes(b"{")
    elif damage == "version":
        (bucket / "state.json").write_text(json.dumps({**state, "format": 2}))
    elif damage == "file":
        (bucket / f"tasks-{state['file']}.sqlite").write_bytes(b"another")
    elif damage == "pack":
        pack.write_bytes(pack.read_bytes()[:-1])
    elif damage == "no pack":
        pack.unlink()
    else:
        member = tarfile.TarInfo("../outside.png" if damage == "outside" else image(1))
        if damage == "link":
            member.type, member.linkname = tarfile.SYMTYPE, "/etc/passwd"
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w") as tar:
            tar.addfile(member)
        name = hashlib.sha256(buffer.getvalue()).hexdigest()
        (bucket / f"packs/{name}.tar").write_bytes(buffer.getvalue())
        (bucket / "state.json").write_text(json.dumps({**state, "packs": [{"name": name, "bytes": 1}]}))
    assert trainings.run([1, 2]) == set()
    assert "cannot be used" in caplog.text
    assert not [*trainings.folder.rglob("outside.png")]
    assert trainings.run([]) == files(1, 2)


def test_of_two_at_once_the_first_to_end_keeps_its_mirror(trainings: Trainings) -> None:
    trainings.run([1])
    slow, quick = (KeptMirror(trainings.store, PREFIX) for _ in range(2))
    for kept, name in ((slow, "slow"), (quick, "quick")):
        kept.restore(trainings.folder / name)
    for kept, name, task in ((quick, "quick", 2), (slow, "slow", 3)):
        with Mirror(trainings.folder / name) as mirror:
            Memory(mirror).objects.put(image(task), body(task))
            kept.save(mirror)
    KeptMirror(trainings.store, PREFIX).restore(trainings.folder / "next")
    assert {path.name for path in (trainings.folder / "next/images").iterdir()} == files(1, 2)
    assert len(trainings.names()) == 2 + len([*(trainings.bucket / "packs").iterdir()])


def test_a_store_that_refuses_ends_no_training(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "bucket").mkdir()
    (tmp_path / "bucket/projects").write_bytes(b"a file in the folder's place")
    trainings = Trainings(tmp_path)
    trainings.run([1])
    assert "is not kept for the next training" in caplog.text
