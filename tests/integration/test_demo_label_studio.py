"""The launcher of a real Label Studio: it starts from the template, is reachable on loopback alone, and leaves nothing."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import httpx
import pytest
from PIL import Image

from demo import label_studio
from demo.label_studio import LOCK, LabelStudioFailed, RunningLabelStudio
from tests.waiting import until

ROOT = LOCK.parent
CONFIG = """<View><Image name="image" value="$image"/>
<BrushLabels name="brush" toName="image"><Label value="Sky"/></BrushLabels></View>"""


def test_lock_pins_hashes_and_names_no_index() -> None:
    text = LOCK.read_text()
    assert f"label-studio=={label_studio.VERSION} " in text
    assert "://" not in text
    pins = [line for line in text.splitlines() if line and not line.startswith((" ", "#"))]
    assert all(re.match(r"[A-Za-z0-9._-]+==\S+ .*\\$", line) for line in pins)
    assert text.count("--hash=sha256:") >= len(pins)


def _is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().split()[2] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.label_studio
def test_two_run_side_by_side_and_leave_nothing(tmp_path: Path) -> None:
    with RunningLabelStudio() as one, RunningLabelStudio() as two:
        assert one.url != two.url
        assert one.folder != two.folder
        pids = [running.pid for running in (one, two) if running.pid is not None]
        first = one.create_project("first", CONFIG, sampling="Uncertainty sampling")
        second = two.create_project("second", CONFIG)
        assert (first["id"], second["id"]) == (1, 1)
        assert first["sampling"] == "Uncertainty sampling"
        assert one.api_key.count(".") == 2
        paths = [tmp_path / f"{number}.png" for number in range(60)]
        for number, path in enumerate(paths):
            Image.new("RGB", (8, 8), (number, 0, 0)).save(path)
        task_ids = one.upload_images(1, paths)
        assert len(task_ids) == 60
        with one.client() as client:
            for number in (0, 49, 50, 59):
                uri = client.get(f"/api/tasks/{task_ids[number]}/").json()["data"]["image"]
                assert client.get(uri).content == paths[number].read_bytes()
            assert httpx.get(one.url + uri, trust_env=False).status_code == 401
            (one.folder / "files" / "a.txt").write_text("local")
        annotation = one.submit_annotation(task_ids[0], [], was_cancelled=True)
        assert annotation["was_cancelled"]
        with pytest.raises(LabelStudioFailed, match="answered 404"):
            one.submit_annotation(10**6, [])
    until(lambda: not any(_is_running(pid) for pid in pids), "the end of both")
    assert not one.folder.exists()
    assert not two.folder.exists()


@pytest.mark.label_studio
def test_dies_with_the_process_that_started_it(tmp_path: Path) -> None:
    script = (
        "import shutil, sys, time; from pathlib import Path; from demo.label_studio import RunningLabelStudio, template\n"
        "folder = Path(shutil.copytree(template(), sys.argv[1]))\n"
        "with RunningLabelStudio(folder) as running:\n"
        "    print(running.pid, flush=True)\n"
        "    time.sleep(600)\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script, str(tmp_path / "data")], cwd=ROOT, stdout=subprocess.PIPE, text=True
    ) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        assert _is_running(pid)
        os.kill(parent.pid, signal.SIGKILL)
        until(lambda: not _is_running(pid), "its end")


@pytest.mark.label_studio
def test_failed_start_says_what_label_studio_wrote(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    (folder / "label_studio.sqlite3").write_bytes(b"this is no database" * 100)
    with pytest.raises(LabelStudioFailed, match="file is not a database"), RunningLabelStudio(folder):
        pass
