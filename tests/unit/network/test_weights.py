"""Where weights come from, whether they can be had, what names their classes, and their version name. Without torch."""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

from segloop.cli import main
from segloop.errors import WeightsError, WeightsUnavailable
from segloop.network.voc_classes import VOC_CLASSES, zero_shot_channels
from segloop.network.weights import (
    chosen,
    fetch,
    head_layout,
    known_classes,
    published_path,
    weights_file,
    weights_name,
    weights_state,
)
from segloop.network.weights import published as published_weights
from segloop.settings import Settings
from tests.publisher import Publisher, publisher

NOWHERE = "http://127.0.0.1:9"


@pytest.fixture(autouse=True)
def _home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))


@pytest.fixture
def published(tmp_path: Path) -> Iterator[Publisher]:
    with publisher(tmp_path / "published") as found:
        yield found


def coco(url: str = NOWHERE) -> Settings:
    return Settings(_env_file=None, weights="coco", weights_url=url)


def own(path: Path, **values: str) -> Settings:
    return Settings(_env_file=None, weights=str(path), **values)


# -- published weights


@pytest.mark.slow
def test_published_files_are_fetched_once_and_checked(published: Publisher, monkeypatch: pytest.MonkeyPatch) -> None:
    name = published.publish(b"weights", monkeypatch)
    settings = coco(published.url)
    assert not weights_state(settings).problem
    assert not published_path(settings).exists(), "to ask whether it is there writes nothing"
    path = weights_file(settings)
    assert path is not None
    assert (path.name, path.read_bytes()) == (name, b"weights")
    (published.folder / name).unlink()
    assert weights_file(settings) == path
    assert not weights_state(settings).problem


def test_they_are_kept_where_torchvision_keeps_them(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    hub = pytest.importorskip("torch").hub
    for variables in ({"TORCH_HOME": "~/somewhere"}, {"XDG_CACHE_HOME": str(tmp_path)}, {}):
        for name in ("TORCH_HOME", "XDG_CACHE_HOME"):
            monkeypatch.delenv(name, raising=False)
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        assert published_path(coco()).parent == Path(hub.get_dir()) / "checkpoints"


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ("forged", "SHA-256"),
        ("absent", "404"),
        ("large", "more than"),
        ("away", "refused"),
        ("slow", "no answer within"),
    ],
)
def test_what_cannot_be_fetched_says_why_and_what_to_do(
    change: str, reason: str, published: Publisher, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    name, url = published.publish(b"weights", monkeypatch), published.url
    with socket.create_server(("127.0.0.1", 0)) as silent:
        match change:
            case "forged":
                (published.folder / name).write_bytes(b"something else")
            case "absent":
                (published.folder / name).unlink()
            case "large":
                monkeypatch.setattr(published_weights, "LARGEST_BYTES", 3)
            case "slow":
                monkeypatch.setattr(published_weights, "ANSWER_S", 0.1)
                url = f"http://127.0.0.1:{silent.getsockname()[1]}"
            case "away":
                url = NOWHERE
        with pytest.raises(WeightsUnavailable, match=reason) as caught:
            fetch(coco(url), tmp_path / "out" / "coco.pth")
    assert "segloop weights fetch --to FILE" in str(caught.value)
    assert list((tmp_path / "out").glob("*")) == []


def test_a_name_that_takes_a_minute_to_look_up_costs_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without internet the resolver can take longer than any time limit of a connection."""
    monkeypatch.setattr(published_weights, "ANSWER_S", 0.1)
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: time.sleep(5))
    began = time.monotonic()
    assert "no answer within" in weights_state(coco("http://weights.example")).problem
    assert time.monotonic() - began < 4


def test_weights_that_cannot_be_had_have_one_sentence() -> None:
    state = weights_state(coco())
    assert "the weights coco are not on this machine" in state.problem
    assert "set SEGLOOP_WEIGHTS to it" in state.fix
    assert state.sentence == f"{state.problem}: {state.fix}."
    assert not weights_state(Settings(_env_file=None, weights="none")).sentence


@pytest.mark.slow
def test_fetched_to_a_file_they_serve_another_machine(
    published: Publisher, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    name = published.publish(b"weights", monkeypatch)
    environment = {"SEGLOOP_WEIGHTS": "coco", "SEGLOOP_WEIGHTS_URL": published.url}
    for target, file in ((tmp_path / "stick.pth", tmp_path / "stick.pth"), (tmp_path, tmp_path / name)):
        done = CliRunner(env=environment).invoke(main, ["weights", "fetch", "--to", str(target)])
        assert done.exit_code == 0, done.output
        assert file.read_bytes() == b"weights"
        assert not weights_state(own(file)).problem
        assert known_classes(own(file)) == VOC_CLASSES
    assert weights_name(own(tmp_path / name)) == name.removesuffix(".pth")
    done = CliRunner(env=environment).invoke(main, ["weights", "fetch"])
    assert (done.exit_code, published_path(coco()).read_bytes()) == (0, b"weights")
    done = CliRunner(env=environment | {"SEGLOOP_WEIGHTS_URL": NOWHERE}).invoke(
        main, ["weights", "fetch", "--to", "x.pth"]
    )
    assert (done.exit_code, "cannot be fetched" in done.output) == (1, True)


# -- one's own


@pytest.mark.parametrize(
    ("name", "problem"),
    [("absent.pth", "there is no such file"), ("model.onnx", "unknown kind"), ("x.safetensors", "no .safetensors")],
)
def test_files_that_cannot_be_used(name: str, problem: str, tmp_path: Path) -> None:
    if "absent" not in name:
        (tmp_path / name).write_bytes(b"\xff" * 100)
    assert problem in weights_state(own(tmp_path / name)).problem


@pytest.mark.parametrize(
    ("beside", "text"),
    [
        ("mine.json", '["road", "sky"]'),
        ("mine.pth.json", '{"classes": ["road", "sky"]}'),
        ("mine.json", '{"0": "background", "1": "road", "2": "sky"}'),
        ("mine.json", '{"id2label": {"0": "road", "1": "sky"}}'),
        ("mine.json", '{"sky": 1, "road": 0}'),
        ("mine.names", "road\n\nsky\n"),
        ("mine.pth.names", "road\nsky"),
    ],
)
def test_class_names_beside_a_file(beside: str, text: str, tmp_path: Path) -> None:
    file = tmp_path / "mine.pth"
    file.write_bytes(b"weights")
    (tmp_path / beside).write_text(text)
    assert known_classes(own(file)) == ("road", "sky")
    assert known_classes(own(file, weights_classes="Tree, Car")) == ("Tree", "Car"), "the setting goes first"


@pytest.mark.parametrize("text", ["{", "7", "[]", '["a", 1]', '{"0": "a", "2": "b"}', '["a", "a"]'])
def test_class_names_that_cannot_be_used(text: str, tmp_path: Path) -> None:
    file = tmp_path / "mine.safetensors"
    write_safetensors(file, 2)
    (tmp_path / "mine.json").write_text(text)
    with pytest.raises(WeightsError, match=r"mine.*: use "):
        known_classes(own(file))


def write_safetensors(path: Path, channels: int, **metadata: str) -> None:
    header = {"classifier.4.weight": {"dtype": "F32", "shape": [channels, 1, 1, 1], "data_offsets": [0, 4 * channels]}}
    text = json.dumps({"__metadata__": metadata, **header}).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + bytes(4 * channels))


def test_safetensors_tell_their_channels_and_classes(tmp_path: Path) -> None:
    file = tmp_path / "mine.safetensors"
    write_safetensors(file, 3, classes="road, sky")
    assert known_classes(own(file)) == ("road", "sky")
    write_safetensors(file, 2, classes='["road", "sky"]')
    assert known_classes(own(file)) == ("road", "sky")
    write_safetensors(file, 21)
    assert known_classes(own(file)) == VOC_CLASSES
    write_safetensors(file, 5)
    assert known_classes(own(file)) == (), "five channels that nothing names"
    (tmp_path / "mine.names").write_text("road\nsky\n")
    assert "its head has 5 channels, and 2 names are given for them (road, sky)" in weights_state(own(file)).problem


def test_names_are_laid_out_on_channels() -> None:
    path = Path("mine.pth")
    assert head_layout(path, ("a", "b"), 3).channels == (1, 2)
    assert (head_layout(path, ("a", "b"), 2).background, head_layout(path, ("a", "b"), 2).channels) == (None, (0, 1))
    layout = head_layout(path, ("a", "__background__", "b"), 3)
    assert (layout.background, layout.channels, layout.classes) == (1, (0, 2), ("a", "b"))


def test_labels_find_the_classes_of_ones_own_network() -> None:
    labels = {"Building": (), "Sky": (), "Human": (), "Grass": ("Vegetation",), "Zebra": ()}
    found = zero_shot_channels(labels, ("road", "buildings", "sky", "person", "vegetation"))
    assert found == {"Building": (2,), "Sky": (3,), "Human": (4,), "Grass": (5,)}


# -- version names


def test_another_content_is_another_version(tmp_path: Path) -> None:
    one, two = tmp_path / "one" / "mine.pth", tmp_path / "two" / "mine.pth"
    for path, content in ((one, b"first"), (two, b"other")):
        path.parent.mkdir()
        path.write_bytes(content)
    assert weights_name(own(one)) != weights_name(own(two))
    assert weights_name(own(one)).startswith("mine-")
    before = weights_name(own(one))
    one.write_bytes(b"later")
    os.utime(one, ns=(1, 1))
    assert weights_name(own(one)) != before
    two.write_bytes(b"later")
    assert weights_name(own(one)) == weights_name(own(two))
    (two.parent / "mine.names").write_text("road")
    assert weights_name(own(one)) != weights_name(own(two)), (
        "the same weights with other classes predict something else"
    )
    assert weights_name(coco()) == "deeplabv3_resnet50-coco"


def test_a_file_is_hashed_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "mine.pth"
    file.write_bytes(b"weights")
    name = weights_name(own(file))
    monkeypatch.setattr(chosen.hashlib, "file_digest", None)
    assert weights_name(own(file)) == name
