"""The served model: which version answers, and its replacement while requests run."""

from __future__ import annotations

import gc
import threading
import time
import weakref
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest

from segloop.errors import DeadlinePassed, EngineError, ModelUnavailable, RegistryError
from segloop.registry import Registry, open_registry
from segloop.registry.generations import GenerationIndex
from segloop.registry.store import FolderStore
from segloop.serving import UNTRAINED, Batcher, PredictionCache, ServedModel, ServedModels
from segloop.serving.swap import RECHECK_S
from segloop.settings import Settings
from tests.toys import ColourEngine, ToyImage, half_red_half_blue, toy_bundle, toy_loader, toy_model
from tests.waiting import PATIENCE_S, until

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
    assert segmentation.class_map.shape == (31, 47)
    assert segmentation.class_map.dtype == np.uint8
    assert (segmentation.class_map[:12] == 1).all()
    assert (segmentation.class_map[19:] == 2).all()
    assert 0 <= segmentation.confidence_grid.min() <= segmentation.confidence_grid.max() <= 1


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


@pytest.mark.slow
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
    until(lambda: models.version(PROJECT, LABELS) == second)
    models.stop()
    assert models.version(PROJECT, LABELS) == second


def test_while_the_store_is_away_the_last_champion_answers(registry, settings, tmp_path, monkeypatch):
    version = promote(registry, tmp_path, 1)
    models = ServedModels(registry, settings.model_copy(update={"swap_poll_s": 1e-6}), toy_loader)
    assert models.version(PROJECT, LABELS) == version
    (settings.data_dir / "store" / PROJECT / "champion.json").write_text("{")
    assert models.version(PROJECT, LABELS) == version
    assert models.current(PROJECT, LABELS).version == version


@pytest.mark.slow
@pytest.mark.parametrize("error", [RuntimeError("out of memory"), OSError("disk full"), EngineError("no export")])
def test_a_project_that_fails_in_an_unforeseen_way_keeps_its_model_and_costs_the_others_nothing(
    registry, settings, tmp_path, caplog, error
):
    projects = ("1.1", "2.1", "3.1")
    first = {project: promote(registry, tmp_path, 1, project) for project in projects}
    broken = []

    def load(registry, project, version, settings):
        if version in broken and project == "2.1":
            raise error
        return toy_model(version, project)

    models = ServedModels(registry, settings, load)
    for project in projects:
        models.current(project, LABELS)
    second = {project: promote(registry, tmp_path, 2, project) for project in projects}
    broken += second.values()
    models.refresh()
    served = {project: models.current(project, LABELS).version for project in projects}
    assert served == {**second, "2.1": first["2.1"]}
    assert f"project 2.1: still serving {first['2.1']}" in caplog.text


def test_a_champion_that_fails_at_the_start_neither_stops_the_watcher_nor_the_others(
    registry, settings, tmp_path, caplog
):
    settings = Settings.model_validate(settings.model_dump() | {"swap_poll_s": 0.05})
    for project in ("1.1", "2.1"):
        promote(registry, tmp_path, 1, project)

    def load(registry, project, version, settings):
        if project == "1.1":
            raise RuntimeError("out of memory")
        return toy_model(version, project)

    models = ServedModels(registry, settings, load)
    models.start()
    until(lambda: "2.1" in models._models)
    second = promote(registry, tmp_path, 2, "2.1")
    until(lambda: models.version("2.1", LABELS) == second)
    models.stop()
    assert "project 1.1: " in caplog.text


def test_a_model_that_loads_but_does_not_run_is_never_served(registry, settings, tmp_path):
    class Broken(ColourEngine):
        def logits(self, batch):
            raise RuntimeError("unsupported layer")

    first = promote(registry, tmp_path, 1)

    def load(registry, project, version, settings):
        model = toy_model(version, project)
        return model if version == first else replace(model, batcher=Batcher(Broken()))

    models = ServedModels(registry, settings, load)
    models.current(PROJECT, LABELS)
    promote(registry, tmp_path, 2)
    models.refresh()
    assert models.current(PROJECT, LABELS).version == first
    assert models.current(PROJECT, LABELS).segment(ToyImage(half_red_half_blue())).class_map.any()


def test_requests_do_not_queue_up_for_a_conversion_that_just_failed(registry, settings, tmp_path):
    promote(registry, tmp_path, 1)
    tries = []

    def load(registry, project, version, settings):
        tries.append(version)
        raise EngineError("the export failed with status 1")

    models = ServedModels(registry, settings, load)
    with ThreadPoolExecutor(8) as pool:
        for answer in [pool.submit(models.current, PROJECT, LABELS) for _ in range(8)]:
            with pytest.raises(ModelUnavailable, match=r"the export failed with status 1$"):
                answer.result(PATIENCE_S)
    assert len(tries) == 1


def test_a_store_that_was_away_is_asked_again_at_once(registry, settings, tmp_path):
    promote(registry, tmp_path, 1)
    failures = [RegistryError("the store is away")]

    def load(registry, project, version, settings):
        if failures:
            raise failures.pop()
        return toy_model(version, project)

    models = ServedModels(registry, settings, load)
    with pytest.raises(ModelUnavailable, match="away"):
        models.current(PROJECT, LABELS)
    assert models.current(PROJECT, LABELS) is not None


# -- the prediction cache


def test_one_answer_is_kept_for_all_that_it_depends_on_and_nothing_else():
    engine = ColourEngine(2)
    model = replace(toy_model(), batcher=Batcher(engine), cache=PredictionCache(10**6))
    image = ToyImage(half_red_half_blue())
    others = [
        replace(model, version="v2-toy"),
        replace(model, project="2"),
        replace(model, classes=("Sky", "Road")),
        replace(model, input_size=96),
        replace(model, long_side=128),
        replace(model, channels=((0,), (2,), (1,))),
    ]
    for passes, each in enumerate([model, *others], start=1):
        for _ in range(2):
            each.segment(ToyImage(image.pixels.copy()))
            assert len(engine.batches) == passes
    model.segment(ToyImage(half_red_half_blue(30, 41)))
    assert len(engine.batches) == 1 + len(others) + 1


def test_labels_that_come_to_mean_other_channels_are_not_answered_from_the_cache():
    """Two label configs may name a class alike and mean different classes of a pretrained network by it."""
    cache = PredictionCache(10**6)
    model = ServedModel("v", PROJECT, ("it",), 64, Batcher(ColourEngine(2)), channels=((0, 2), (1,)), cache=cache)
    other = replace(model, channels=((0, 1), (2,)))
    image = ToyImage(half_red_half_blue())
    assert model.segment(image).class_map[:12].all()
    assert not other.segment(image).class_map[:12].any()


def test_who_waits_for_another_requests_computation_does_not_inherit_its_deadline():
    cache = PredictionCache(10**6)
    kept = toy_model().segment(ToyImage(half_red_half_blue()))
    gate, began = threading.Event(), threading.Event()

    def out_of_time():
        began.set()
        assert gate.wait(PATIENCE_S)
        raise DeadlinePassed("mine has passed")

    with ThreadPoolExecutor(3) as pool:
        hasty = pool.submit(cache.get, "image", out_of_time, time.monotonic() - 1)
        assert began.wait(PATIENCE_S)
        patient = [
            pool.submit(cache.get, "image", lambda: kept, deadline) for deadline in (None, time.monotonic() + 60)
        ]
        gate.set()
        with pytest.raises(DeadlinePassed, match="mine has passed"):
            hasty.result(PATIENCE_S)
        for answer in patient:
            assert answer.result(PATIENCE_S) is kept


class CountingStore(FolderStore):
    """A folder that notes what is asked of it."""

    def __init__(self, root):
        super().__init__(root)
        self.calls = []

    def read(self, key):
        self.calls.append(key)
        return super().read(key)


def test_a_quiet_server_makes_one_call_whatever_it_serves(settings, tmp_path, monkeypatch):
    store = CountingStore(tmp_path / "store")
    registry = Registry(store, tmp_path / "cache")
    projects = [f"{number}.1" for number in range(1, 7)]
    for project in projects:
        promote(registry, tmp_path, 1, project)
    models = ServedModels(registry, settings.model_copy(update={"served_models": 6}), toy_loader)
    for project in projects:
        models.current(project, LABELS)
    models.refresh()
    store.calls.clear()
    for _ in range(3):
        models.refresh()
    assert store.calls == ["champions.json"] * 3
    second = promote(registry, tmp_path, 2, projects[3])
    store.calls.clear()
    models.refresh()
    assert [key for key in store.calls if key.endswith("/champion.json")] == [f"{projects[3]}/champion.json"]
    assert models.served()[projects[3]] == second

    # whoever promotes and dies before the index says so is found out all the same
    monkeypatch.setattr(GenerationIndex, "note", lambda self, project, generation: None)
    third = promote(registry, tmp_path, 3, projects[0])
    models.refresh()
    assert models.served()[projects[0]] != third
    now = time.monotonic() + RECHECK_S
    monkeypatch.setattr(time, "monotonic", lambda: now)
    models.refresh()
    assert models.served()[projects[0]] == third
