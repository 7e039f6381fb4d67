"""What answers before any training, and what is said where nothing can."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from segloop.backend import Backend
from segloop.cli import main
from segloop.doctor import machine
from segloop.errors import QueueUnavailable
from segloop.installation import missing_extra
from segloop.network.network import build_network
from segloop.payloads import parse_setup
from segloop.queue import Jobs
from segloop.registry import open_registry
from segloop.serving import UNTRAINED, PredictionCache, PretrainedModels, ServedModels, pretrained
from segloop.serving.loading import SingleFlight
from segloop.serving.pretrained import pretrained_state
from segloop.settings import Settings
from segloop.web.ui.data import ProjectLoader
from tests.publisher import publisher
from tests.toys import BRUSH, ToyImage, half_red_half_blue

PROJECT = "1.1795382829"
CAR = BRUSH.replace("Road", "Car")
LABELS = {"Car": (), "Zeppelin": ()}


@pytest.fixture(autouse=True)
def _home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))


def settings_of(tmp_path: Path, **values: object) -> Settings:
    given = {
        "weights": "coco",
        "weights_url": "http://127.0.0.1:9",
        "engine": "torch",
        "device": "cpu",
        "input_size": 64,
    }
    return Settings(_env_file=None, data_dir=tmp_path / "data", **{**given, **values})  # type: ignore[arg-type]


def models_of(settings: Settings) -> PretrainedModels:
    return PretrainedModels(settings, PredictionCache(0), SingleFlight())


def save(path: Path, channel: int) -> None:
    """Weights of a network with channels of its own, one of which it sees everywhere."""
    network = build_network("deeplabv3_resnet50", 3, 16)
    with torch.no_grad():
        network.classifier[-1].weight.zero_()  # type: ignore[index, union-attr, operator]
        network.classifier[-1].bias.copy_(torch.eye(3)[channel] * 5)  # type: ignore[index, union-attr, operator]
    torch.save({f"module.{key}": value for key, value in network.state_dict().items()}, path)


def test_without_internet_every_place_says_the_same(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    settings = settings_of(tmp_path)
    told = pretrained_state(settings)
    assert "the weights coco are not on this machine" in told.problem
    registry = open_registry(settings)
    registry.write_json(PROJECT, "project.json", {"project": PROJECT, "label_config": CAR})
    models = ServedModels(registry, settings)
    models.preload()
    models._pretrained.look_if_due()
    assert told.sentence in caplog.text

    def no_queue() -> Jobs:
        raise QueueUnavailable("there is none")

    backend = Backend(settings, registry, models, None, no_queue)  # type: ignore[arg-type]
    answer = backend.setup(parse_setup({"project": PROJECT, "schema": CAR, "extra_params": None}))
    assert (answer["model_version"], answer["warning"]) == (UNTRAINED, told.sentence)
    [error, *_] = [text for text in ProjectLoader(backend, settings).project(PROJECT).errors if "coco" in text]
    assert told.sentence in error
    finding = machine.untrained(settings, CAR, UNTRAINED)
    assert (finding.status, finding.fix) == ("failure", told.fix)
    assert told.problem in finding.text
    backend.close()


def test_predict_tells_the_reason_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from click.testing import CliRunner

    monkeypatch.chdir(tmp_path)
    (tmp_path / "street.png").write_bytes(b"x")
    environment = {"SEGLOOP_WEIGHTS": "coco", "SEGLOOP_WEIGHTS_URL": "http://127.0.0.1:9"}
    done = CliRunner(env=environment).invoke(main, ["predict", "street.png", "--out", "out"])
    assert done.exit_code == 1
    assert "the weights coco are not on this machine" in done.output


@pytest.mark.slow
def test_an_installation_without_torch_cannot_serve_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with publisher(tmp_path / "published") as published:
        published.publish(b"weights", monkeypatch)
        settings = settings_of(tmp_path, weights_url=published.url)
        assert not pretrained_state(settings).problem
        monkeypatch.setattr("segloop.installation.find_spec", lambda name: None)
        assert missing_extra("worker")
        state = pretrained_state(settings)
    assert "needs segloop[worker]" in state.problem
    assert "pip install 'segloop[worker]'" in state.fix


@pytest.mark.slow
def test_weights_that_come_back_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = settings_of(tmp_path, weights=str(tmp_path / "mine.pth"), weights_classes="car,sky")
    models = models_of(settings)
    assert models.model(PROJECT, LABELS) is None
    assert not models.answers(LABELS)
    assert "no such file" in models.state.sentence
    save(tmp_path / "mine.pth", 1)
    models.look_if_due()
    assert models.state.problem, "not at every look"
    monkeypatch.setattr(pretrained, "LOOK_AGAIN_S", 0.0)
    models.look_if_due()
    assert models.answers(LABELS)
    model = models.model(PROJECT, LABELS)
    assert model is not None
    assert model.classes == ("Car",)
    assert (model.segment(ToyImage(half_red_half_blue())).class_map == 1).all()  # type: ignore[arg-type]


@pytest.mark.slow
def test_another_file_of_the_same_name_is_another_version(tmp_path: Path) -> None:
    file = tmp_path / "mine.pth"
    save(file, 1)
    (tmp_path / "mine.json").write_text('["car", "sky"]')
    models = models_of(settings_of(tmp_path, weights=str(file)))
    first = models.model(PROJECT, LABELS)
    assert first is not None
    assert models.model(PROJECT, LABELS).engine is first.engine  # type: ignore[union-attr]
    save(file, 2)
    os.utime(file, ns=(1, 1))
    second = models.model(PROJECT, LABELS)
    assert second is not None
    assert first.version != second.version == models.version
    image = ToyImage(half_red_half_blue())
    assert [(model.segment(image).class_map == 1).all() for model in (first, second)] == [True, False]  # type: ignore[arg-type]


@pytest.mark.slow
def test_what_is_wrong_with_a_file_stays_said_until_it_is_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pretrained, "LOOK_AGAIN_S", 0.0)
    file = tmp_path / "mine.pth"
    save(file, 1)
    models = models_of(settings_of(tmp_path, weights=str(file), weights_classes="car"))
    assert models.model(PROJECT, LABELS) is None
    assert "its head has 3 channels, and 1 names are given" in models.state.problem
    models.look_if_due()
    assert not models.answers(LABELS)
