"""The served model: which version answers, and its replacement while requests run."""

from __future__ import annotations

import gc
import threading
import weakref

import numpy as np
import pytest

from segloop.errors import RegistryError
from segloop.registry import open_registry
from segloop.serving import UNTRAINED, Batcher, ServedModel, ServedModels
from segloop.settings import Settings
from tests.toys import ColourEngine, ToyImage, half_red_half_blue, toy_bundle, toy_loader, toy_model

PROJECT = "1.1795382829"
LABELS = {"Road": (), "Sky": ()}


@pytest.fixture
def registry(settings):
    return open_registry(settings)


def promote(registry, tmp_path, seed, project=PROJECT):
    folder, info = toy_bundle(tmp_path / f"{project}-{seed}", seed)
    version = registry.add(project, folder, info)
    registry.promote(project, version, "test")
    return version


def test_segment_gives_full_size_maps():
    segmentation = toy_model().segment(ToyImage(half_red_half_blue(31, 47)))
    assert segmentation.class_map.shape == segmentation.confidence.shape == (31, 47)
    assert segmentation.class_map.dtype == np.uint8
    assert (segmentation.class_map[:12] == 1).all()
    assert (segmentation.class_map[19:] == 2).all()
    assert 0 <= segmentation.confidence.min() <= segmentation.confidence.max() <= 1


def test_channels_merge_what_stands_for_one_class():
    # channels: 0 background, 1 red, 2 blue; the class takes both, so it is everywhere
    model = ServedModel("v", PROJECT, ("any",), 64, Batcher(ColourEngine(2)), channels=((0,), (1, 2)))
    assert (model.segment(ToyImage(half_red_half_blue())).class_map == 1).all()


def test_nothing_trained_nothing_served(registry, settings):
    models = ServedModels(registry, settings, toy_loader)
    assert models.version(PROJECT, LABELS) == UNTRAINED
    assert models.current(PROJECT, LABELS) is None


def test_a_promotion_replaces_the_model_and_frees_the_old_one_after_its_last_request(registry, settings, tmp_path):
    first = promote(registry, tmp_path, 1)
    models = ServedModels(registry, settings, toy_loader)
    in_flight = models.current(PROJECT, LABELS)
    assert in_flight.version == models.version(PROJECT, LABELS) == first
    second = promote(registry, tmp_path, 2)
    assert models.current(PROJECT, LABELS).version == first, "until the pointer is looked at"
    models.refresh()
    assert models.current(PROJECT, LABELS).version == models.version(PROJECT, LABELS) == second
    old_network = weakref.ref(in_flight.engine)
    assert old_network() is not None
    del in_flight
    gc.collect()
    assert old_network() is None


def test_a_version_that_cannot_be_loaded_leaves_the_old_one_answering(registry, settings, tmp_path, caplog):
    first = promote(registry, tmp_path, 1)
    broken = []
    tries = []

    def load(registry, project, version, settings):
        tries.append(version)
        if version in broken:
            raise RegistryError("its weights are not what version.json says")
        return toy_model(version, project)

    models = ServedModels(registry, settings, load)
    models.current(PROJECT, LABELS)
    broken.append(promote(registry, tmp_path, 2))
    models.refresh()
    models.refresh()
    assert models.current(PROJECT, LABELS).version == first
    assert tries == [first, broken[0]], "a broken version is not tried again at every poll"
    assert f"still serving {first}" in caplog.text
    third = promote(registry, tmp_path, 3)
    models.refresh()
    assert models.current(PROJECT, LABELS).version == third


def test_rollback_is_followed(registry, settings, tmp_path):
    first, second = promote(registry, tmp_path, 1), promote(registry, tmp_path, 2)
    models = ServedModels(registry, settings, toy_loader)
    assert models.current(PROJECT, LABELS).version == second
    registry.rollback(PROJECT, "worse")
    models.refresh()
    assert models.current(PROJECT, LABELS).version == first


def test_many_threads_load_a_model_once(registry, settings, tmp_path):
    promote(registry, tmp_path, 1)
    loads = []

    def load(registry, project, version, settings):
        loads.append(version)
        return toy_model(version, project)

    models = ServedModels(registry, settings, load)
    threads = [threading.Thread(target=models.current, args=(PROJECT, LABELS)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(loads) == 1


def test_only_so_many_projects_stay_in_memory(registry, settings, tmp_path):
    settings = settings.model_copy(update={"served_models": 2})
    models = ServedModels(registry, settings, toy_loader)
    for project in ("1.1", "2.1", "3.1"):
        promote(registry, tmp_path, 1, project)
    networks = [weakref.ref(models.current(project, LABELS).engine) for project in ("1.1", "2.1", "3.1")]
    gc.collect()
    assert [network() is not None for network in networks] == [False, True, True]
    assert models.current("1.1", LABELS) is not None


def test_the_watcher_follows_within_its_poll(registry, settings, tmp_path):
    settings = Settings.model_validate(settings.model_dump() | {"swap_poll_s": 0.05})
    promote(registry, tmp_path, 1)
    models = ServedModels(registry, settings, toy_loader)
    models.current(PROJECT, LABELS)
    models.start()
    second = promote(registry, tmp_path, 2)
    done = threading.Event()
    for _ in range(200):
        if models.version(PROJECT, LABELS) == second:
            break
        done.wait(0.05)
    models.stop()
    assert models.version(PROJECT, LABELS) == second


def test_while_the_store_is_away_the_last_champion_answers(registry, settings, tmp_path, monkeypatch):
    version = promote(registry, tmp_path, 1)
    models = ServedModels(registry, settings.model_copy(update={"swap_poll_s": 1e-6}), toy_loader)
    assert models.version(PROJECT, LABELS) == version
    (settings.data_dir / "store" / PROJECT / "champion.json").write_text("{")
    assert models.version(PROJECT, LABELS) == version
    assert models.current(PROJECT, LABELS).version == version
