"""Promotions under load: a real server, real ResNet-50s, people opening tasks all the while."""

from __future__ import annotations

import base64
import threading
import time
from pathlib import Path

import cv2
import pytest

from demo.stack import RunningSegloop
from segloop.registry import open_registry
from segloop.settings import Settings
from tests.toys import BRUSH, half_red_half_blue, toy_info

PROJECT = "1.1795382829"
SWAPS = 10
#: Between two requests of one person, in seconds.
PAUSE_S = 0.05


@pytest.fixture(scope="module")
def bundles(tmp_path_factory) -> dict[str, tuple[Path, dict]]:
    """A network that finds nothing but Road, and one that finds nothing but Sky: an answer shows which one gave it."""
    import torch

    from segloop.network.network import build_network, save_bundle
    from segloop.training.export import export

    made = {}
    torch.manual_seed(0)
    network = build_network("fcn_resnet50", 3, 16)
    for channel, label in ((1, "Road"), (2, "Sky")):
        with torch.no_grad():
            network.classifier[-1].weight.zero_()
            network.classifier[-1].bias.copy_(torch.eye(3)[channel] * 5)
        folder = tmp_path_factory.mktemp(label)
        info = toy_info(arch="fcn_resnet50")
        save_bundle(folder, network, info)
        export(folder, None, folder)
        made[label] = (folder, info)
    return made


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2])
def test_ten_swaps_cost_no_request_and_mix_no_versions(tmp_path, bundles, workers):
    registry = open_registry(Settings(data_dir=tmp_path / "data"))
    label_of = {registry.add(PROJECT, folder, info): label for label, (folder, info) in bundles.items()}
    versions = list(label_of)
    registry.promote(PROJECT, versions[0], "first")
    image = cv2.imencode(".png", half_red_half_blue(48, 64))[1].tobytes()
    task = {"id": 1, "data": {"image": "data:image/png;base64," + base64.b64encode(image).decode()}}
    body = {"tasks": [task, task], "project": PROJECT, "label_config": BRUSH, "params": {}}
    setup = {"project": PROJECT, "schema": BRUSH}
    failures: list[str] = []
    answered: list[str] = []
    stop = threading.Event()

    with RunningSegloop(tmp_path, weights="none", input_size=64, swap_poll_s=0.2, workers=workers) as segloop:

        def open_tasks() -> None:
            with segloop.client() as client:
                # a pause as between two tasks: without one, these threads take the cores that the swaps need
                while not stop.wait(PAUSE_S):
                    response = client.post("/predict", json=body)
                    if response.status_code != 200:
                        failures.append(response.text)
                        continue
                    answer = response.json()
                    version = answer["model_version"]
                    told = {result["model_version"] for result in answer["results"]}
                    seen = {
                        region["value"]["brushlabels"][0] for result in answer["results"] for region in result["result"]
                    }
                    if told != {version} or seen != {label_of[version]}:
                        failures.append(f"{version}: told {told}, seen {seen}")
                    answered.append(version)

        def served_everywhere(version: str) -> bool:
            # each connection may reach another process
            answers = []
            for _ in range(6 * workers):
                with segloop.client() as client:
                    answers.append(client.post("/setup", json=setup).json()["model_version"])
            return set(answers) == {version}

        threads = [threading.Thread(target=open_tasks) for _ in range(4)]
        with segloop.client() as client:
            assert client.post("/predict", json=body).status_code == 200
        for thread in threads:
            thread.start()
        slowest = 0.0
        for swap in range(1, SWAPS + 1):
            version = versions[swap % 2]
            registry.promote(PROJECT, version, f"swap {swap}")
            promoted = time.monotonic()
            while not served_everywhere(version):
                assert time.monotonic() - promoted < 60, f"swap {swap} never came"
            slowest = max(slowest, time.monotonic() - promoted)
        stop.set()
        for thread in threads:
            thread.join()
    assert failures == []
    assert set(answered) == set(versions)
    assert len(answered) > SWAPS
    print(f"{len(answered)} answers across {SWAPS} swaps; the slowest swap took {slowest:.1f} s")
