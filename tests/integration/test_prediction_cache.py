"""The prediction cache: what is computed once, and what is never served again."""

from __future__ import annotations

from segloop.masks import decode_rle
from tests.gated_world import PROJECT, click, labels_of, make_world, sizes_of
from tests.waiting import PATIENCE_S

__all__ = ["make_world"]


def test_the_same_image_under_another_address_runs_no_pass(make_world):
    world = make_world()
    world.promote()
    first = world.predict("/data/upload/1/40x30.png")
    passes = world.passes()
    second = world.predict("/data/upload/2/copy-40x30.png?signature=1")
    assert world.passes() == passes
    assert [item["value"] for item in first.json["results"][0]["result"]] == [
        item["value"] for item in second.json["results"][0]["result"]
    ]
    world.predict("/data/41x30.png")
    assert world.passes() == passes + 1


def test_the_same_image_many_times_in_one_batch_runs_one_pass(make_world):
    world = make_world()
    world.promote()
    world.predict("/data/20x30.png")
    passes = world.passes()
    response = world.predict(*["/data/40x30.png"] * 12)
    assert sizes_of(response) == [40] * 12
    assert world.passes() == passes + 1


def test_a_click_after_a_prediction_runs_no_pass(make_world):
    world = make_world()
    world.promote()
    world.predict("/data/40x30.png")
    passes = world.passes()
    for y, inside in ((20, slice(0, 13)), (30, slice(0, 13))):
        [result] = world.predict("/data/40x30.png", context=click(50, y)).json["results"]
        [region] = result["result"]
        assert region["value"]["brushlabels"] == ["Road"]
        assert decode_rle(region["value"]["rle"], 30, 40)[inside].all()
    assert world.passes() == passes


def test_without_a_cache_each_request_runs_a_pass(make_world):
    world = make_world(prediction_cache_bytes=0)
    world.promote()
    world.predict("/data/40x30.png")
    passes = world.passes()
    world.predict("/data/40x30.png")
    assert world.passes() == passes + 1


def test_after_a_swap_the_old_versions_map_is_never_served(make_world):
    world = make_world()
    first = world.promote(seed=1)
    red_above = world.predict("/data/40x30.png")
    assert (red_above.json["model_version"], road_is_above(red_above)) == (first, True)

    # a pass of the old version is under way while the new one is promoted
    engine = world.engines[first]
    while engine.begun.acquire(blocking=False):
        pass
    engine.gate.clear()
    under_way = world.ask("/data/50x30.png")
    assert engine.begun.acquire(timeout=PATIENCE_S)
    second = world.promote(seed=2)
    swap = world.pool.submit(world.models.refresh)
    engine.gate.set()
    swap.result(PATIENCE_S)
    assert (under_way.result(PATIENCE_S).json["model_version"], road_is_above(under_way.result())) == (first, True)

    for uri in ("/data/40x30.png", "/data/50x30.png"):
        for context in (None, click(50, 20)):
            passes = world.passes()
            answer = world.predict(uri, context=context)
            assert answer.json["model_version"] == answer.json["results"][0]["model_version"] == second
            if context is None:
                assert world.passes() == passes + 1
                assert road_is_above(answer) is False
            else:
                assert labels_of(answer) == [["Road"]]
                assert world.passes() == passes


def test_after_a_rollback_the_first_versions_map_is_served_again(make_world):
    world = make_world()
    first = world.promote(seed=1)
    world.predict("/data/40x30.png")
    world.promote(seed=2)
    world.models.refresh()
    assert road_is_above(world.predict("/data/40x30.png")) is False
    world.registry.rollback(PROJECT, "worse")
    world.engines.clear()
    world.models.refresh()
    passes = world.passes()
    answer = world.predict("/data/40x30.png")
    assert (answer.json["model_version"], road_is_above(answer)) == (first, True)
    assert world.passes() == passes, "it is the same version, and its answer is still known"


def road_is_above(response) -> bool:
    [result] = response.json["results"]
    [road] = [item for item in result["result"] if item["value"]["brushlabels"] == ["Road"]]
    mask = decode_rle(road["value"]["rle"], road["original_height"], road["original_width"])
    assert mask[:13].all() != mask[17:].all()
    return bool(mask[:13].all())
