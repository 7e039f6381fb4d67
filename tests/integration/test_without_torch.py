"""Pretrained weights, served by a process that never loads torch."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
import torch
from safetensors.torch import save_file

from demo.stack import clean_environment
from segloop.network.voc_classes import VOC_CLASSES
from segloop.network.weights import weights_name
from segloop.settings import Settings
from tests.exports import ROOT, body_of, steadfast

# exports whole ResNet-50s, half a minute each on an idle machine of 2 cores
pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

SERVER = """
import json, sys, time
from segloop.backend import Backend
from segloop.errors import Busy
from segloop.payloads import parse_predict
from segloop.settings import load_settings

backend = Backend.from_settings(load_settings(env_file=None))
body = json.loads(sys.stdin.read())
answers = []
while len(answers) < 2:
    try:
        answer = backend.predict(parse_predict(body))
    except Busy as busy:  # a conversion takes longer than a request has, where the cores are taken: as it says, again
        time.sleep(busy.retry_after_s)
    else:
        if all(answer["results"]):
            answers.append(answer)
        else:  # the request's time was over before the network had run
            time.sleep(0.5)
backend.close()
foreign = ("torch", "torchvision", "label_studio_sdk", "onnx", "onnxruntime", "safetensors", "moto")
print(json.dumps({"answers": answers, "foreign": [name for name in foreign if name in sys.modules]}))
"""


@pytest.mark.parametrize(("arch", "suffix"), [("deeplabv3_resnet50", ".safetensors"), ("fcn_resnet50", ".pth")])
def test_pretrained_weights_are_served_by_a_process_without_torch(tmp_path, redis_url, arch, suffix):
    weights = tmp_path / f"mine{suffix}"
    state = steadfast(1 + VOC_CLASSES.index("car"), 1 + len(VOC_CLASSES), arch).state_dict()
    if suffix == ".pth":
        torch.save(state, weights)
    else:
        save_file(state, weights)
    given = {"data_dir": tmp_path / "data", "weights": weights, "arch": arch, "engine": "auto", "device": "cpu"}
    given |= {"redis_url": redis_url, "input_size": 64}
    done = subprocess.run(
        [sys.executable, "-c", SERVER],
        cwd=ROOT,
        env=clean_environment() | {f"SEGLOOP_{name.upper()}": str(value) for name, value in given.items()},
        input=json.dumps(body_of(("Car", "Person", "Zeppelin"))),
        capture_output=True,
        text=True,
        timeout=800,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    told = json.loads(done.stdout)
    assert told["foreign"] == []
    for answer in told["answers"]:
        [result] = answer["results"]
        assert (
            answer["model_version"]
            == result["model_version"]
            == weights_name(Settings(_env_file=None, weights=str(weights), arch=arch))
        )
        assert [item["value"]["brushlabels"] for item in result["result"]] == [["Car"]]
        assert result["score"] > 0.8
