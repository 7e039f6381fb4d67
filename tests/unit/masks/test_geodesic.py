"""Distances along a picture: sweeps against the relaxing of every step."""

from __future__ import annotations

import numpy as np

from segloop.masks.geodesic import edge_costs, geodesic_distances


def relaxed(costs: tuple[np.ndarray, np.ndarray], seed: tuple[int, int]) -> np.ndarray:
    """The distances from a pixel, by relaxing every step until nothing changes."""
    across, down = costs
    distance = np.full((len(across), down.shape[1]), np.inf)
    distance[seed] = 0
    before = None
    while before is None or (distance != before).any():
        before = distance.copy()
        distance[:, 1:] = np.minimum(distance[:, 1:], distance[:, :-1] + across)
        distance[:, :-1] = np.minimum(distance[:, :-1], distance[:, 1:] + across)
        distance[1:] = np.minimum(distance[1:], distance[:-1] + down)
        distance[:-1] = np.minimum(distance[:-1], distance[1:] + down)
    return distance


def two_halves() -> np.ndarray:
    picture = np.full((20, 30, 3), 100, np.uint8)
    picture[:, 15:] = 160
    return picture


def test_a_step_costs_one_and_more_across_an_edge_however_dark_the_picture_is() -> None:
    across, down = edge_costs(two_halves(), 0.5)
    assert (np.delete(across, 14, axis=1) == 1).all()
    assert (across[:, 14] > 10).all()
    assert (down == 1).all()
    np.testing.assert_allclose(edge_costs(two_halves() // 4, 0.5)[0], across)


def test_an_even_picture_has_no_edges() -> None:
    across, down = edge_costs(np.full((4, 5, 3), 7, np.uint8), 2.0)
    assert (across == 1).all()
    assert (down == 1).all()


def test_distances_are_those_of_the_shortest_paths() -> None:
    picture, seed = two_halves(), (4, 3)
    costs = edge_costs(picture, 0.5)
    seeds = np.zeros((2, 20, 30), np.bool_)
    seeds[0][seed] = True
    found = geodesic_distances(seeds, costs)
    np.testing.assert_allclose(found[0], relaxed(costs, seed), atol=1e-2)
    assert np.isinf(found[1]).all()


def test_distances_are_near_the_shortest_in_any_picture_and_never_shorter() -> None:
    noise = np.random.default_rng(0).integers(0, 40, (40, 50, 3)).astype(np.uint8)
    costs = edge_costs(noise, 0.5)
    seeds = np.zeros((1, 40, 50), np.bool_)
    seeds[0, 20, 25] = True
    exact, [found] = relaxed(costs, (20, 25)), geodesic_distances(seeds, costs)
    assert (found >= exact - 1e-2).all()
    assert np.median(found / np.maximum(exact, 1)) < 1.1
