"""suspects.json and suspects.zip: what is written is read, and what cannot be trusted is refused."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

import cv2
import numpy as np
import pytest
from pydantic import ValidationError

from segloop.errors import RegistryError
from segloop.suspects import PHOTOS, SUSPECTS, Suspects, read_photo, read_suspects
from segloop.suspects.format import MOST_PIECES
from tests.suspects import HEIGHT, WIDTH, a_suspect, put_into, some_suspects


def test_what_is_written_is_read_and_the_same_suspects_give_the_same_bytes(tmp_path: Path) -> None:
    for name in ("one", "other"):
        (tmp_path / name).mkdir()
        put_into(tmp_path / name, some_suspects())
    assert read_suspects(tmp_path / "one" / SUSPECTS) == some_suspects()
    for name in (SUSPECTS, PHOTOS):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "other" / name).read_bytes()
    assert sorted(file.name for file in (tmp_path / "one").iterdir()) == [SUSPECTS, PHOTOS]


def test_a_photo_is_a_jpeg_of_its_image(tmp_path: Path) -> None:
    put_into(tmp_path, some_suspects())
    data = read_photo(tmp_path / PHOTOS, "1.jpg")
    assert data is not None
    assert cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR).shape == (HEIGHT, WIDTH, 3)
    for name in ("2.jpg", "../1.jpg", "1.png", ""):
        assert read_photo(tmp_path / PHOTOS, name) is None


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"format": 2}, "format"),
        ({"images": []}, "not listed"),
        ({"suspects": [{}]}, "suspects.0"),
        ({"judged": None}, "judged"),
    ],
)
def test_a_file_that_is_none_is_refused(tmp_path: Path, changes: dict[str, object], said: str) -> None:
    written = json.loads(some_suspects().model_dump_json())
    (tmp_path / SUSPECTS).write_text(json.dumps(written | changes), encoding="utf-8")
    with pytest.raises(RegistryError, match=said):
        read_suspects(tmp_path / SUSPECTS)


def test_a_file_beyond_its_limits_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValidationError):
        Suspects(**{**some_suspects().model_dump(), "suspects": [a_suspect(0)] * (MOST_PIECES + 1)})
    (tmp_path / SUSPECTS).write_bytes(b" " * (4 * 2**20 + 1))
    with pytest.raises(RegistryError, match="larger than"):
        read_suspects(tmp_path / SUSPECTS)
    with zipfile.ZipFile(tmp_path / PHOTOS, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("0.jpg", bytes(2**20 + 1))
    with pytest.raises(RegistryError, match="larger than"):
        read_photo(tmp_path / PHOTOS, "0.jpg")
    (tmp_path / PHOTOS).write_bytes(b"no archive")
    with pytest.raises(RegistryError, match="cannot be read"):
        read_photo(tmp_path / PHOTOS, "0.jpg")
